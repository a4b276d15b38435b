"""What users hand to the trainer, checked once and brought into the model's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.errors import (
    DTypeError,
    InputError,
    LabelError,
    NonFiniteError,
    ShapeError,
)
from nnkernels.nn.model import Model
from nnkernels.spec import Array


@dataclass(frozen=True, slots=True)
class Samples:
    """Features (n, inputs) and targets: labels (n) int64, or rows (n, outputs)."""

    x: Array
    y: Array

    @property
    def labels(self) -> bool:
        """Whether the targets are class labels."""
        return self.y.ndim == 1

    def __len__(self) -> int:
        return len(self.x)


def check_samples(model: Model, x: Any, y: Any, what: str) -> Samples:
    """Features and targets in the model's dtype, finite, of equal length, at least one row.

    Raises:
        ShapeError, DTypeError, NonFiniteError, LabelError: naming ``what``, the argument, the row.
    """
    features = check_features(model, x, f"{what}: X")
    targets = _targets(model, y, f"{what}: y")
    if len(features) != len(targets):
        raise ShapeError(f"{what}: X has {len(features)} rows, y has {len(targets)}")
    if len(features) == 0:
        raise InputError(f"{what}: X and y are empty; at least one row is needed")
    return Samples(features, targets)


def check_features(model: Model, x: Any, what: str) -> Array:
    """Features (n, inputs) in the model's dtype, C-contiguous, all finite."""
    array = _numeric(x, what)
    if array.ndim != 2 or array.shape[1] != model.inputs:
        raise ShapeError(f"{what} must have shape (rows, {model.inputs}), got {array.shape}")
    return _finite(np.ascontiguousarray(array, dtype=model.dtype), what)


def _numeric(value: Any, what: str) -> Array:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InputError(f"{what} has masked elements; fill them first: x.filled(...)")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} cannot become an array (ragged?): {error}") from error
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{what} has dtype {array.dtype}; real numbers are needed")
    return array


def _finite(array: Array, what: str) -> Array:
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise NonFiniteError(
            f"{what} is {array[at]} in row {at[0]}"
            + (f", column {at[1]}" if len(at) > 1 else "")
            + "; training needs finite numbers (remove or fill such rows)"
        )
    return array


def _targets(model: Model, y: Any, what: str) -> Array:
    array = _numeric(y, what)
    if array.dtype.kind in "iub" and array.ndim == 1 and model.outputs > 1:
        labels = _labels(model, array, what)
        return labels if model.loss.takes_labels else _one_hot(labels, model)
    if model.loss.takes_labels and array.ndim == 1 and model.outputs > 1:
        raise DTypeError(
            f"{what} has dtype {array.dtype}; {model.loss.name} takes integer labels (rows) or "
            f"probabilities (rows, {model.outputs}): y.astype('int64')"
        )
    if array.ndim == 1 and model.outputs == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != model.outputs:
        raise ShapeError(f"{what} must have shape (rows, {model.outputs}), got {array.shape}")
    return _finite(np.ascontiguousarray(array, dtype=model.dtype), what)


def _labels(model: Model, array: Array, what: str) -> Array:
    bad = np.flatnonzero((array < 0) | (array >= model.outputs))
    if len(bad):
        raise LabelError(
            f"{what}[{bad[0]}] is {array[bad[0]]}; labels must lie in [0, {model.outputs}), the "
            f"model's outputs ({len(bad)} of {len(array)} do not)"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def _one_hot(labels: Array, model: Model) -> Array:
    rows = np.zeros((len(labels), model.outputs), model.dtype)
    rows[np.arange(len(labels)), labels] = 1
    return rows
