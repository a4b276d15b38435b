"""Activation functions and their derivatives, one pass over memory each.

Elementwise kernels are loops that LLVM vectorises: a comparison with its two outcomes becomes a
packed selection, a parameter is brought to the array's dtype once. An element is read before its
place is written, for ``out`` may be an input. Comparisons are turned such that NaN, for which all
are false, takes the way that keeps it.

Kernels by rows take one row at a time through their passes, while it is in the nearest cache. The
order of a row's sums depends on the row's length alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

from nnkernels.backends.numba.compiling.family import Family
from nnkernels.backends.numba.kernels.mathematics import (
    Scalar,
    erfc,
    exp,
    expm1,
    log,
    log1p,
    logistic,
)
from nnkernels.backends.numba.kernels.mathematics import tanh as hyperbolic_tangent
from nnkernels.catalog.activations import GELU_CUBIC, GELU_RATE, SATURATED
from nnkernels.spec import Array

family = Family()

inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(inline="always")
"""Marks a part of kernels; it is compiled as if it stood in the kernel that calls it."""

exact: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(
    fastmath=False, error_model="numpy", forceinline=True
)
"""Marks a part of kernels whose operations the compiler neither reorders nor fuses.

It must say so: what is left unsaid is as in the kernel that calls it.
"""

EXP_CAP = 60.0
"""``exp`` of it is finite in every dtype, and 1 is nothing beside it."""

SQRT_HALF = math.sqrt(0.5)
DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


def _larger(_: Any, a: Any, b: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        form = ir.FunctionType(kind, [kind, kind])
        function = builder.module.declare_intrinsic("llvm.maximum", [kind], form)
        return builder.call(function, arguments, fastmath=("nsz",))

    return a(a, a), generate


larger: Any = intrinsic(_larger)
"""The larger of two numbers, NaN if either is NaN.

A comparison does as well for one pair, but LLVM vectorises the maximum of many in this form only:
by comparisons the outcome hangs on the order if one is NaN.
"""


@inlined
def at_least(v: Scalar, low: Scalar) -> Scalar:
    """``v``, no lower than ``low``: -inf is cut off where its product with 0 is 0."""
    return low if v < low else v


@inlined
def gradual_exp(v: Scalar, half: Scalar) -> Scalar:
    """``exp(v)`` as a square, for use in products: it fades out below the smallest normal number.

    ``mathematics.exp`` is 0 from there on, but 100 times what lies there may be a normal number
    again.
    """
    root = exp(half * v)
    return root * root


# --- identity and step -------------------------------------------------------------------------


@family.phase(over="...")
def identity(x: Array, out: Array) -> None:
    """A copy."""
    for i in range(x.size):
        out[i] = x[i]


@family.phase(over="...")
def identity_backward(grad: Array, out: Array) -> None:
    """A copy."""
    for i in range(grad.size):
        out[i] = grad[i]


@family.phase(over="...")
def step(x: Array, out: Array) -> None:
    """1 above 0, 0 up to 0; what is neither is NaN and stays it."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.size):
        v = x[i]
        out[i] = one if v > zero else (zero if v <= zero else v)


@family.phase(over="...")
def step_backward(grad: Array, out: Array) -> None:
    """Zeros."""
    zero = grad.dtype.type(0)
    for i in range(grad.size):
        out[i] = zero


# --- with a kink at 0 --------------------------------------------------------------------------


@family.phase(over="...")
def relu(x: Array, out: Array) -> None:
    """``max(x, 0)``."""
    zero = x.dtype.type(0)
    for i in range(x.size):
        v = x[i]
        out[i] = zero if v <= zero else v


@family.phase(over="...")
def relu_backward(grad: Array, y: Array, out: Array) -> None:
    """A selection: 0 times a gradient that is not finite would be NaN."""
    zero = grad.dtype.type(0)
    for i in range(grad.size):
        g = grad[i]
        out[i] = g if y[i] > zero else zero


@family.phase(over="...")
def leaky_relu(x: Array, slope: float, out: Array) -> None:
    """``x`` or ``slope x``; a slope of 0 makes 0 of -inf, which is cut off before the product."""
    zero, factor = x.dtype.type(0), x.dtype.type(slope)
    lowest = zero if factor == zero else x.dtype.type(-math.inf)
    for i in range(x.size):
        v = x[i]
        out[i] = v if v > zero else at_least(v, lowest) * factor


@family.phase(over="...")
def leaky_relu_backward(grad: Array, y: Array, slope: float, out: Array) -> None:
    """``grad`` or ``slope grad``."""
    zero, factor = grad.dtype.type(0), grad.dtype.type(slope)
    for i in range(grad.size):
        g = grad[i]
        out[i] = g if y[i] > zero else factor * g


