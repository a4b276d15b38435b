"""Datasets in files of the user's own: .csv, .npy, .npz. Nothing is ever unpickled."""

from __future__ import annotations

import array
import csv
import itertools
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nnkernels.data import idx
from nnkernels.data.dataset import Dataset, FloatType
from nnkernels.data.tables import Task, check_finite, from_parts, from_xy
from nnkernels.errors import DatasetError, InputError, suggestion

LIMIT = 2**33  # bytes of one array, and of one CSV file
_PARTS = ("x_train", "y_train", "x_test", "y_test")
# What NumPy's header reader (which parses Python), zipfile and zlib raise on damaged files.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def loader_for(path: Path) -> Callable[..., Dataset]:
    """The function that loads ``path``, chosen by its suffix; for a folder, the IDX reader.

    Raises:
        DatasetError: it is no folder and its suffix is unknown, or it is no regular file.
    """
    if path.is_dir():
        return idx.load_folder
    loaders: dict[str, Callable[..., Dataset]] = {
        **dict.fromkeys(_READERS, load_table),
        ".npz": load_npz,
    }
    loader = loaders.get(path.suffix.lower())
    if loader is None or not path.is_file():
        raise DatasetError(
            f"load: {str(path)!r} is not a folder of IDX files nor a file named {_named(loaders)}"
        )
    return loader


def _named(suffixes: Iterable[str]) -> str:
    return ", ".join(f"*{suffix}" for suffix in suffixes)


def load_npz(
    *,
    path: Path,
    dtype: FloatType,
    seed: int,
    task: Task = "auto",
    test_fraction: float | None = None,
) -> Dataset:
    """``x_train, y_train, x_test, y_test`` of an .npz file; or ``x, y``, split by the seed.

    Raises:
        InputError: an option is wrong, or ``test_fraction`` is given for a set already split.
        DatasetError: the file cannot be used.
    """
    arrays = _read_npz(path)
    name, source = path.name, ".npz file"
    if set(_PARTS) <= set(arrays):
        if test_fraction is not None:
            raise InputError(f"load({name!r}): the file is split already; leave test_fraction out")
        return from_parts(name, arrays, dtype=dtype, task=task, source=source)
    if not {"x", "y"} <= set(arrays):
        raise DatasetError(
            f"{str(path)!r} must hold the arrays {', '.join(_PARTS)}, or x and y; "
            f"it holds {', '.join(sorted(arrays)) or 'none of them'}"
        )
    fraction = 0.2 if test_fraction is None else test_fraction
    return from_xy(
        name,
        arrays["x"],
        arrays["y"],
        dtype=dtype,
        seed=seed,
        task=task,
        test_fraction=fraction,
        source=source,
    )


class Table(NamedTuple):
    """Rows and columns of numbers, and the columns' titles; none where the file has no header."""

    values: NDArray[Any]
    header: list[str]


def load_table(
    *,
    path: Path,
    dtype: FloatType,
    seed: int,
    target: int | str = -1,
    task: Task = "auto",
    test_fraction: float = 0.2,
) -> Dataset:
    """One table in a .csv or .npy file; column ``target`` holds the targets.

    Raises:
        InputError: an option is wrong.
        DatasetError: the file cannot be used, see :func:`read_table`.
    """
    table = read_table(path)
    if table.values.shape[1] < 2:
        raise DatasetError(
            f"{path.name}: a table of at least two columns is needed, got shape "
            f"{table.values.shape}"
        )
    column = _target_column(path.name, target, table)
    check_finite(path.name, "the table", table.values, dtype)
    return from_xy(
        path.name,
        np.delete(table.values, column, axis=1),
        table.values[:, column],
        dtype=dtype,
        seed=seed,
        task=task,
        test_fraction=test_fraction,
        source=f"{path.suffix.lower()} file",
    )


