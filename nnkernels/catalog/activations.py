"""Activation functions and their derivatives.

To add one, declare its reference and its derivative here and name both in ``__all__``: the public
functions, checks, documentation and conformance cases follow, and every backend runs the reference
until it brings a kernel of its own.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nnkernels.spec import Array, Cost, Error, op

__all__ = [
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "identity",
    "identity_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softplus",
    "softplus_backward",
    "step",
    "step_backward",
    "tanh",
    "tanh_backward",
]

INF, NAN = float("inf"), float("nan")

SATURATED = 1000.0
"""Beyond this, silu and gelu are 0 or the input itself in every dtype."""

GELU_RATE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


@functools.cache
def erfc_function() -> Any:
    """SciPy's complementary error function (a ufunc), imported when it is first needed."""
    from scipy.special import erfc

    return erfc


def logistic(v: Array) -> Array:
    """``1 / (1 + exp(-v))`` without overflow, exact in both tails."""
    decay = np.exp(-np.abs(v))
    y: Array = np.where(v >= 0, 1, decay) / (1 + decay)
    return y


def _saturated(x: Array) -> Array:
    return np.clip(x, -SATURATED, SATURATED)


@op("(...)->(...)", error=Error(0), special=((-INF, -INF), (INF, INF), (NAN, NAN)))
def identity(x: Array, *, out: Array | None = None) -> Array:
    """The input itself, copied: the activation of a linear output layer.

    Shapes: ``x`` and the result (...).

    Source: ``torch.nn.Identity``.
    """
    return x.copy()


@identity.backward(signature="(...)->(...)", error=Error(0))
def identity_backward(grad: Array, *, out: Array | None = None) -> Array:
    """``grad``, copied. Shapes: ``grad`` and the result (...)."""
    return grad.copy()


@op(
    "(...)->(...)",
    error=Error(0),
    special=((-INF, 0.0), (-0.0, 0.0), (0.0, 0.0), (INF, 1.0), (NAN, NAN)),
    kinks=(0.0,),
)
def step(x: Array, *, out: Array | None = None) -> Array:
    """Heaviside step: 1 where ``x > 0``, 0 where ``x <= 0``; NaN propagates.

    The activation of the perceptron. Shapes: ``x`` and the result (...).

    Source: ``torch.heaviside`` with the value 0 at 0; Rosenblatt (1958).
    """
    y: Array = np.heaviside(x, 0)
    return y


@step.backward(signature="(...)->(...)", error=Error(0))
def step_backward(grad: Array, *, out: Array | None = None) -> Array:
    """Zeros: the step is flat wherever it has a derivative. Shapes: both (...)."""
    return np.zeros_like(grad)


@op(
    "(...)->(...)",
    error=Error(4),
    cost=Cost(2),
    saves=("y",),
    special=((-INF, 0.0), (0.0, 0.5), (INF, 1.0), (NAN, NAN)),
)
def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``, elementwise; exact in both tails.

    Shapes: ``x`` and the result (...).

    Source: ``torch.sigmoid``; Goodfellow, Bengio and Courville, Deep Learning, section 3.10.
    """
    return logistic(x)


@sigmoid.backward(signature="(...),(...)float[0,1]->(...)", error=Error(4), cost=Cost(3))
def sigmoid_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``grad y (1 - y)``, from the stored output ``y``. Shapes: all (...)."""
    gradient: Array = grad * y * (1 - y)
    return gradient