@family.phase(over="...")
def elu(x: Array, alpha: float, out: Array) -> None:
    """``x`` or ``alpha (exp(x) - 1)``."""
    zero, height = x.dtype.type(0), x.dtype.type(alpha)
    for i in range(x.size):
        v = x[i]
        out[i] = v if v > zero else height * expm1(v)


@family.phase(over="...")
def elu_backward(grad: Array, x: Array, alpha: float, out: Array) -> None:
    """``grad`` times 1 or ``alpha exp(x)``."""
    zero, half, one = x.dtype.type(0), x.dtype.type(0.5), x.dtype.type(1)
    height = x.dtype.type(alpha)
    for i in range(x.size):
        v = x[i]
        out[i] = grad[i] * (one if v > zero else height * gradual_exp(v, half))


# --- sigmoidal ---------------------------------------------------------------------------------


@family.phase(over="...")
def sigmoid(x: Array, out: Array) -> None:
    """``1 / (1 + exp(-x))``."""
    for i in range(x.size):
        out[i] = logistic(x[i])


@exact
def logistic_slope(g: Scalar, y: Scalar, one: Scalar) -> Scalar:
    """``g y (1 - y)``, multiplied in this order in every loop."""
    return g * (y * (one - y))


@family.phase(over="...")
def sigmoid_backward(grad: Array, y: Array, out: Array) -> None:
    """``grad y (1 - y)``."""
    one = y.dtype.type(1)
    for i in range(y.size):
        out[i] = logistic_slope(grad[i], y[i], one)


@family.phase(over="...")
def tanh(x: Array, out: Array) -> None:
    """Hyperbolic tangent."""
    for i in range(x.size):
        out[i] = hyperbolic_tangent(x[i])


@family.phase(over="...")
def tanh_backward(grad: Array, y: Array, out: Array) -> None:
    """``grad (1 - y²)``, factored so that nothing cancels but what is known exactly."""
    one = y.dtype.type(1)
    for i in range(y.size):
        v = y[i]
        out[i] = grad[i] * ((one - v) * (one + v))


# --- x times a distribution function, and its relatives ----------------------------------------


@inlined
def clipped(v: Scalar, low: Scalar, high: Scalar) -> Scalar:
    """``v`` within bounds, likewise."""
    return low if v < low else (high if v > high else v)


@inlined
def split_logistic(v: Scalar, half: Scalar, one: Scalar, cap: Scalar) -> tuple[Scalar, Scalar]:
    """``s(v)`` and ``s(-v)`` of the logistic function s, each right in its own tail, by one exp."""
    e = gradual_exp(cap if v > cap else v, half)
    rest = one / (one + e)
    return e * rest, rest


@inlined
def gelu_exponent(z: Scalar, one: Scalar, rate: Scalar, cubic: Scalar) -> Scalar:
    """What the tanh form of gelu is the logistic function of: ``rate (z + cubic z³)``."""
    return rate * z * (one + cubic * (z * z))


@inlined
def normal_cumulative(z: Scalar, half: Scalar, scale: Scalar) -> Scalar:
    """The normal distribution function ``erfc(-z / √2) / 2``, exact in the lower tail."""
    return half * erfc(-z * scale)


@family.phase(over="...")
def gelu(x: Array, approximate: int, out: Array) -> None:
    """``z Φ(z)``, or ``z s(v)`` with the logistic function s, to which the tanh form comes down."""
    half, one, lowest = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(-SATURATED)
    if approximate == 0:
        scale = x.dtype.type(SQRT_HALF)
        for i in range(x.size):
            z = at_least(x[i], lowest)
            out[i] = z * normal_cumulative(z, half, scale)
    else:
        rate, cubic = x.dtype.type(GELU_RATE), x.dtype.type(GELU_CUBIC)
        cap = x.dtype.type(EXP_CAP)
        for i in range(x.size):
            z = at_least(x[i], lowest)
            out[i] = z * split_logistic(gelu_exponent(z, one, rate, cubic), half, one, cap)[0]


@family.phase(over="...")
def gelu_backward(grad: Array, x: Array, approximate: int, out: Array) -> None:
    """``Φ(z) + z φ(z)``, or ``s(v) (1 + z v' s(-v))`` of the tanh form, times ``grad``."""
    half, one, high = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(SATURATED)
    if approximate == 0:
        scale, at_0 = x.dtype.type(SQRT_HALF), x.dtype.type(DENSITY_AT_0)
        for i in range(x.size):
            z = clipped(x[i], -high, high)
            density = at_0 * gradual_exp(-half * (z * z), half)
            out[i] = grad[i] * (normal_cumulative(z, half, scale) + z * density)
    else:
        rate, cubic = x.dtype.type(GELU_RATE), x.dtype.type(GELU_CUBIC)
        cap, triple = x.dtype.type(EXP_CAP), x.dtype.type(3 * GELU_CUBIC)
        for i in range(x.size):
            z = clipped(x[i], -high, high)
            s, rest = split_logistic(gelu_exponent(z, one, rate, cubic), half, one, cap)
            slope = rate * (one + triple * (z * z))
            out[i] = grad[i] * (s * (one + z * slope * rest))


