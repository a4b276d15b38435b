"""Losses and their gradients; every loss is a number, its gradient has the prediction's shape.

A derivative takes the gradient of the loss first (1 when the loss is the end of the chain), and
differentiates with respect to the prediction only. ``reduction="mean"`` divides by the number of
elements, or by the number of rows where the classes of a row make one sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.catalog.activations import logistic, softmax_scale, sum_growth
from nnkernels.spec import Array, Cost, Error, op

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "categorical_cross_entropy",
    "categorical_cross_entropy_backward",
    "huber",
    "huber_backward",
    "mae",
    "mae_backward",
    "mse",
    "mse_backward",
    "nll_loss",
    "nll_loss_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "sum_squared_error",
    "sum_squared_error_backward",
]

REDUCTIONS = {"reduction": ("mean", "sum")}

LOG_FLOOR = -100.0
"""Logarithms of probabilities are taken no lower than this, as in PyTorch: 0 has a finite loss."""

PROBABILITY_FLOOR = 1e-12
"""Probabilities in a divisor are taken no smaller than this (as in PyTorch)."""

PAIR = "(b+,c+),(b+,c+)->()"
PAIR_GRADIENT = "(),(b+,c+),(b+,c+)->(b,c)"
PROBABILITY_PAIR = "(b+,c+)float[0,1],(b+,c+)float[0,1]->()"
CLASSES_GRADIENT = "(),(b+,c+),(b+)int[0,c)->(b,c) | (),(b+,c+),(b+,c+)float[0,1]->(b,c)"


def divisor(count: int, reduction: str) -> int:
    """What a sum over ``count`` terms is divided by."""
    return count if reduction == "mean" else 1


def _reduced(terms: Array, count: int, reduction: str) -> Array:
    return np.asarray(terms.sum() / divisor(count, reduction))


def _target_rows(target: Array, like: Array) -> Array:
    """Class labels as one-hot rows; rows stay as they are."""
    if target.ndim == 2:
        return target
    return np.equal(target[:, None], np.arange(like.shape[1])).astype(like.dtype)


def _expected(values: Array, target: Array) -> Array:
    """For each row the value at the label, or the sum weighted by the target's probabilities."""
    if target.ndim == 1:
        picked: Array = np.take_along_axis(values, target[:, None], 1)[:, 0]
        return picked
    weighted: Array = (target * values).sum(1)
    return weighted


@op(
    PAIR,
    error=Error(8),
    cost=Cost(lambda d: 3 * d["b"] * d["c"]),
    saves=("pred", "target"),
    limits=REDUCTIONS,
)
def mse(pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None) -> Array:
    """Squared error, averaged over all elements (``reduction="mean"``) or summed.

    Shapes: ``pred`` and ``target`` (b, c), at least one element; result ().

    Source: ``torch.nn.functional.mse_loss``.
    """
    return _reduced(np.square(pred - target), pred.size, reduction)