@op(
    "(...)->(...)",
    error=Error(4),
    saves=("y",),
    special=((-INF, -1.0), (0.0, 0.0), (INF, 1.0), (NAN, NAN)),
)
def tanh(x: Array, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent, elementwise. Shapes: ``x`` and the result (...).

    Source: ``torch.tanh``.
    """
    y: Array = np.tanh(x)
    return y


@tanh.backward(
    signature="(...),(...)float[-1,1]->(...)",
    # 1 - y² cancels near 1, where y itself is known to eps only.
    error=Error(3, lambda outputs, grad, y: (np.abs(grad),)),
    cost=Cost(3),
)
def tanh_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``grad (1 - y²)``, from the stored output ``y``. Shapes: all (...)."""
    gradient: Array = grad * (1 - y) * (1 + y)
    return gradient


@op(
    "(...)->(...)",
    error=Error(0),
    cost=Cost(1),
    saves=("y",),
    special=((-INF, 0.0), (-1.0, 0.0), (0.0, 0.0), (INF, INF), (NAN, NAN)),
    kinks=(0.0,),
)
def relu(x: Array, *, out: Array | None = None) -> Array:
    """Rectified linear unit ``max(x, 0)``, elementwise; NaN propagates.

    Shapes: ``x`` and the result (...).

    Source: ``torch.relu``; Nair and Hinton (2010).
    """
    return np.maximum(x, 0)


@relu.backward(signature="(...),(...)float[0,inf)->(...)", error=Error(0), cost=Cost(1))
def relu_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``grad`` where the stored output ``y > 0``, else 0, even where ``grad`` is not finite.

    Shapes: all (...).
    """
    return np.where(y > 0, grad, 0)


@op(
    "(...)->(...)",
    error=Error(1),
    cost=Cost(2),
    saves=("y",),
    special=((-INF, -INF), (0.0, 0.0), (INF, INF), (NAN, NAN)),
    kinks=(0.0,),
    limits={"slope": "[0,inf)"},
)
def leaky_relu(x: Array, *, slope: float = 0.01, out: Array | None = None) -> Array:
    """``x`` where ``x > 0``, else ``slope x``; with ``slope=0`` it is :func:`relu`, also at -inf.

    ``slope`` must not be negative, for the derivative is taken from the output's sign. Shapes:
    ``x`` and the result (...).

    Source: ``torch.nn.functional.leaky_relu``; Maas, Hannun and Ng (2013).
    """
    if slope == 0:
        return np.maximum(x, 0)
    return np.where(x > 0, x, slope * x)


@leaky_relu.backward(error=Error(1), cost=Cost(1))
def leaky_relu_backward(
    grad: Array, y: Array, *, slope: float = 0.01, out: Array | None = None
) -> Array:
    """``grad`` where the stored output ``y > 0``, else ``slope grad``. Shapes: all (...)."""
    return np.where(y > 0, grad, slope * grad)


@op(
    "(...)->(...)",
    error=Error(4),
    cost=Cost(2),
    saves=("x",),
    special=((-INF, -1.0), (0.0, 0.0), (INF, INF), (NAN, NAN)),
    kinks=(0.0,),
    limits={"alpha": "(0,inf)"},
)
def elu(x: Array, *, alpha: float = 1.0, out: Array | None = None) -> Array:
    """``x`` where ``x > 0``, else ``alpha (exp(x) - 1)``; exact near 0.

    Shapes: ``x`` and the result (...). The special value ``-alpha`` at -inf is that of the default.

    Source: ``torch.nn.functional.elu``; Clevert, Unterthiner and Hochreiter (2016).
    """
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@elu.backward(error=Error(5), cost=Cost(2))
def elu_backward(grad: Array, x: Array, *, alpha: float = 1.0, out: Array | None = None) -> Array:
    """``grad`` where ``x > 0``, else ``grad alpha exp(x)``. Shapes: all (...)."""
    gradient: Array = grad * np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))
    return gradient


def _gelu_exponent(z: Array) -> Array:
    """Argument of the logistic function that equals ``(1 + tanh(...)) / 2`` of the tanh form."""
    return GELU_RATE * z * (1 + GELU_CUBIC * z * z)


def _density(z: Array) -> Array:
    """The standard normal density."""
    density: Array = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return density


def _gelu_scale(outputs: tuple[Array, ...], x: Array, *, approximate: str) -> tuple[Array, ...]:
    # An argument rounded to eps moves the result by eps times argument times slope.
    z = _saturated(x)
    if approximate == "tanh":
        v = _gelu_exponent(z)
        return (np.abs(outputs[0]) + np.abs(z * v) * logistic(v) * logistic(-v),)
    return (np.abs(outputs[0]) + z * z * _density(z),)


@op(
    "(...)->(...)",
    error=Error(4, _gelu_scale),
    cost=Cost(3),
    saves=("x",),
    special=((-INF, 0.0), (0.0, 0.0), (INF, INF), (NAN, NAN)),
    limits={"approximate": ("none", "tanh")},
)
def gelu(x: Array, *, approximate: str = "none", out: Array | None = None) -> Array:
    """Gaussian error linear unit ``x Φ(x)``, by ``x erfc(-x/√2) / 2``: exact in the lower tail.

    With ``approximate="tanh"`` it is ``x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))``. At -inf the
    result is the limit 0 (PyTorch gives NaN). Shapes: ``x`` and the result (...).

    Source: ``torch.nn.functional.gelu``; Hendrycks and Gimpel (2016).
    """
    z = np.maximum(x, -SATURATED)
    if approximate == "tanh":
        return z * logistic(_gelu_exponent(z))
    y: Array = 0.5 * z * erfc_function()(-z / math.sqrt(2))
    return y


def _gelu_backward_scale(
    outputs: tuple[Array, ...], grad: Array, x: Array, *, approximate: str
) -> tuple[Array, ...]:
    z = _saturated(x)
    if approximate == "tanh":
        v = _gelu_exponent(z)
        inner = np.abs(z) * _gelu_slope(z) * logistic(-v) * (1 + np.abs(v))
        return (np.abs(grad) * logistic(v) * (1 + inner),)
    cumulative = 0.5 * erfc_function()(-z / math.sqrt(2))
    return (np.abs(grad) * (cumulative + np.abs(z) * _density(z) * (1 + z * z)),)


def _gelu_slope(z: Array) -> Array:
    """Derivative of :func:`_gelu_exponent`."""
    return GELU_RATE * (1 + 3 * GELU_CUBIC * z * z)


@gelu.backward(error=Error(4, _gelu_backward_scale), cost=Cost(6))
def gelu_backward(
    grad: Array, x: Array, *, approximate: str = "none", out: Array | None = None
) -> Array:
    """``grad (Φ(x) + x φ(x))``, or the derivative of the tanh form. Shapes: all (...)."""
    z = _saturated(x)
    if approximate == "tanh":
        v = _gelu_exponent(z)
        slope = logistic(v) * (1 + z * _gelu_slope(z) * logistic(-v))
    else:
        slope = 0.5 * erfc_function()(-z / math.sqrt(2)) + z * _density(z)
    gradient: Array = grad * slope
    return gradient


@op(
    "(...)->(...)",
    error=Error(5),
    cost=Cost(3),
    saves=("x",),
    special=((-INF, 0.0), (0.0, 0.0), (INF, INF), (NAN, NAN)),
)
def silu(x: Array, *, out: Array | None = None) -> Array:
    """``x sigmoid(x)`` (swish), elementwise; at -inf the limit 0 (PyTorch gives NaN).

    Shapes: ``x`` and the result (...).

    Source: ``torch.nn.functional.silu``; Elfwing, Uchibe and Doya (2018).
    """
    z = np.maximum(x, -SATURATED)
    return z * logistic(z)


def _silu_backward_scale(outputs: tuple[Array, ...], grad: Array, x: Array) -> tuple[Array, ...]:
    z = _saturated(x)
    return (np.abs(grad) * logistic(z) * (1 + np.abs(z) * logistic(-z)),)


@silu.backward(error=Error(5, _silu_backward_scale), cost=Cost(5))
def silu_backward(grad: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad s (1 + x (1 - s))`` with ``s = sigmoid(x)``. Shapes: all (...)."""
    z = _saturated(x)
    gradient: Array = grad * logistic(z) * (1 + z * logistic(-z))
    return gradient