@family.phase(over="...")
def silu(x: Array, out: Array) -> None:
    """``z s(z)`` with the logistic function s."""
    half, one, cap = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(EXP_CAP)
    lowest = x.dtype.type(-SATURATED)
    for i in range(x.size):
        z = at_least(x[i], lowest)
        out[i] = z * split_logistic(z, half, one, cap)[0]


@family.phase(over="...")
def silu_backward(grad: Array, x: Array, out: Array) -> None:
    """``grad s(z) (1 + z s(-z))`` with the logistic function s."""
    half, one, cap = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(EXP_CAP)
    high = x.dtype.type(SATURATED)
    for i in range(x.size):
        z = clipped(x[i], -high, high)
        s, rest = split_logistic(z, half, one, cap)
        out[i] = grad[i] * (s * (one + z * rest))


@exact
def plus_scaled(a: Scalar, b: Scalar, scale: Scalar) -> Scalar:
    """``a + b scale``, rounded twice.

    Where ``a`` is a selection, a packed loop may well add under a mask while the loop over the last
    few elements fuses: an element's bits must not depend on where the division of work puts it.
    """
    return a + b * scale


@family.phase(over="...")
def softplus(x: Array, beta: float, out: Array) -> None:
    """``max(x, 0) + log1p(exp(-beta |x|)) / beta``."""
    zero, half = x.dtype.type(0), x.dtype.type(0.5)
    rate, inverse = x.dtype.type(beta), x.dtype.type(1 / beta)
    for i in range(x.size):
        v = x[i]
        tail = log1p(gradual_exp(-rate * abs(v), half))
        out[i] = plus_scaled(zero if v <= zero else v, tail, inverse)


@family.phase(over="...")
def softplus_backward(grad: Array, x: Array, beta: float, out: Array) -> None:
    """``grad s(beta x)`` with the logistic function s."""
    half, one, cap = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(EXP_CAP)
    rate = x.dtype.type(beta)
    for i in range(x.size):
        out[i] = grad[i] * split_logistic(rate * x[i], half, one, cap)[0]


# --- by rows -----------------------------------------------------------------------------------


@inlined
def row_maximum(x: Array, r: int) -> Scalar:
    """The largest element of row ``r``, NaN if one is NaN.

    A row less its maximum holds 0 and nothing above it, so that exp neither overflows nor
    vanishes everywhere. NaN makes all of it NaN, and so does +inf, by inf - inf.
    """
    top = x[r, 0]
    for i in range(1, x.shape[1]):
        top = larger(top, x[r, i])
    return top


@exact
def less_both(x: Scalar, top: Scalar, excess: Scalar) -> Scalar:
    """``(x - top) - excess``; ``top + excess`` would lose ``excess`` beside a large ``top``."""
    return (x - top) - excess


@family.phase(over="...")
def softmax(x: Array, out: Array) -> None:
    """Shift by the row's maximum, exp and their sum, scale."""
    for r in range(x.shape[0]):
        top, total = row_maximum(x, r), x.dtype.type(0)
        for i in range(x.shape[1]):
            e = exp(x[r, i] - top)
            total += e
            out[r, i] = e
        scale = x.dtype.type(1) / total
        for i in range(x.shape[1]):
            out[r, i] *= scale


@family.phase(over="...")
def softmax_backward(grad: Array, y: Array, out: Array) -> None:
    """``y (grad - sum(grad y))``."""
    for r in range(y.shape[0]):
        total = y.dtype.type(0)
        for i in range(y.shape[1]):
            total += grad[r, i] * y[r, i]
        for i in range(y.shape[1]):
            out[r, i] = y[r, i] * (grad[r, i] - total)


@family.phase(over="...")
def log_softmax(x: Array, out: Array) -> None:
    """Shift by the row's maximum, subtract the logarithm of the sum of exps."""
    for r in range(x.shape[0]):
        top, total = row_maximum(x, r), x.dtype.type(0)
        for i in range(x.shape[1]):
            total += exp(x[r, i] - top)
        excess = log(total)
        for i in range(x.shape[1]):
            out[r, i] = less_both(x[r, i], top, excess)


@family.phase(over="...")
def log_softmax_backward(grad: Array, y: Array, out: Array) -> None:
    """``grad - exp(y) sum(grad)``."""
    for r in range(y.shape[0]):
        total = y.dtype.type(0)
        for i in range(y.shape[1]):
            total += grad[r, i]
        for i in range(y.shape[1]):
            out[r, i] = grad[r, i] - exp(y[r, i]) * total
