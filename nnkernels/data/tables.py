"""From tables of numbers to a Dataset: targets, classes, splitting."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnkernels.data import draws
from nnkernels.data.dataset import Dataset, FloatType, check_number
from nnkernels.errors import DatasetError, InputError

Task = Literal["auto", "classification", "regression"]
_TASKS = ("auto", "classification", "regression")
_MOST_CLASSES = 10_000


def from_xy(
    name: str,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    dtype: FloatType,
    seed: int,
    task: Task,
    test_fraction: float,
    source: str,
) -> Dataset:
    """Split the rows of ``x`` and ``y`` at random into a training and a test part.

    ``test_fraction`` of the rows, rounded, but at least one row in each part, go to the test part;
    with 0 it stays empty.

    Raises:
        InputError: ``task`` or ``test_fraction`` has a bad value.
        DatasetError: the arrays cannot be used.
    """
    check_number(name, "test_fraction", test_fraction, 0, 1)
    _check_pair(name, "x", x, "y", y)
    for field, array in (("x", x), ("y", y)):  # before the rows change places
        check_finite(name, field, _rows(array), dtype)
    if task == "classification" and not _is_labels(_one_column(y)):
        raise _no_labels(name, {"y": _one_column(y)})
    count = len(x)
    if count < 2 and test_fraction:
        raise DatasetError(
            f"{name}: {count} rows cannot be split; test_fraction=0 keeps all for training"
        )
    order = draws.permutation(seed, 0, count)
    cut = min(max(round(test_fraction * count), 1), count - 1) if test_fraction else 0
    test, train = order[:cut], order[cut:]
    parts = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    return from_parts(name, parts, dtype=dtype, task=task, source=f"{source}, split by seed {seed}")


def from_parts(
    name: str, parts: dict[str, NDArray[Any]], *, dtype: FloatType, task: Task, source: str
) -> Dataset:
    """A Dataset of the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Raises:
        InputError: ``task`` is unknown.
        DatasetError: the arrays cannot be used: dtype, rank, row counts, NaN or infinity.
    """
    if task not in _TASKS:
        raise InputError(f"load({name!r}): task must be one of {', '.join(_TASKS)}, got {task!r}")
    for part in ("train", "test"):
        _check_pair(name, f"x_{part}", parts[f"x_{part}"], f"y_{part}", parts[f"y_{part}"])
    x_train = numbers(name, "x_train", _rows(parts["x_train"]), dtype)
    x_test = numbers(name, "x_test", _rows(parts["x_test"]), dtype)
    if x_train.shape[1] != x_test.shape[1] or not x_train.size:
        raise DatasetError(
            f"{name}: x_train {x_train.shape} and x_test {x_test.shape} must have the same number "
            "of features, and x_train at least one row and one column"
        )
    ys = {field: _one_column(parts[field]) for field in ("y_train", "y_test")}
    labels = task != "regression" and all(map(_is_labels, ys.values()))
    if task == "classification" and not labels:
        raise _no_labels(name, ys)
    classes = int(max(y.max() for y in ys.values() if y.size)) + 1 if labels else None
    targets = {
        field: y.astype(np.int64) if labels else numbers(name, field, _rows(y), dtype)
        for field, y in ys.items()
    }
    if targets["y_train"].shape[1:] != targets["y_test"].shape[1:]:
        raise DatasetError(f"{name}: y_train and y_test differ in their number of columns")
    return Dataset(name, x_train, x_test=x_test, classes=classes, source=source, **targets)


def _check_pair(name: str, x_name: str, x: NDArray[Any], y_name: str, y: NDArray[Any]) -> None:
    for field, array, least, most in ((x_name, x, 2, 32), (y_name, y, 1, 2)):
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise DatasetError(
                f"{name}: {field} must hold integers or floats of at most 64 bits, "
                f"got dtype {array.dtype}"
            )
        if not least <= array.ndim <= most:
            raise DatasetError(
                f"{name}: {field} must have at least {least} and at most {most} dimensions, "
                f"got shape {array.shape}"
            )
    if len(x) != len(y):
        raise DatasetError(
            f"{name}: {x_name} has {len(x)} rows and {y_name} {len(y)}; each row needs one target"
        )


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """``array`` with all dimensions after the first in one; that of a column is 1."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def numbers(name: str, field: str, table: NDArray[Any], dtype: FloatType) -> NDArray[Any]:
    """``table`` [rows, columns] in ``dtype``, C-contiguous and finite.

    Raises:
        DatasetError: a number is not finite, or not in ``dtype``; it is named with row and column.
    """
    check_finite(name, field, table, dtype)
    return np.ascontiguousarray(table, dtype=dtype)


def check_finite(name: str, field: str, table: NDArray[Any], dtype: FloatType) -> None:
    """Refuse a number in ``table`` [rows, columns] that is not finite in ``dtype``.

    Raises:
        DatasetError: naming row and column of the first.
    """
    if table.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(table.astype(dtype, copy=False))
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise DatasetError(
            f"{name}: {field} holds {table[row, column]} in row {row}, column {column} (from 0), "
            f"not a finite {np.dtype(dtype)}; remove or replace such rows"
        )


def _one_column(y: NDArray[Any]) -> NDArray[Any]:
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _bad_labels(y: NDArray[Any]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        bad: NDArray[np.bool_] = ~((y >= 0) & (y < _MOST_CLASSES) & (np.floor(y) == y))
    return bad


def _is_labels(y: NDArray[Any]) -> bool:
    return y.ndim == 1 and not _bad_labels(y).any()


def _no_labels(name: str, ys: dict[str, NDArray[Any]]) -> DatasetError:
    field, y = next((field, y) for field, y in ys.items() if not _is_labels(y))
    found = f"shape {y.shape}"
    if y.ndim == 1:
        row = int(np.argmax(_bad_labels(y)))
        found = f"{y[row]} in row {row} (from 0)"
    return DatasetError(
        f"{name}: {field} must hold one whole number from 0 to {_MOST_CLASSES - 1} per row for "
        f"classification, got {found}; task='regression' takes any numbers"
    )
