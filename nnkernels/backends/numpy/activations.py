"""Activation functions and their derivatives, in few passes over the output."""

from __future__ import annotations

import math

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.catalog.activations import GELU_CUBIC, GELU_RATE, SATURATED, erfc_function
from nnkernels.signature import FLOAT_DTYPES
from nnkernels.spec import Array

kernels = KernelTable(blas=False)

ZERO = {dtype: np.zeros((), dtype) for dtype in FLOAT_DTYPES}
ONE = {dtype: np.ones((), dtype) for dtype in FLOAT_DTYPES}
"""A ufunc takes an array of no dimensions 0.3 us sooner than a Python number."""

BITS = {dtype: np.dtype(f"int{8 * dtype.itemsize}") for dtype in FLOAT_DTYPES}

EXP_CAP = 60.0
"""``exp`` of it stays finite in every dtype, and 1 + exp of it is exp of it."""


def _split_logistic(v: Array, sigma: Array, rest: Array) -> None:
    """``sigmoid(v)`` and ``sigmoid(-v)``, each exact in its own tail."""
    one = ONE[v.dtype]
    np.minimum(v, EXP_CAP, out=sigma)
    np.exp(sigma, sigma)
    np.add(sigma, one, rest)
    np.divide(one, rest, rest)
    np.multiply(sigma, rest, sigma)


def _saturate(x: Array, out: Array) -> None:
    """Bring infinities to where their products with 0 are 0."""
    np.maximum(x, -SATURATED, out=out)
    np.minimum(out, SATURATED, out=out)


@kernels.kernel
def identity(x: Array, *, out: Array) -> None:
    """A copy."""
    np.copyto(out, x)


@kernels.kernel
def identity_backward(grad: Array, *, out: Array) -> None:
    """A copy."""
    np.copyto(out, grad)


@kernels.kernel
def step(x: Array, *, out: Array) -> None:
    """The sign, cut off below 0: unlike a comparison, it keeps NaN."""
    np.sign(x, out)
    np.maximum(out, ZERO[x.dtype], out=out)


@kernels.kernel
def step_backward(grad: Array, *, out: Array) -> None:
    """Zeros."""
    out.fill(0)


@kernels.kernel
def sigmoid(x: Array, *, out: Array) -> None:
    """``1 / (1 + exp(-x))``: exp may overflow to infinity, whose reciprocal is the exact 0.

    ``(1 + tanh(x / 2)) / 2`` is not faster and has no correct digit left in the lower tail.
    """
    one = ONE[x.dtype]
    np.negative(x, out)
    np.exp(out, out)
    np.add(out, one, out)
    np.divide(one, out, out)


@kernels.kernel(workspace="(...)")
def sigmoid_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array]) -> None:
    """``grad y (1 - y)``."""
    (slope,) = work
    np.subtract(ONE[y.dtype], y, slope)
    np.multiply(slope, y, slope)
    np.multiply(grad, slope, out)


@kernels.kernel
def tanh(x: Array, *, out: Array) -> None:
    """One pass."""
    np.tanh(x, out)


@kernels.kernel(workspace="(...)")
def tanh_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array]) -> None:
    """``grad (1 - y²)``."""
    (slope,) = work
    np.multiply(y, y, slope)
    np.subtract(ONE[y.dtype], slope, slope)
    np.multiply(grad, slope, out)


@kernels.kernel(workspace="(...)")
def relu(x: Array, *, out: Array, work: tuple[Array]) -> None:
    """Against an array of zeros: with a single zero NumPy's ``maximum`` is four times slower."""
    (zeros,) = work
    zeros.fill(0)
    np.maximum(x, zeros, out=out)


@kernels.kernel(workspace="(...)mask")
def relu_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array]) -> None:
    """The bits of ``grad`` times the mask ``y > 0``: infinity times 0 is then 0, not NaN."""
    (mask,) = work
    bits = BITS[grad.dtype]
    np.greater(y, ZERO[y.dtype], mask)
    np.multiply(grad.view(bits), mask, out.view(bits))


