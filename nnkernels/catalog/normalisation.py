"""Batch and layer normalisation."""

from __future__ import annotations

import math

import numpy as np

from nnkernels.spec import Array, Cost, Error, op

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "layer_norm",
    "layer_norm_backward",
    "update_running_statistics",
]

Scales = tuple[Array, ...]

EPS = {"eps": "(0,inf)"}


def _normalise(x: Array, axis: int, eps: float) -> tuple[Array, Array, Array]:
    """``x`` with mean 0 and variance 1 along ``axis``, the mean, the variance (divided by n)."""
    mean = x.mean(axis, keepdims=True)
    centred = x - mean
    variance = np.square(centred).mean(axis, keepdims=True)
    return centred / np.sqrt(variance + eps), mean.squeeze(axis), variance.squeeze(axis)


def _normalise_scale(
    outputs: Scales, x: Array, gamma: Array, beta: Array, axis: int, eps: float
) -> Scales:
    """Errors of the mean, and what becomes of them.

    Sums of n terms spread by ``sqrt(n)``. The variance is computed from the differences: it errs
    by its own sum and by the square of the mean's error, for which float32's eps stands in all
    dtypes.
    """
    y, _, variance = outputs
    spread = np.sqrt(x.shape[axis])
    shift = spread * np.abs(x).mean(axis)
    inverse = np.abs(gamma) / np.sqrt(np.expand_dims(variance, axis) + eps)
    y_scale = (
        inverse * (np.abs(x) + np.expand_dims(shift, axis))
        + spread * np.abs(y - beta)
        + np.abs(beta)
    )
    return y_scale, shift, spread * variance + 2.0**-23 * np.square(shift)


def _normalise_backward(
    grad: Array, x: Array, gamma: Array, mean: Array, variance: Array, axis: int, eps: float
) -> tuple[Array, Array]:
    """Gradient for x, and ``grad`` times the normalised x."""
    inverse = 1 / np.sqrt(np.expand_dims(variance, axis) + eps)
    normalised = (x - np.expand_dims(mean, axis)) * inverse
    g = grad * gamma
    slope = (g * normalised).mean(axis, keepdims=True)
    return inverse * (g - g.mean(axis, keepdims=True) - normalised * slope), grad * normalised


def _normalise_backward_scale(
    grad: Array, x: Array, gamma: Array, mean: Array, variance: Array, axis: int, eps: float
) -> tuple[Array, Array]:
    """The same sums of sizes; each mean over n spreads by ``sqrt(n)``."""
    inverse = 1 / np.sqrt(np.expand_dims(variance, axis) + eps)
    normalised = np.abs(x - np.expand_dims(mean, axis)) * inverse
    g, spread = np.abs(grad * gamma), np.sqrt(x.shape[axis])
    slope = spread * (g * normalised).mean(axis, keepdims=True)
    level = spread * g.mean(axis, keepdims=True)
    return inverse * (g + level + normalised * slope), np.abs(grad) * normalised


def _row_sum(terms: Array) -> Array:
    """Sum over all dimensions but the last."""
    sums: Array = terms.sum(tuple(range(terms.ndim - 1)))
    return sums


def _row_sum_scale(terms: Array) -> Array:
    rows = math.prod(terms.shape[:-1])
    scale: Array = np.sqrt(max(rows, 1)) * _row_sum(np.abs(terms))
    return scale


def _batch_norm_scale(
    outputs: Scales, x: Array, gamma: Array, beta: Array, *, eps: float
) -> Scales:
    return _normalise_scale(outputs, x, gamma, beta, 0, eps)


@op(
    "(b+,n),(n),(n)->y(b,n),mean(n),variance(n)",
    error=Error(4, _batch_norm_scale),
    cost=Cost(7),
    saves=("x", "gamma", "mean", "variance"),
    limits=EPS,
)
def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    eps: float = 1e-5,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Normalise every column over the batch (training): ``y = gamma (x - mean) / sd + beta``.

    ``sd = sqrt(variance + eps)``; the variance divides by b. A batch of one row, which PyTorch
    refuses, gives ``beta`` (its variance is 0), so that a last short batch can be trained on.

    Shapes: ``x`` (b, n) with b >= 1, ``gamma`` and ``beta`` (n); results (b, n), (n), (n). Feed the
    last two to :func:`update_running_statistics`.

    Source: ``torch.nn.functional.batch_norm`` with ``training=True``; Ioffe and Szegedy (2015).
    """
    normalised, mean, variance = _normalise(x, 0, eps)
    return normalised * gamma + beta, mean, variance


def _batch_norm_backward_scale(
    outputs: Scales,
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    *,
    eps: float,
) -> Scales:
    grad_x, products = _normalise_backward_scale(grad, x, gamma, mean, variance, 0, eps)
    return grad_x, _row_sum_scale(products), _row_sum_scale(grad)


@batch_norm.backward(
    signature="(b+,n),(b+,n),(n),(n),(n)[0,inf)->grad_x(b,n),grad_gamma(n),grad_beta(n)",
    error=Error(4, _batch_norm_backward_scale),
    cost=Cost(10),
)
def batch_norm_backward(
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    *,
    eps: float = 1e-5,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`batch_norm` for x, gamma and beta.

    With ``z = (x - mean) / sd`` and means over the batch: ``dx = gamma / sd (grad - mean(grad) - z
    mean(grad z))``; ``dgamma`` sums ``grad z``, ``dbeta`` sums ``grad``.

    Shapes: ``grad`` and ``x`` (b, n), the others (n); results (b, n), (n), (n).
    """
    grad_x, products = _normalise_backward(grad, x, gamma, mean, variance, 0, eps)
    return grad_x, _row_sum(products), _row_sum(grad)


