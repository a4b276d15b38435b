"""What users hand to the trainer, checked once and brought into the model's form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.errors import DTypeError, InputError, LabelError, ShapeError
from nnkernels.nn.checks import as_finite, as_numeric
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
    array = as_numeric(what, x)
    if array.ndim != 2 or array.shape[1] != model.inputs:
        raise ShapeError(
            f"{what} must have shape (rows, {model.inputs}), got {array.shape}; "
            f"{_remedy(array, model.inputs)}"
        )
    return as_finite(what, array, model.dtype)


def _remedy(array: Array, inputs: int) -> str:
    """How features of another shape can fit the model, or a model them."""
    if array.ndim and math.prod(array.shape[1:]) == inputs:
        return f"x.reshape(len(x), {inputs}) gives it"
    if array.ndim == 2:
        return f"the model takes {inputs} columns: reshape, or build MLP([{array.shape[1]}, ...])"
    return f"the model takes {inputs} columns: give one row for each sample"


def _targets(model: Model, y: Any, what: str) -> Array:
    array = as_numeric(what, y)
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
    rows = as_finite(what, array, model.dtype)
    _check_domain(model.loss.target_interval, rows, what)
    return rows


def _check_domain(interval: sig.Interval | None, rows: Array, what: str) -> None:
    """Refuse targets that the loss is not defined for (a probability of 2)."""
    if interval is None or not len(rows) or interval.contains(rows.min(), rows.max(), {}):
        return
    low, high = interval.bounds({})
    row = int(np.argwhere((rows < low) | (rows > high))[0][0])
    raise LabelError(f"{what} must lie in {interval}, got {rows[row].tolist()} in row {row}")


def _labels(model: Model, array: Array, what: str) -> Array:
    bad = np.flatnonzero((array < 0) | (array >= model.outputs))
    if len(bad):
        raise LabelError(
            f"{what}[{bad[0]}] is {array[bad[0]]}; labels must lie in [0, {model.outputs}), the "
            f"model's outputs ({len(bad)} of {len(array)} do not)"
        )
    return np.require(array, np.int64, ["C", "A"])


def _one_hot(labels: Array, model: Model) -> Array:
    rows = np.zeros((len(labels), model.outputs), model.dtype)
    rows[np.arange(len(labels)), labels] = 1
    return rows
