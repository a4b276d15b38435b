"""Batch normalisation (statistics along axis 0) and layer normalisation (along the last)."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.spec import Array

kernels = KernelTable(blas=False)

Outs = tuple[Array | None, Array | None, Array | None]


def _spread(statistic: Array, axis: int) -> Array:
    """``statistic`` so that it broadcasts against the array it was taken from."""
    return statistic if axis == 0 else statistic[..., None]


def _mean(x: Array, axis: int, out: Array) -> None:
    np.add.reduce(x, axis, out=out)
    np.multiply(out, 1 / x.shape[axis], out)


def _inverse_deviation(variance: Array, eps: float, out: Array) -> None:
    np.add(variance, eps, out)
    np.sqrt(out, out)
    np.reciprocal(out, out)


def _or(wanted: Array | None, spare: Array) -> Array:
    return spare if wanted is None else wanted


def _forward(
    x: Array,
    gamma: Array,
    beta: Array,
    axis: int,
    eps: float,
    out: Outs,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """Seven passes; the variance from the differences, so that nothing cancels."""
    squares, inverse, *spare = work
    centred, mean, variance = _or(out[0], squares), _or(out[1], spare[0]), _or(out[2], spare[1])
    _mean(x, axis, mean)
    np.subtract(x, _spread(mean, axis), centred)
    np.multiply(centred, centred, squares)
    _mean(squares, axis, variance)
    if out[0] is not None:
        _inverse_deviation(variance, eps, inverse)
        np.multiply(centred, _spread(inverse, axis), centred)
        np.multiply(centred, gamma, centred)
        np.add(centred, beta, centred)


def _backward(
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    axis: int,
    eps: float,
    out: Outs,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """Eleven passes for all gradients."""
    grad_x, grad_gamma, grad_beta = out
    normalised, products, inverse, _ = work
    rows = tuple(range(x.ndim - 1))
    _inverse_deviation(variance, eps, inverse)
    np.subtract(x, _spread(mean, axis), normalised)
    np.multiply(normalised, _spread(inverse, axis), normalised)
    if grad_gamma is not None:
        np.multiply(grad, normalised, products)
        np.add.reduce(products, rows, out=grad_gamma)
    if grad_beta is not None:
        np.add.reduce(grad, rows, out=grad_beta)
    if grad_x is not None:
        np.multiply(grad, gamma, grad_x)
        _project(grad_x, axis, work)


def _project(g: Array, axis: int, work: tuple[Array, Array, Array, Array]) -> None:
    """``g = inverse (g - mean(g) - normalised mean(g normalised))``, in place."""
    normalised, products, inverse, average = work
    np.multiply(g, normalised, products)
    _mean(products, axis, average)
    np.multiply(normalised, _spread(average, axis), normalised)
    _mean(g, axis, average)
    np.subtract(g, _spread(average, axis), g)
    np.subtract(g, normalised, g)
    np.multiply(g, _spread(inverse, axis), g)


@kernels.kernel(workspace="(b,n),(n),(n),(n)")
def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    eps: float,
    out: Outs,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """Along the batch."""
    _forward(x, gamma, beta, 0, eps, out, work)


@kernels.kernel(workspace="(b,n),(b,n),(n),(n)")
def batch_norm_backward(
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    *,
    eps: float,
    out: Outs,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """Along the batch."""
    _backward(grad, x, gamma, mean, variance, 0, eps, out, work)


@kernels.kernel(workspace="(...,c),(...),(...),(...)")
def layer_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    eps: float,
    out: Outs,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """Along the rows."""
    _forward(x, gamma, beta, -1, eps, out, work)


@kernels.kernel(workspace="(...,c),(...,c),(...),(...)")
def layer_norm_backward(
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    *,
    eps: float,
    out: Outs,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """Along the rows."""
    _backward(grad, x, gamma, mean, variance, -1, eps, out, work)


@kernels.kernel(workspace="(n)")
def batch_norm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    eps: float,
    out: Array,
    work: tuple[Array],
) -> None:
    """Three passes with one factor a column."""
    (slope,) = work
    _inverse_deviation(running_var, eps, slope)
    np.multiply(slope, gamma, slope)
    np.subtract(x, running_mean, out)
    np.multiply(out, slope, out)
    np.add(out, beta, out)


@kernels.kernel(workspace="(n)")
def update_running_statistics(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    variance: Array,
    *,
    rows: int,
    momentum: float,
    work: tuple[Array],
) -> None:
    """Three passes each."""
    _move(running_mean, mean, momentum, 1.0, work[0])
    if rows > 1:
        _move(running_var, variance, momentum, rows / (rows - 1), work[0])


def _move(running: Array, batch: Array, momentum: float, factor: float, scratch: Array) -> None:
    np.multiply(batch, momentum * factor, scratch)
    np.multiply(running, 1 - momentum, running)
    np.add(running, scratch, running)