@mse.backward(signature=PAIR_GRADIENT, error=Error(4), cost=Cost(2))
def mse_backward(
    grad: Array, pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``2 grad (pred - target)``, divided by the number of elements for the mean."""
    gradient: Array = grad * 2 * (pred - target) / divisor(pred.size, reduction)
    return gradient


@op(
    PAIR,
    error=Error(8),
    cost=Cost(lambda d: 2 * d["b"] * d["c"]),
    saves=("pred", "target"),
    limits=REDUCTIONS,
)
def mae(pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None) -> Array:
    """Absolute error, averaged over all elements (``reduction="mean"``) or summed.

    Shapes: ``pred`` and ``target`` (b, c), at least one element; result ().

    Source: ``torch.nn.functional.l1_loss``.
    """
    return _reduced(np.abs(pred - target), pred.size, reduction)


@mae.backward(signature=PAIR_GRADIENT, error=Error(2), cost=Cost(2))
def mae_backward(
    grad: Array, pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``grad sign(pred - target)`` (0 where both agree), divided by the elements for the mean."""
    gradient: Array = grad * np.sign(pred - target) / divisor(pred.size, reduction)
    return gradient


@op(
    PAIR,
    error=Error(8),
    cost=Cost(lambda d: 3 * d["b"] * d["c"]),
    saves=("pred", "target"),
)
def sum_squared_error(pred: Array, target: Array, *, out: Array | None = None) -> Array:
    """Squared error summed over the elements, divided by the batch size.

    Shapes: ``pred`` and ``target`` (b, c), at least one element; result ().

    Source: Planche and Andres, Hands-On Computer Vision with TensorFlow 2, chapter 1.
    """
    return _reduced(np.square(pred - target), len(pred), "mean")


@sum_squared_error.backward(signature=PAIR_GRADIENT, error=Error(4), cost=Cost(2))
def sum_squared_error_backward(
    grad: Array, pred: Array, target: Array, *, out: Array | None = None
) -> Array:
    """``2 grad (pred - target) / b``."""
    gradient: Array = grad * 2 * (pred - target) / len(pred)
    return gradient


@op(
    PAIR,
    error=Error(8),
    cost=Cost(lambda d: 5 * d["b"] * d["c"]),
    saves=("pred", "target"),
    limits={**REDUCTIONS, "delta": "(0,inf)"},
)
def huber(
    pred: Array,
    target: Array,
    *,
    delta: float = 1.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """Half the squared error up to ``delta``, ``delta (|error| - delta / 2)`` beyond it.

    Shapes: ``pred`` and ``target`` (b, c), at least one element; result ().

    Source: ``torch.nn.functional.huber_loss``; Huber (1964).
    """
    size = np.abs(pred - target)
    near = np.minimum(size, delta)
    return _reduced(near * (size - 0.5 * near), pred.size, reduction)


@huber.backward(signature=PAIR_GRADIENT, error=Error(4), cost=Cost(2))
def huber_backward(
    grad: Array,
    pred: Array,
    target: Array,
    *,
    delta: float = 1.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """``grad (pred - target)``, the difference cut off at ±``delta``; divided for the mean."""
    gradient: Array = grad * np.clip(pred - target, -delta, delta) / divisor(pred.size, reduction)
    return gradient


@op(
    PROBABILITY_PAIR,
    error=Error(8),
    cost=Cost(lambda d: 5 * d["b"] * d["c"]),
    saves=("pred", "target"),
    limits=REDUCTIONS,
)
def binary_cross_entropy(
    pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``-t log(p) - (1 - t) log(1 - p)``, averaged over all elements or summed.

    Both logarithms are taken no lower than -100, so that a probability of 0 or 1 has a finite loss.

    Shapes: ``pred`` and ``target`` (b, c) in [0, 1], at least one element; result ().

    Source: ``torch.nn.functional.binary_cross_entropy``.
    """
    with np.errstate(divide="ignore"):
        log_yes = np.maximum(np.log(pred), LOG_FLOOR)
        log_no = np.maximum(np.log1p(-pred), LOG_FLOOR)
    return _reduced(-(target * log_yes + (1 - target) * log_no), pred.size, reduction)


@binary_cross_entropy.backward(
    signature="(),(b+,c+)float[0,1],(b+,c+)float[0,1]->(b,c)", error=Error(4), cost=Cost(5)
)
def binary_cross_entropy_backward(
    grad: Array, pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``grad (p - t) / max(p (1 - p), 1e-12)``, divided by the elements for the mean."""
    spread = np.maximum(pred * (1 - pred), PROBABILITY_FLOOR)
    gradient: Array = grad * (pred - target) / spread / divisor(pred.size, reduction)
    return gradient


@op(
    "(b+,c+),(b+,c+)float[0,1]->()",
    error=Error(8),
    cost=Cost(lambda d: 5 * d["b"] * d["c"]),
    saves=("logits", "target"),
    limits=REDUCTIONS,
)
def binary_cross_entropy_with_logits(
    logits: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """:func:`binary_cross_entropy` of ``sigmoid(logits)``, exact and finite for logits of any size.

    ``max(x, 0) - x t + log1p(exp(-|x|))``, with ``|x|`` factored out of the first two terms.

    Shapes: ``logits`` and ``target`` (b, c), at least one element; result ().

    Source: ``torch.nn.functional.binary_cross_entropy_with_logits``.
    """
    missed = logits * ((logits > 0) - target)
    terms = missed + np.log1p(np.exp(-np.abs(logits)))
    return _reduced(terms, logits.size, reduction)


def _logits_gradient_scale(
    outputs: tuple[Array, ...], grad: Array, logits: Array, target: Array, *, reduction: str
) -> tuple[Array, ...]:
    size = np.abs(grad) * (logistic(logits) + np.abs(target))
    return (size / divisor(logits.size, reduction),)


@binary_cross_entropy_with_logits.backward(
    signature="(),(b+,c+),(b+,c+)float[0,1]->(b,c)",
    error=Error(4, _logits_gradient_scale),
    cost=Cost(4),
)
def binary_cross_entropy_with_logits_backward(
    grad: Array, logits: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``grad (sigmoid(x) - t)``, divided by the number of elements for the mean."""
    gradient: Array = grad * (logistic(logits) - target) / divisor(logits.size, reduction)
    return gradient


@op(
    "(b+,c+)float[0,1],(b+)int[0,c)->() | (b+,c+)float[0,1],(b+,c+)float[0,1]->()",
    error=Error(8),
    cost=Cost(lambda d: 2 * d["b"] * d["c"]),
    saves=("probs", "target"),
    limits=REDUCTIONS,
)
def categorical_cross_entropy(
    probs: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``-log(p)`` at the label, or ``-sum(t log(p))``, averaged over the rows or summed.

    The logarithm is taken no lower than -100, so that a probability of 0 has a finite loss.

    Shapes: ``probs`` (b, c), rows of probabilities; ``target`` labels (b) in [0, c), or
    probabilities (b, c) such as one-hot rows; result (). At least one row and one class.

    Source: Goodfellow, Bengio and Courville, Deep Learning, section 5.5; the floor is that of
    ``torch.nn.functional.binary_cross_entropy``.
    """
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(probs), LOG_FLOOR)
    return _reduced(-_expected(logs, target), len(probs), reduction)


@categorical_cross_entropy.backward(
    signature="(),(b+,c+)float[0,1],(b+)int[0,c)->(b,c)"
    " | (),(b+,c+)float[0,1],(b+,c+)float[0,1]->(b,c)",
    error=Error(4),
    cost=Cost(2),
)
def categorical_cross_entropy_backward(
    grad: Array, probs: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``-grad t / max(p, 1e-12)``, divided by b for the mean; labels stand for one-hot rows."""
    ratio = _target_rows(target, probs) / np.maximum(probs, PROBABILITY_FLOOR)
    return -grad * ratio / divisor(len(probs), reduction)


@op(
    "(b+,c+),(b+)int[0,c)->() | (b+,c+),(b+,c+)float[0,1]->()",
    error=Error(
        8,
        lambda outputs, log_probs, target, reduction: (
            _reduced(_expected(np.abs(log_probs), target), len(log_probs), reduction),
        ),
    ),
    cost=Cost(lambda d: 2 * d["b"] * d["c"]),
    saves=("log_probs", "target"),
    limits=REDUCTIONS,
)
def nll_loss(
    log_probs: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """Minus the log-probability at the label (negative log-likelihood), averaged or summed.

    With :func:`log_softmax` it makes :func:`softmax_cross_entropy`; the mean is that over the rows.

    Shapes: ``log_probs`` (b, c); ``target`` labels (b) in [0, c), or probabilities (b, c), by which
    a row is weighted; result (). At least one row and one class.

    Source: ``torch.nn.functional.nll_loss`` (which takes labels only).
    """
    return _reduced(-_expected(log_probs, target), len(log_probs), reduction)


@nll_loss.backward(signature=CLASSES_GRADIENT, error=Error(2), cost=Cost(1))
def nll_loss_backward(
    grad: Array,
    log_probs: Array,
    target: Array,
    *,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """``-grad t``, divided by b for the mean; labels stand for one-hot rows."""
    return -grad * _target_rows(target, log_probs) / divisor(len(log_probs), reduction)


def _softmax_cross_entropy_scale(
    outputs: tuple[Array, ...], logits: Array, target: Array, *, reduction: str
) -> tuple[Array, ...]:
    # The errors of log_softmax at the targets, and those of softmax.
    loss, probs = outputs
    weights = _reduced(_expected(np.ones_like(logits), target), len(logits), reduction)
    return np.abs(loss) + sum_growth(logits.shape[1]) * weights, softmax_scale(probs, logits)


@op(
    "(b+,c+),(b+)int[0,c)->loss(),probs(b,c) | (b+,c+),(b+,c+)float[0,1]->loss(),probs(b,c)",
    error=Error(4, _softmax_cross_entropy_scale),
    cost=Cost(lambda d: 4 * d["b"] * d["c"]),
    saves=("probs", "target"),
    limits=REDUCTIONS,
    covers=("log_softmax", "nll_loss", "softmax"),
)
def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    reduction: str = "mean",
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """Cross-entropy of ``softmax(logits)``, and the probabilities, by log-sum-exp.

    Finite for finite logits of any size. ``reduction="mean"`` divides by b.

    Shapes: ``logits`` (b, c); ``target`` labels (b) in [0, c), or probabilities (b, c) such as
    one-hot rows; results () and (b, c). At least one row and one class.

    Source: ``torch.nn.functional.cross_entropy``.
    """
    shifted = logits - logits.max(1, keepdims=True)
    exps = np.exp(shifted)
    sums = exps.sum(1, keepdims=True)
    losses = -_expected(shifted - np.log(sums), target)
    return _reduced(losses, len(logits), reduction), exps / sums


@softmax_cross_entropy.composed
def _softmax_cross_entropy(
    call: Any, logits: Any, target: Any, *, reduction: str
) -> tuple[Any, Any]:
    loss = call("nll_loss", call("log_softmax", logits), target, reduction=reduction)
    return loss, call("softmax", logits)


def _softmax_gradient_scale(
    outputs: tuple[Array, ...], grad: Array, probs: Array, target: Array, *, reduction: str
) -> tuple[Array, ...]:
    rows = np.abs(_target_rows(target, probs))
    size = np.abs(grad) * (np.abs(probs) * rows.sum(1, keepdims=True) + rows)
    return (size / divisor(len(probs), reduction),)


@softmax_cross_entropy.backward(
    signature=CLASSES_GRADIENT,
    error=Error(4, _softmax_gradient_scale),
    cost=Cost(2),
    wrt=("logits",),
)
def softmax_cross_entropy_backward(
    grad: Array, probs: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``grad (probs sum(t) - t)``, divided by b for the mean; labels stand for one-hot rows.

    The sum over a row's targets, 1 when they are probabilities, is that of ``t`` in the loss.
    """
    rows = _target_rows(target, probs)
    difference = probs * rows.sum(1, keepdims=True) - rows
    gradient: Array = grad * difference / divisor(len(probs), reduction)
    return gradient