def _softplus_scale(outputs: tuple[Array, ...], x: Array, *, beta: float) -> tuple[Array, ...]:
    t = _saturated(beta * x)
    return (np.abs(outputs[0]) + np.abs(t) * logistic(t) / beta,)


@op(
    "(...)->(...)",
    error=Error(4, _softplus_scale),
    cost=Cost(4),
    saves=("x",),
    special=((-INF, 0.0), (INF, INF), (NAN, NAN)),
    limits={"beta": "(0,inf)"},
)
def softplus(x: Array, *, beta: float = 1.0, out: Array | None = None) -> Array:
    """``log(1 + exp(beta x)) / beta``, as ``max(x, 0) + log1p(exp(-beta |x|)) / beta``.

    PyTorch goes over to ``x`` beyond ``beta x = 20``, which is off by 2e-9 / beta there; this form
    needs no such threshold and is exact everywhere. Shapes: ``x`` and the result (...).

    Source: ``torch.nn.functional.softplus``; Dugas et al. (2001).
    """
    y: Array = np.maximum(x, 0) + np.log1p(np.exp(-beta * np.abs(x))) / beta
    return y


def _softplus_backward_scale(
    outputs: tuple[Array, ...], grad: Array, x: Array, *, beta: float
) -> tuple[Array, ...]:
    t = _saturated(beta * x)
    return (np.abs(outputs[0]) * (1 + np.abs(t) * logistic(-t)),)