@kernels.kernel(workspace="(...)")
def leaky_relu(x: Array, *, slope: float, out: Array, work: tuple[Array]) -> None:
    """The larger of ``x`` and ``slope x``; the smaller when the slope is above 1."""
    (scaled,) = work
    if slope == 0:
        relu(x, out=out, work=work)
        return
    np.multiply(x, slope, scaled)
    (np.maximum if slope <= 1 else np.minimum)(x, scaled, out=out)


@kernels.kernel(workspace="(...),(...)mask")
def leaky_relu_backward(
    grad: Array, y: Array, *, slope: float, out: Array, work: tuple[Array, Array]
) -> None:
    """``grad`` times 1 or the slope, which is the larger or the smaller of both."""
    factor, mask = work
    if slope <= 1:
        np.greater(y, ZERO[y.dtype], mask)
        np.copyto(factor, mask)
        np.maximum(factor, slope, out=factor)
    else:
        np.less_equal(y, ZERO[y.dtype], mask)
        np.copyto(factor, mask)
        np.multiply(factor, slope, factor)
        np.maximum(factor, ONE[y.dtype], out=factor)
    np.multiply(grad, factor, out)


@kernels.kernel(workspace="(...)")
def elu(x: Array, *, alpha: float, out: Array, work: tuple[Array]) -> None:
    """Positive and negative part, one of which is 0, are added."""
    (negative,) = work
    zero = ZERO[x.dtype]
    np.minimum(x, zero, out=negative)
    np.expm1(negative, negative)
    np.multiply(negative, alpha, negative)
    np.maximum(x, zero, out=out)
    np.add(out, negative, out)


@kernels.kernel(workspace="(...),(...),(...)mask")
def elu_backward(
    grad: Array, x: Array, *, alpha: float, out: Array, work: tuple[Array, Array, Array]
) -> None:
    """``exp(min(x, 0))`` is already the factor, 1 where x > 0, unless alpha differs from 1."""
    factor, weight, mask = work
    zero = ZERO[x.dtype]
    np.minimum(x, zero, out=factor)
    np.exp(factor, factor)
    if alpha != 1:
        np.less_equal(x, zero, mask)
        np.copyto(weight, mask)
        np.multiply(weight, alpha, weight)
        np.multiply(factor, weight, factor)
        np.greater(x, zero, mask)
        np.add(factor, mask, factor)
    np.multiply(grad, factor, out)


def _gelu_exponent(z: Array, out: Array) -> None:
    """``GELU_RATE z (1 + GELU_CUBIC z²)``."""
    np.multiply(z, z, out)
    np.multiply(out, GELU_CUBIC, out)
    np.add(out, ONE[z.dtype], out)
    np.multiply(out, z, out)
    np.multiply(out, GELU_RATE, out)


def _normal_cumulative(z: Array, out: Array) -> None:
    """The normal distribution function ``erfc(-z / √2) / 2``."""
    np.multiply(z, -math.sqrt(0.5), out)
    erfc_function()(out, out)
    np.multiply(out, 0.5, out)


@kernels.kernel(workspace="(...),(...),(...)")
def gelu(x: Array, *, approximate: str, out: Array, work: tuple[Array, Array, Array]) -> None:
    """``z Φ(z)``, or z times the logistic function that the tanh form is."""
    v, cumulative, rest = work
    np.maximum(x, -SATURATED, out=out)
    if approximate == "tanh":
        _gelu_exponent(out, v)
        _split_logistic(v, cumulative, rest)
    else:
        _normal_cumulative(out, cumulative)
    np.multiply(out, cumulative, out)


