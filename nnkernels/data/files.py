"""Datasets in files of the user's own: .csv, .npy, .npz. Nothing is ever unpickled."""

from __future__ import annotations

import array
import csv
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nnkernels.data import idx
from nnkernels.data.dataset import Dataset, FloatType
from nnkernels.data.tables import Task, from_parts, from_xy
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
        ".csv": load_csv,
        ".npy": load_npy,
        ".npz": load_npz,
    }
    loader = loaders.get(path.suffix.lower())
    if loader is None or not path.is_file():
        raise DatasetError(
            f"load: {str(path)!r} is not a folder of IDX files nor a file named "
            + ", ".join(f"*{suffix}" for suffix in loaders)
        )
    return loader


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


def load_npy(
    *,
    path: Path,
    dtype: FloatType,
    seed: int,
    target: int = -1,
    task: Task = "auto",
    test_fraction: float = 0.2,
) -> Dataset:
    """One table ``[rows, columns]`` in an .npy file; column ``target`` holds the targets.

    Raises:
        InputError: an option is wrong.
        DatasetError: the file cannot be used.
    """
    try:
        with path.open("rb") as file:
            table = _read_array(file, path.stat().st_size, str(path))
    except _DAMAGE as cause:
        raise _damaged(path, cause) from cause
    return _from_table(path.name, table, [], target, dtype, seed, task, test_fraction, ".npy file")


def load_csv(
    *,
    path: Path,
    dtype: FloatType,
    seed: int,
    target: int | str = -1,
    task: Task = "auto",
    test_fraction: float = 0.2,
) -> Dataset:
    """A comma-separated table of numbers in UTF-8; column ``target`` holds the targets.

    The first line is a header when none of its cells is a number. Blank lines are skipped.

    Raises:
        InputError: an option is wrong.
        DatasetError: the file cannot be used: a cell that is empty, no number, NaN or infinite, or
            a line of another length, is named with line and column.
    """
    if path.stat().st_size > LIMIT:
        raise DatasetError(f"{str(path)!r} is larger than {LIMIT} bytes")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, table = _parse_csv(csv.reader(file, strict=True), path.name)
    except (OSError, UnicodeError, csv.Error) as cause:
        raise DatasetError(f"cannot read {str(path)!r} as a CSV file: {cause}") from cause
    return _from_table(
        path.name, table, header, target, dtype, seed, task, test_fraction, ".csv file"
    )


def _from_table(
    name: str,
    table: NDArray[Any],
    header: list[str],
    target: int | str,
    dtype: FloatType,
    seed: int,
    task: Task,
    test_fraction: float,
    source: str,
) -> Dataset:
    if table.ndim != 2 or table.shape[1] < 2:
        raise DatasetError(
            f"{name}: a table of at least two columns is needed, got shape {table.shape}"
        )
    column = _target_column(name, target, table.shape[1], header)
    return from_xy(
        name,
        np.delete(table, column, axis=1),
        table[:, column],
        dtype=dtype,
        seed=seed,
        task=task,
        test_fraction=test_fraction,
        source=source,
    )


def _target_column(name: str, target: int | str, width: int, header: list[str]) -> int:
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


def _parse_csv(rows: Any, name: str) -> tuple[list[str], NDArray[np.float64]]:
    """Header (empty where there is none) and the numbers, from a ``csv.reader``."""
    filled = (row for row in rows if row)
    first = next(filled, None)
    if first is None:
        raise DatasetError(f"{name}: the file is empty")
    header = [] if any(map(_is_number, first)) else [cell.strip() for cell in first]
    width = len(first)
    values = array.array("d")
    for row in _chain_first(first, filled, skip=bool(header)):
        if len(row) != width:
            raise DatasetError(
                f"{name}: line {rows.line_num} has {len(row)} columns, the first line has {width}"
            )
        try:
            numbers = list(map(float, row))
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise _bad_cell(name, rows.line_num, row, header)
        values.extend(numbers)
    return header, np.asarray(values).reshape(-1, width)


def _chain_first(first: list[str], rest: Iterator[list[str]], *, skip: bool) -> Iterator[list[str]]:
    if not skip:
        yield first
    yield from rest


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
