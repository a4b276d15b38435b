"""``load``: from a name or a path to a Dataset."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nnkernels.data import files, sources, tables
from nnkernels.data.dataset import Dataset, FloatType, check_count
from nnkernels.errors import DatasetError, DTypeError, InputError, suggestion, unknown
from nnkernels.files import as_path

Loader = Callable[..., Dataset]
_COMMON = ("path", "dtype", "seed")  # given to every loader that has such a parameter
_FLOATS: dict[np.dtype[Any], FloatType] = {
    np.dtype(np.float32): np.float32,
    np.dtype(np.float64): np.float64,
}


def names() -> list[str]:
    """The datasets that ``load`` knows by name."""
    return sorted(module.name for module in pkgutil.iter_modules(sources.__path__))


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str | np.dtype[Any] | FloatType = "float32",
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """Load a dataset by name, or from a file or folder.

    ===================  ==========================================================================
    ``"glyphs"``         28 x 28 images of digits, drawn by a seeded generator; options ``train=``
                         and ``test=``, the numbers of rows
    ``"spirals"``        interleaved spirals in the plane; ``train``, ``test``, ``classes``,
                         ``noise``, ``turns``
    ``"mnist"``          handwritten digits from ``directory=``, else from the folder in the
                         environment variable ``NNKERNELS_MNIST``, else downloaded once into the
                         user's cache (never with ``NNKERNELS_OFFLINE=1``); SHA-256 checked
    ``"digits"``         scikit-learn's 8 x 8 digits, when it is installed; ``test_fraction``
    a folder             four IDX files, plain or gzip, named like MNIST's; pixels / 255
    ``*.npz``            ``x_train, y_train, x_test, y_test``; or ``x, y``, split by the seed;
                         options ``task``, and for ``x, y`` ``test_fraction``
    ``*.npy``, ``*.csv``  one table, split by the seed; options ``target`` (column number, or name
                         in a CSV header; default the last), ``task``, ``test_fraction``
    ===================  ==========================================================================

    A name wins over a file of that name; write ``"./mnist"`` for the file. ``task`` is
    ``"classification"``, ``"regression"`` or ``"auto"``: classification when every target is a
    whole number from 0 to 9,999. Features of more than two dimensions are flattened to rows;
    values of .npz, .npy and .csv files are not scaled. Nothing is ever unpickled.

    Args:
        name_or_path: as above.
        dtype: of the features, ``"float32"`` or ``"float64"``.
        seed: of whatever the dataset draws or splits, 0 to 2**64 - 1; a dataset that comes in two
            fixed parts does not depend on it.
        options: as above; ``None`` means the default.

    Raises:
        UnknownNameError: neither a known name nor a file.
        InputError: an argument has a bad value, or the dataset has no such option.
        DTypeError: an argument has a bad type, or ``dtype`` is another one.
        DatasetError: the data cannot be read, fetched or verified.
        MissingExtraError: an optional library is needed.
    """
    label, loader = _find(name_or_path)
    check_count(label, "seed", seed, 0, 2**64 - 1)
    given = {option: value for option, value in options.items() if value is not None}
    parameters = inspect.signature(loader).parameters
    _check_options(label, given, [name for name in parameters if name not in _COMMON])
    common = {"path": Path(label), "dtype": _float_type("load", dtype), "seed": int(seed)}
    return loader(**given, **{name: common[name] for name in _COMMON if name in parameters})


def read_table(
    path: str | os.PathLike[str], *, dtype: str | np.dtype[Any] | FloatType = "float32"
) -> NDArray[Any]:
    """All rows and columns of a .csv or .npy file, in their order.

    Args:
        path: the file, as :func:`load` takes it; a header is left out.
        dtype: of the result, ``"float32"`` or ``"float64"``.

    Returns:
        An array [rows, columns], C-contiguous, all finite.

    Raises:
        DTypeError, InputError: ``path`` is no path, or ``dtype`` is another one.
        DatasetError: the file cannot be used.
    """
    file, kind = as_path("read_table", path), _float_type("read_table", dtype)
    if not _exists(str(file)):
        raise _missing("read_table", str(file))
    return tables.numbers(file.name, "the table", files.read_table(file).values, kind)


def _check_options(label: str, given: Iterable[str], own: list[str]) -> None:
    for option in given:
        if option not in own:
            takes = suggestion(option, own) if own else " It takes none."
            raise InputError(f"load({label!r}): there is no option {option!r} here.{takes}")


def _find(name_or_path: str | os.PathLike[str]) -> tuple[str, Loader]:
    """What to call the dataset in messages, and the function that loads it."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise DTypeError(
            f"load: name_or_path must be a str or os.PathLike, got {type(name_or_path).__name__}"
        )
    label = os.fsdecode(name_or_path)
    if name_or_path in names():
        module = importlib.import_module(f"{sources.__name__}.{label}")
        return label, cast(Loader, module.load)
    if label and _exists(label):
        return label, files.loader_for(Path(label))
    if isinstance(name_or_path, os.PathLike) or os.sep in label or Path(label).suffix:
        raise _missing("load", label)
    raise unknown("dataset", label, names())


def _missing(function: str, path: str) -> DatasetError:
    return DatasetError(
        f"{function}: there is no file or folder {path!r}; check the spelling, or give a dataset's "
        f"name ({', '.join(names())})"
    )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, a NUL inside
        return False


def _float_type(function: str, dtype: object) -> FloatType:
    try:
        return _FLOATS[np.dtype(dtype)]  # type: ignore[call-overload]
    except (TypeError, ValueError, KeyError):
        raise DTypeError(f"{function}: dtype must be float32 or float64, got {dtype!r}") from None