def _inference_scale(
    outputs: Scales,
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    eps: float,
) -> Scales:
    slope = np.abs(gamma) / np.sqrt(running_var + eps)
    return (slope * np.abs(x - running_mean) + np.abs(beta),)


@op(
    "(b,n),(n),(n),(n),(n)[0,inf)->(b,n)",
    error=Error(4, _inference_scale),
    cost=Cost(3),
    limits=EPS,
)
def batch_norm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """Normalise every column by given statistics: ``gamma (x - mean) / sqrt(var + eps) + beta``.

    Shapes: ``x`` (b, n), the others (n); result (b, n).

    Source: ``torch.nn.functional.batch_norm`` with ``training=False``.
    """
    return (x - running_mean) / np.sqrt(running_var + eps) * gamma + beta


def _running_scale(
    results: Scales,
    running_mean: Array,
    running_var: Array,
    mean: Array,
    variance: Array,
    *,
    rows: int,
    momentum: float,
) -> Scales:
    return np.abs(running_mean) + momentum * np.abs(mean), np.abs(results[1])


@op(
    "(n),(n)[0,inf),(n),(n)[0,inf)->",
    error=Error(4, _running_scale),
    cost=Cost(6),
    updates=("running_mean", "running_var"),
    limits={"rows": "[1,inf)", "momentum": "[0,1]"},
)
def update_running_statistics(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    variance: Array,
    *,
    rows: int,
    momentum: float = 0.1,
) -> tuple[Array, Array]:
    """Move running statistics towards those of a batch, in place.

    ``running = (1 - momentum) running + momentum batch``, where the batch's variance is the
    unbiased one, ``variance rows / (rows - 1)``. One row has none: ``running_var`` then stays.

    Shapes: all (n); ``mean`` and ``variance`` are those of :func:`batch_norm` over ``rows`` rows;
    ``running_mean`` starts from zeros, ``running_var`` from ones.

    Source: ``torch.nn.BatchNorm1d``.
    """
    moved = (1 - momentum) * running_mean + momentum * mean
    if rows == 1:
        return moved, running_var.copy()
    return moved, (1 - momentum) * running_var + momentum * rows / (rows - 1) * variance


def _layer_norm_scale(
    outputs: Scales, x: Array, gamma: Array, beta: Array, *, eps: float
) -> Scales:
    return _normalise_scale(outputs, x, gamma, beta, -1, eps)


@op(
    "(...,c+),(c),(c)->y(...,c),mean(...),variance(...)",
    error=Error(4, _layer_norm_scale),
    cost=Cost(7),
    saves=("x", "gamma", "mean", "variance"),
    limits=EPS,
)
def layer_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    eps: float = 1e-5,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Normalise every row over its columns: ``y = gamma (x - mean) / sqrt(variance + eps) + beta``.

    The variance divides by c.

    Shapes: ``x`` (..., c) with c >= 1, ``gamma`` and ``beta`` (c); results (..., c), (...), (...).

    Source: ``torch.nn.functional.layer_norm`` over the last dimension; Ba, Kiros and Hinton (2016).
    """
    normalised, mean, variance = _normalise(x, -1, eps)
    return normalised * gamma + beta, mean, variance


def _layer_norm_backward_scale(
    outputs: Scales,
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    *,
    eps: float,
) -> Scales:
    grad_x, products = _normalise_backward_scale(grad, x, gamma, mean, variance, -1, eps)
    return grad_x, _row_sum_scale(products), _row_sum_scale(grad)


@layer_norm.backward(
    signature="(...,c+),(...,c+),(c),(...),(...)[0,inf)->grad_x(...,c),grad_gamma(c),grad_beta(c)",
    error=Error(4, _layer_norm_backward_scale),
    cost=Cost(10),
)
def layer_norm_backward(
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    *,
    eps: float = 1e-5,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`layer_norm` for x, gamma and beta.

    With ``z = (x - mean) / sd``, ``g = grad gamma`` and means over the row: ``dx = (g - mean(g) - z
    mean(g z)) / sd``; ``dgamma`` sums ``grad z`` over the rows, ``dbeta`` sums ``grad``.

    Shapes: ``grad`` and ``x`` (..., c), ``gamma`` (c), ``mean`` and ``variance`` (...); results
    (..., c), (c), (c).
    """
    grad_x, products = _normalise_backward(grad, x, gamma, mean, variance, -1, eps)
    return grad_x, _row_sum(products), _row_sum(grad)