def read_table(path: Path) -> Table:
    """The table in a .csv or .npy file, as it stands there.

    A .csv file is a comma-separated table of numbers in UTF-8, with a header if no cell of its
    first line is a number; blank lines are skipped. A .npy file holds one array [rows, columns].

    Raises:
        DatasetError: the file cannot be used: another suffix or rank, damage; in a .csv file a cell
            that is empty, no number, NaN or infinite, or a line of another length, is named with
            line and column.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DatasetError(f"{str(path)!r} is not a file named {_named(_READERS)}")
    return reader(path)


def _read_npy(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            values = _read_array(file, path.stat().st_size, str(path))
    except _DAMAGE as cause:
        raise _damaged(path, cause) from cause
    if values.ndim != 2:
        raise DatasetError(
            f"{path.name}: a table of rows and columns is needed, got shape {values.shape}"
        )
    return Table(values, [])


def _read_csv(path: Path) -> Table:
    if path.stat().st_size > LIMIT:
        raise DatasetError(f"{str(path)!r} is larger than {LIMIT} bytes")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse_csv(csv.reader(file, strict=True), path.name)
    except (OSError, UnicodeError, csv.Error) as cause:
        raise DatasetError(f"cannot read {str(path)!r} as a CSV file: {cause}") from cause


_READERS: dict[str, Callable[[Path], Table]] = {".csv": _read_csv, ".npy": _read_npy}


def _target_column(name: str, target: int | str, table: Table) -> int:
    width: int = table.values.shape[1]
    header = table.header
    if isinstance(target, str):
        if header.count(target) != 1:
            hint = suggestion(target, header) if header else " The file has no header."
            raise InputError(f"load({name!r}): no single column is named {target!r}.{hint}")
        return header.index(target)
    if isinstance(target, bool) or not isinstance(target, int) or not -width <= target < width:
        raise InputError(
            f"load({name!r}): target must be a column number from {-width} to {width - 1}"
            f"{' or a name of the header' if header else ''}, got {target!r}"
        )
    return target % width


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file that a dataset uses."""
    wanted = {f"{name}.npy": name for name in (*_PARTS, "x", "y")}
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename not in wanted:
                    continue
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DatasetError(f"{str(path)!r}: only deflate compression is supported")
                with archive.open(member) as file:
                    label = f"{path}:{member.filename}"
                    arrays[wanted[member.filename]] = _read_array(file, member.file_size, label)
    except _DAMAGE as cause:
        raise _damaged(path, cause) from cause
    return arrays


def _damaged(path: Path, cause: BaseException) -> DatasetError:
    if isinstance(cause, DatasetError):
        return cause
    return DatasetError(f"{str(path)!r} is damaged or no {path.suffix} file: {cause}")


def _read_array(file: IO[bytes], available: int, label: str) -> NDArray[Any]:
    """The array of one .npy stream of ``available`` bytes, which must end where the array ends."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DatasetError(f"{label!r}: .npy version {version} is not supported, only 1.0 and 2.0")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):  # on headers written by Python 2, or damaged
        shape, fortran, dtype = read_header(file)
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise DatasetError(f"{label!r} must hold numbers, got {dtype} of shape {shape}")
    size = math.prod(shape) * dtype.itemsize
    if size > min(available, LIMIT):
        raise DatasetError(
            f"{label!r}: shape {shape} of {dtype} needs {size} bytes; there are at most "
            f"{min(available, LIMIT)}"
        )
    data = file.read(size + 1)
    if len(data) != size:
        raise DatasetError(f"{label!r}: shape {shape} of {dtype} needs exactly {size} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _parse_csv(rows: Any, name: str) -> Table:
    """The table that a ``csv.reader`` gives."""
    filled = (row for row in rows if row)
    first = next(filled, None)
    if first is None:
        raise DatasetError(f"{name}: the file is empty; write one row of numbers to a line")
    header = [] if any(map(_is_number, first)) else [cell.strip() for cell in first]
    width = len(first)
    values = array.array("d")
    for row in filled if header else itertools.chain([first], filled):
        if len(row) != width:
            raise DatasetError(
                f"{name}: line {rows.line_num} has {_columns(len(row))}, the first line has "
                f"{width}; give every row the same number, and put text with commas in quotes"
            )
        try:
            numbers = list(map(float, row))
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise _bad_cell(name, rows.line_num, row, header)
        values.extend(numbers)
    return Table(np.asarray(values).reshape(-1, width), header)


def _columns(count: int) -> str:
    return f"{count} column" + ("" if count == 1 else "s")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _bad_cell(name: str, line: int, row: list[str], header: list[str]) -> DatasetError:
    column = next(
        i for i, cell in enumerate(row) if not _is_number(cell) or not math.isfinite(float(cell))
    )
    title = f" ({header[column]!r})" if header else ""
    cell = row[column].strip()
    found = f"{cell[:40]!r}, which is not a finite number" if cell else "nothing"
    return DatasetError(
        f"{name}: line {line}, column {column + 1}{title} holds {found}; "
        "remove or fill such rows, and turn words into numbers"
    )
