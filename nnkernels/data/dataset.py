"""What every dataset is in the end: four NumPy arrays and where they came from."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnkernels.errors import DTypeError, InputError, LabelError, ShapeError

FloatType: TypeAlias = type[np.float32] | type[np.float64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test rows.

    Attributes:
        name: short name, for tables.
        x_train: features ``[rows, features]``, float32 or float64, C-contiguous.
        y_train: labels ``[rows]``, int64 in ``[0, classes)``; for regression targets
            ``[rows, outputs]`` of the dtype of the features.
        x_test: features of the test rows; there may be none.
        y_test: labels or targets of the test rows.
        classes: number of classes; ``None`` for regression.
        source: where the data came from, in words.

    Raises:
        ShapeError: an array has the wrong rank, or the parts do not fit together.
        DTypeError: an array has another dtype.
        LabelError: a label lies outside ``[0, classes)``.
    """

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    classes: int | None
    source: str

    def __post_init__(self) -> None:
        _check_features(self)
        _check_targets(self, "y_train", self.x_train)
        _check_targets(self, "y_test", self.x_test)

    @property
    def features(self) -> int:
        """Number of columns of ``x_train``."""
        return int(self.x_train.shape[1])

    def describe(self) -> str:
        """One line: name, rows, features, classes or targets, dtype, source."""
        targets = f"{self.y_train.shape[-1]} targets"
        kind = targets if self.classes is None else f"{self.classes} classes"
        return (
            f"{self.name}: {len(self.x_train)} train + {len(self.x_test)} test rows, "
            f"{self.features} features, {kind}, {self.x_train.dtype} ({self.source})"
        )


def _check_features(data: Dataset) -> None:
    for field in ("x_train", "x_test"):
        x = getattr(data, field)
        if x.ndim != 2 or not x.flags.c_contiguous or x.shape[1] != data.x_train.shape[1]:
            raise ShapeError(
                f"Dataset {data.name!r}: {field} must be C-contiguous [rows, features], with as "
                f"many features as x_train; got shape {x.shape}"
            )
        if x.dtype not in (np.float32, np.float64) or x.dtype != data.x_train.dtype:
            raise DTypeError(
                f"Dataset {data.name!r}: {field} must be float32 or float64, the same in both "
                f"parts; got {x.dtype}"
            )
    if not data.x_train.size:
        raise ShapeError(f"Dataset {data.name!r}: x_train is empty, shape {data.x_train.shape}")


def _check_targets(data: Dataset, field: str, x: NDArray[Any]) -> None:
    y = getattr(data, field)
    rank = 2 if data.classes is None else 1
    if y.ndim != rank or len(y) != len(x) or y.shape[1:] != data.y_train.shape[1:]:
        raise ShapeError(
            f"Dataset {data.name!r}: {field} must have {rank} dimensions and {len(x)} rows, "
            f"as many as the features; got shape {y.shape}"
        )
    dtype = data.x_train.dtype if data.classes is None else np.dtype(np.int64)
    if y.dtype != dtype or not y.flags.c_contiguous:
        raise DTypeError(
            f"Dataset {data.name!r}: {field} must be C-contiguous {dtype}; got {y.dtype}"
        )
    if data.classes is not None and y.size and not 0 <= y.min() <= y.max() < data.classes:
        raise LabelError(
            f"Dataset {data.name!r}: {field} holds labels from {y.min()} to {y.max()}, "
            f"expected 0 to {data.classes - 1}"
        )


def check_count(name: str, option: str, value: object, least: int, most: int = 10_000_000) -> None:
    """Refuse an ``option`` of dataset ``name`` that is no whole number from ``least`` to ``most``.

    Raises:
        InputError: it is not.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not least <= int(value) <= most:  # type: ignore[call-overload]
        raise InputError(
            f"load({name!r}): {option} must be a whole number from {least} to {most}, got {value!r}"
        )


def check_number(name: str, option: str, value: object, least: float, most: float) -> None:
    """Refuse an ``option`` of dataset ``name`` that is no number from ``least`` to ``most``.

    Raises:
        InputError: it is not (NaN never is).
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not least <= float(value) <= most:  # type: ignore[arg-type]
        raise InputError(
            f"load({name!r}): {option} must be a number from {least:g} to {most:g}, got {value!r}"
        )
