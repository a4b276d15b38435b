"""Losses and their gradients; every loss is a number, its gradient has the prediction's shape."""

from __future__ import annotations

import numpy as np

from nnkernels.spec import Array, Cost, Error, op

__all__ = [
    "mse",
    "mse_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "sum_squared_error",
    "sum_squared_error_backward",
]

REDUCTIONS = {"reduction": ("mean", "sum")}


def _divisor(count: int, reduction: str) -> int:
    return count if reduction == "mean" else 1


@op(
    "(b+,c+),(b+,c+)->()",
    error=Error(8),
    cost=Cost(lambda d: 3 * d["b"] * d["c"]),
    saves=("pred", "target"),
    limits=REDUCTIONS,
)
def mse(
    pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """Squared error, averaged over all elements (``reduction="mean"``) or summed.

    Shapes: ``pred`` and ``target`` (b, c); result ().

    Source: ``torch.nn.functional.mse_loss``.
    """
    total = np.square(pred - target).sum()
    return np.asarray(total / _divisor(pred.size, reduction))


@mse.backward(signature="(),(b+,c+),(b+,c+)->(b,c)", error=Error(8, lambda o, g, p, t, reduction: (2 * np.abs(g) * (np.abs(p) + np.abs(t)) / _divisor(p.size, reduction),)))
def mse_backward(
    grad: Array, pred: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``2 grad (pred - target)``, divided by the number of elements for the mean."""
    return grad * 2 * (pred - target) / _divisor(pred.size, reduction)


@op("(b+,c+),(b+,c+)->()", error=Error(8), saves=("pred", "target"))
def sum_squared_error(pred: Array, target: Array, *, out: Array | None = None) -> Array:
    """Squared error summed over the elements, divided by the batch size.

    Shapes: ``pred`` and ``target`` (b, c); result ().

    Source: Hands-On Computer Vision with TensorFlow 2, chapter 1.
    """
    return np.asarray(np.square(pred - target).sum() / len(pred))


@sum_squared_error.backward(signature="(),(b+,c+),(b+,c+)->(b,c)", error=Error(8, lambda o, g, p, t: (2 * np.abs(g) * (np.abs(p) + np.abs(t)) / len(p),)))
def sum_squared_error_backward(
    grad: Array, pred: Array, target: Array, *, out: Array | None = None
) -> Array:
    """``2 grad (pred - target) / b``."""
    return grad * 2 * (pred - target) / len(pred)


@op(
    "(b+,c+),(b+)int[0,c)->loss(),probs(b,c) | (b+,c+),(b+,c+)float[0,1]->loss(),probs(b,c)",
    error=Error(16),
    saves=("probs", "target"),
    limits=REDUCTIONS,
)
def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    reduction: str = "mean",
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """Cross-entropy of ``softmax(logits)``, and the probabilities, by log-sum-exp.

    Shapes: ``logits`` (b, c); ``target`` labels (b) in [0, c), or probabilities (b, c) (one-hot);
    results () and (b, c). ``reduction="mean"`` divides by b.

    Source: ``torch.nn.functional.cross_entropy``.
    """
    shifted = logits - logits.max(1, keepdims=True)
    exps = np.exp(shifted)
    sums = exps.sum(1, keepdims=True)
    logs = shifted - np.log(sums)
    if target.ndim == 1:
        losses = -logs[np.arange(len(target)), target]
    else:
        losses = -(target * logs).sum(1)
    return np.asarray(losses.sum() / _divisor(len(logits), reduction)), exps / sums


@softmax_cross_entropy.backward(
    signature="(),(b+,c+),(b+)int[0,c)->(b,c) | (),(b+,c+),(b+,c+)->(b,c)",
    error=Error(8, lambda o, g, p, t, reduction: (np.abs(g) * np.ones_like(p) / _divisor(len(p), reduction),)),
    wrt=("logits",),
)
def softmax_cross_entropy_backward(
    grad: Array, probs: Array, target: Array, *, reduction: str = "mean", out: Array | None = None
) -> Array:
    """``grad (probs - target)``, divided by b for the mean; labels stand for one-hot rows."""
    rows = np.eye(probs.shape[1], dtype=probs.dtype)[target] if target.ndim == 1 else target
    return grad * (probs - rows) / _divisor(len(probs), reduction)