@kernels.kernel(workspace="(...),(...),(...),(...)")
def gelu_backward(
    grad: Array,
    x: Array,
    *,
    approximate: str,
    out: Array,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """The slope of the form asked for, times ``grad``."""
    z, slope = work[:2]
    _saturate(x, z)
    (_gelu_tanh_slope if approximate == "tanh" else _gelu_erfc_slope)(z, slope, *work[2:])
    np.multiply(grad, slope, out)


def _gelu_erfc_slope(z: Array, slope: Array, density: Array, _: Array) -> None:
    """``Φ(z) + z φ(z)``."""
    _normal_cumulative(z, slope)
    np.multiply(z, z, density)
    np.multiply(density, -0.5, density)
    np.exp(density, density)
    np.multiply(density, 1 / math.sqrt(2 * math.pi), density)
    np.multiply(density, z, density)
    np.add(slope, density, slope)


def _gelu_tanh_slope(z: Array, slope: Array, v: Array, rest: Array) -> None:
    """``s(v) (1 + z v' s(-v))`` with the logistic function s."""
    _gelu_exponent(z, v)
    _split_logistic(v, slope, rest)
    np.multiply(rest, z, rest)
    np.multiply(z, z, v)
    np.multiply(v, 3 * GELU_CUBIC * GELU_RATE, v)
    np.add(v, GELU_RATE, v)
    np.multiply(rest, v, rest)
    np.add(rest, ONE[z.dtype], rest)
    np.multiply(slope, rest, slope)


@kernels.kernel(workspace="(...),(...)")
def silu(x: Array, *, out: Array, work: tuple[Array, Array]) -> None:
    """``z sigmoid(z)``; dividing z by ``1 + exp(-z)`` loses the lower tail to overflow."""
    sigma, rest = work
    np.maximum(x, -SATURATED, out=out)
    _split_logistic(out, sigma, rest)
    np.multiply(out, sigma, out)


@kernels.kernel(workspace="(...),(...),(...)")
def silu_backward(grad: Array, x: Array, *, out: Array, work: tuple[Array, Array, Array]) -> None:
    """``grad s(z) (1 + z s(-z))`` with the logistic function s."""
    z, sigma, rest = work
    _saturate(x, z)
    _split_logistic(z, sigma, rest)
    np.multiply(z, rest, z)
    np.add(z, ONE[x.dtype], z)
    np.multiply(z, sigma, z)
    np.multiply(grad, z, out)


@kernels.kernel(workspace="(...)")
def softplus(x: Array, *, beta: float, out: Array, work: tuple[Array]) -> None:
    """``max(x, 0) + log1p(exp(-beta |x|)) / beta``."""
    (tail,) = work
    np.abs(x, tail)
    np.multiply(tail, -beta, tail)
    np.exp(tail, tail)
    np.log1p(tail, tail)
    np.divide(tail, beta, tail)
    np.maximum(x, ZERO[x.dtype], out=out)
    np.add(out, tail, out)


@kernels.kernel(workspace="(...),(...)")
def softplus_backward(
    grad: Array, x: Array, *, beta: float, out: Array, work: tuple[Array, Array]
) -> None:
    """``grad sigmoid(beta x)``, whose lower tail a large ``grad`` must still find."""
    sigma, rest = work
    np.multiply(x, beta, rest)
    _split_logistic(rest, sigma, rest)
    np.multiply(grad, sigma, out)


@kernels.kernel(workspace="(...,1)")
def softmax(x: Array, *, out: Array, work: tuple[Array]) -> None:
    """Shift by the row's maximum, exp, divide by the row's sum."""
    (column,) = work
    np.maximum.reduce(x, -1, None, column, keepdims=True)
    np.subtract(x, column, out)
    np.exp(out, out)
    np.add.reduce(out, -1, None, column, keepdims=True)
    np.divide(out, column, out)


@kernels.kernel(workspace="(...,c),(...,1)")
def softmax_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array, Array]) -> None:
    """``y (grad - sum(grad y))``."""
    product, column = work
    np.multiply(grad, y, product)
    np.add.reduce(product, -1, None, column, keepdims=True)
    np.subtract(grad, column, product)
    np.multiply(product, y, out)


@kernels.kernel(workspace="(...,c),(...,1)")
def log_softmax(x: Array, *, out: Array, work: tuple[Array, Array]) -> None:
    """Shift by the row's maximum, subtract the log of the row's sum of exps."""
    exps, column = work
    np.maximum.reduce(x, -1, None, column, keepdims=True)
    np.subtract(x, column, out)
    np.exp(out, exps)
    np.add.reduce(exps, -1, None, column, keepdims=True)
    np.log(column, column)
    np.subtract(out, column, out)


@kernels.kernel(workspace="(...,c),(...,1)")
def log_softmax_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array, Array]) -> None:
    """``grad - exp(y) sum(grad)``."""
    exps, column = work
    np.add.reduce(grad, -1, None, column, keepdims=True)
    np.exp(y, exps)
    np.multiply(exps, column, exps)
    np.subtract(grad, exps, out)
