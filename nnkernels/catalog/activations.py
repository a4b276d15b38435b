"""Activation functions and their derivatives."""

from __future__ import annotations

import numpy as np

from nnkernels.spec import Array, Cost, Error, op

__all__ = [
    "identity",
    "identity_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "tanh",
    "tanh_backward",
]

INF, NAN = float("inf"), float("nan")


@op("(...)->(...)", error=Error(0), special=((-INF, -INF), (INF, INF), (NAN, NAN)))
def identity(x: Array, *, out: Array | None = None) -> Array:
    """The input itself, copied: the activation of a linear output layer."""
    return x.copy()


@identity.backward(signature="(...)->(...)", error=Error(0))
def identity_backward(grad: Array, *, out: Array | None = None) -> Array:
    """``grad``, copied."""
    return grad.copy()


@op(
    "(...)->(...)",
    error=Error(4),
    cost=Cost(2),
    saves=("y",),
    special=((-INF, 0.0), (INF, 1.0), (0.0, 0.5), (NAN, NAN)),
)
def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``, elementwise; exact in both tails.

    Source: ``torch.sigmoid``; Goodfellow, Bengio and Courville, Deep Learning, section 3.10.
    """
    decay = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, decay) / (1 + decay)
    return y


@sigmoid.backward(error=Error(4), cost=Cost(3))
def sigmoid_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``grad * y * (1 - y)``, from the stored output ``y``."""
    return grad * y * (1 - y)


@op(
    "(...)->(...)",
    error=Error(4),
    saves=("y",),
    special=((-INF, -1.0), (INF, 1.0), (0.0, 0.0), (NAN, NAN)),
)
def tanh(x: Array, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent, elementwise.

    Source: ``torch.tanh``.
    """
    y: Array = np.tanh(x)
    return y


@tanh.backward(error=Error(4), cost=Cost(3))
def tanh_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``grad * (1 - y) * (1 + y)``, from the stored output ``y``."""
    return grad * (1 - y) * (1 + y)


@op(
    "(...)->(...)",
    error=Error(0),
    cost=Cost(1),
    saves=("y",),
    special=((-INF, 0.0), (INF, INF), (-1.0, 0.0), (NAN, NAN)),
    kinks=(0.0,),
)
def relu(x: Array, *, out: Array | None = None) -> Array:
    """Rectified linear unit ``max(x, 0)``, elementwise; NaN propagates.

    Source: ``torch.relu``; Nair and Hinton (2010).
    """
    return np.maximum(x, 0)


@relu.backward(error=Error(0), cost=Cost(1))
def relu_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``grad`` where the stored output ``y > 0``, else 0."""
    return np.where(y > 0, grad, np.zeros_like(grad))