@softplus.backward(error=Error(4, _softplus_backward_scale), cost=Cost(4))
def softplus_backward(
    grad: Array, x: Array, *, beta: float = 1.0, out: Array | None = None
) -> Array:
    """``grad sigmoid(beta x)``. Shapes: all (...)."""
    return grad * logistic(beta * x)


def sum_growth(terms: int) -> float:
    """Largest error of a sum, relative to the sum of the terms' sizes, in units of 4 eps.

    It is (terms - 1) eps / 2 in whatever order they are added, and equal terms come close to it
    where a kernel adds them one after the other (a column-major ``out``): their rounding errors all
    have one sign. The 1 stands for what surrounds the sum.
    """
    return 1 + terms / 8


def softmax_scale(y: Array, x: Array) -> Array:
    """Size of the errors of ``y``, the softmax of ``x`` over the last axis."""
    # exp turns the rounding of x - max into a relative error of eps |x - max|.
    distance = np.minimum(x.max(-1, keepdims=True) - x, SATURATED)
    scale: Array = y * (sum_growth(x.shape[-1]) + distance)
    return scale


@op(
    "(...,c+)->(...,c)",
    error=Error(4, lambda outputs, x: (softmax_scale(outputs[0], x),)),
    cost=Cost(3),
    saves=("y",),
    special=((NAN, NAN),),
)
def softmax(x: Array, *, out: Array | None = None) -> Array:
    """``exp(x) / sum(exp(x))`` over the last axis, shifted by its maximum against overflow.

    A row that holds NaN or +inf, or nothing but -inf, gives NaN. Shapes: ``x`` (..., c) with
    c >= 1; result (..., c).

    Source: ``torch.softmax``; Goodfellow, Bengio and Courville, Deep Learning, section 4.1.
    """
    exps = np.exp(x - x.max(-1, keepdims=True))
    y: Array = exps / exps.sum(-1, keepdims=True)
    return y


def _softmax_backward_scale(outputs: tuple[Array, ...], grad: Array, y: Array) -> tuple[Array, ...]:
    total = np.abs(grad * y).sum(-1, keepdims=True)
    return (np.abs(y) * (np.abs(grad) + sum_growth(y.shape[-1]) * total),)


@softmax.backward(
    signature="(...,c+),(...,c+)float[0,1]->(...,c)",
    error=Error(4, _softmax_backward_scale),
    cost=Cost(4),
)
def softmax_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``y (grad - sum(grad y))``, from the stored output ``y``. Shapes: all (..., c)."""
    gradient: Array = y * (grad - (grad * y).sum(-1, keepdims=True))
    return gradient


@op(
    "(...,c+)->(...,c)",
    # The logarithm of a sum carries the sum's relative error as an absolute one.
    error=Error(4, lambda outputs, x: (sum_growth(x.shape[-1]) + np.abs(outputs[0]),)),
    cost=Cost(3),
    saves=("y",),
    special=((NAN, NAN),),
)
def log_softmax(x: Array, *, out: Array | None = None) -> Array:
    """``x - log(sum(exp(x)))`` over the last axis, by log-sum-exp; never takes the log of 0.

    A row that holds NaN or +inf, or nothing but -inf, gives NaN. Shapes: ``x`` (..., c) with
    c >= 1; result (..., c).

    Source: ``torch.log_softmax``; Goodfellow, Bengio and Courville, Deep Learning, section 4.1.
    """
    shifted = x - x.max(-1, keepdims=True)
    y: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return y


def _log_softmax_backward_scale(
    outputs: tuple[Array, ...], grad: Array, y: Array
) -> tuple[Array, ...]:
    total = np.abs(grad).sum(-1, keepdims=True)
    return (np.abs(grad) + np.exp(y) * sum_growth(y.shape[-1]) * total,)


@log_softmax.backward(
    signature="(...,c+),(...,c+)float(-inf,0]->(...,c)",
    error=Error(4, _log_softmax_backward_scale),
    cost=Cost(3),
)
def log_softmax_backward(grad: Array, y: Array, *, out: Array | None = None) -> Array:
    """``grad - exp(y) sum(grad)``, from the stored output ``y``. Shapes: all (..., c)."""
    gradient: Array = grad - np.exp(y) * grad.sum(-1, keepdims=True)
    return gradient
