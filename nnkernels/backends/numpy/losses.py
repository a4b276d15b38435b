"""Losses and their gradients, in few passes and without temporaries."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.backends.numpy.activations import ONE, ZERO
from nnkernels.backends.numpy.activations import sigmoid as _sigmoid
from nnkernels.catalog.losses import LOG_FLOOR, PROBABILITY_FLOOR, divisor
from nnkernels.spec import Array

kernels = KernelTable(blas=False)


def _squared_distance(pred: Array, target: Array, squares: Array) -> float:
    """Pairwise sum: BLAS's dot product is less exact, and above 10,000 elements multithreaded."""
    np.subtract(pred, target, squares)
    np.multiply(squares, squares, squares)
    return _total(squares)


def _scaled_difference(pred: Array, target: Array, factor: float, out: Array) -> None:
    np.subtract(pred, target, out)
    np.multiply(out, factor, out)


def _total(terms: Array) -> float:
    return float(np.add.reduce(terms, None))


@kernels.kernel(workspace="(b,c)")
def mse(pred: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array]) -> None:
    """Squares, then their sum."""
    out[...] = _squared_distance(pred, target, work[0]) / divisor(pred.size, reduction)


@kernels.kernel
def mse_backward(grad: Array, pred: Array, target: Array, *, reduction: str, out: Array) -> None:
    """One factor for all elements."""
    _scaled_difference(pred, target, 2 * grad.item() / divisor(pred.size, reduction), out)


@kernels.kernel(workspace="(b,c)")
def mae(pred: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array]) -> None:
    """Three passes."""
    (size,) = work
    np.subtract(pred, target, size)
    np.abs(size, size)
    out[...] = _total(size) / divisor(pred.size, reduction)


@kernels.kernel
def mae_backward(grad: Array, pred: Array, target: Array, *, reduction: str, out: Array) -> None:
    """The sign of the difference, times one factor."""
    np.subtract(pred, target, out)
    np.sign(out, out)
    np.multiply(out, grad.item() / divisor(pred.size, reduction), out)


@kernels.kernel(workspace="(b,c)")
def sum_squared_error(pred: Array, target: Array, *, out: Array, work: tuple[Array]) -> None:
    """Squares, then their sum."""
    out[...] = _squared_distance(pred, target, work[0]) / len(pred)


@kernels.kernel
def sum_squared_error_backward(grad: Array, pred: Array, target: Array, *, out: Array) -> None:
    """One factor for all elements."""
    _scaled_difference(pred, target, 2 * grad.item() / len(pred), out)


@kernels.kernel(workspace="(b,c),(b,c)")
def huber(
    pred: Array,
    target: Array,
    *,
    delta: float,
    reduction: str,
    out: Array,
    work: tuple[Array, Array],
) -> None:
    """``m (|d| - m / 2)`` with ``m = min(|d|, delta)`` is both branches."""
    size, near = work
    np.subtract(pred, target, size)
    np.abs(size, size)
    np.minimum(size, delta, out=near)
    np.multiply(size, 2, size)
    np.subtract(size, near, size)
    np.multiply(size, near, size)
    out[...] = _total(size) / (2 * divisor(pred.size, reduction))


@kernels.kernel
def huber_backward(
    grad: Array, pred: Array, target: Array, *, delta: float, reduction: str, out: Array
) -> None:
    """The difference, cut off, times one factor."""
    np.subtract(pred, target, out)
    np.maximum(out, -delta, out=out)
    np.minimum(out, delta, out=out)
    np.multiply(out, grad.item() / divisor(pred.size, reduction), out)


@kernels.kernel(workspace="(b,c),(b,c)")
def binary_cross_entropy(
    pred: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array, Array]
) -> None:
    """One sum for either class: neither can cancel the other."""
    terms, weight = work
    np.log(pred, terms)
    np.maximum(terms, LOG_FLOOR, out=terms)
    np.multiply(terms, target, terms)
    total = _total(terms)
    np.negative(pred, terms)
    np.log1p(terms, terms)
    np.maximum(terms, LOG_FLOOR, out=terms)
    np.subtract(ONE[target.dtype], target, weight)
    np.multiply(terms, weight, terms)
    out[...] = -(total + _total(terms)) / divisor(pred.size, reduction)


@kernels.kernel(workspace="(b,c)")
def binary_cross_entropy_backward(
    grad: Array, pred: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array]
) -> None:
    """The scaled difference, divided by ``max(p (1 - p), 1e-12)``."""
    (spread,) = work
    np.subtract(ONE[pred.dtype], pred, spread)
    np.multiply(spread, pred, spread)
    np.maximum(spread, PROBABILITY_FLOOR, out=spread)
    _scaled_difference(pred, target, grad.item() / divisor(pred.size, reduction), out)
    np.divide(out, spread, out)


@kernels.kernel(workspace="(b,c),(b,c)mask")
def binary_cross_entropy_with_logits(
    logits: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array, Array]
) -> None:
    """``x ((x > 0) - t)``, then ``log1p(exp(-|x|))``, in one array and two sums."""
    terms, mask = work
    np.greater(logits, ZERO[logits.dtype], mask)
    np.subtract(mask, target, terms)
    np.multiply(terms, logits, terms)
    total = _total(terms)
    np.abs(logits, terms)
    np.negative(terms, terms)
    np.exp(terms, terms)
    np.log1p(terms, terms)
    out[...] = (total + _total(terms)) / divisor(logits.size, reduction)


@kernels.kernel
def binary_cross_entropy_with_logits_backward(
    grad: Array, logits: Array, target: Array, *, reduction: str, out: Array
) -> None:
    """Sigmoid in place, then the scaled difference."""
    _sigmoid(logits, out=out)
    _scaled_difference(out, target, grad.item() / divisor(logits.size, reduction), out)


def _flat_index(columns: int, target: Array, index: Array) -> None:
    """Positions of the labels in a packed matrix: ``arange(b) * columns + target``."""
    index.fill(columns)
    index[0] = 0
    np.add.accumulate(index, 0, None, index)
    np.add(index, target, index)


def _pick(values: Array, target: Array, index: Array, picked: Array) -> None:
    """For each row of ``values`` the one at the label."""
    _flat_index(values.shape[1], target, index)
    values.reshape(-1).take(index, None, picked, "clip")


def _expected(values: Array, target: Array, work: tuple[Array, Array, Array]) -> float:
    """Sum of the values at the labels, or weighted by the rows of probabilities."""
    product, index, picked = work
    if target.ndim == 1:
        _pick(values, target, index, picked)
        return _total(picked)
    np.multiply(values, target, product)
    return _total(product)


@kernels.kernel(workspace="(b,c),(b)int,(b)")
def categorical_cross_entropy(
    probs: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array, Array, Array]
) -> None:
    """Logarithms of what the labels pick, or of all."""
    logs, index, picked = work
    if target.ndim == 1:
        _pick(probs, target, index, picked)
        probs = logs = picked
    np.log(probs, logs)
    np.maximum(logs, LOG_FLOOR, out=logs)
    if target.ndim == 2:
        np.multiply(logs, target, logs)
    out[...] = -_total(logs) / divisor(len(probs), reduction)


@kernels.kernel(workspace="(b)int,(b)")
def categorical_cross_entropy_backward(
    grad: Array,
    probs: Array,
    target: Array,
    *,
    reduction: str,
    out: Array,
    work: tuple[Array, Array],
) -> None:
    """Divide where the target is not 0."""
    index, picked = work
    factor = -grad.item() / divisor(len(probs), reduction)
    if target.ndim == 2:
        np.maximum(probs, PROBABILITY_FLOOR, out=out)
        np.divide(target, out, out)
        np.multiply(out, factor, out)
        return
    _pick(probs, target, index, picked)
    np.maximum(picked, PROBABILITY_FLOOR, out=picked)
    np.divide(factor, picked, picked)
    out.fill(0)
    out.put(index, picked, "clip")


@kernels.kernel(workspace="(b,c),(b)int,(b)")
def nll_loss(
    log_probs: Array,
    target: Array,
    *,
    reduction: str,
    out: Array,
    work: tuple[Array, Array, Array],
) -> None:
    """Pick or weigh, then add up."""
    out[...] = -_expected(log_probs, target, work) / divisor(len(log_probs), reduction)


@kernels.kernel(workspace="(b)int")
def nll_loss_backward(
    grad: Array, log_probs: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array]
) -> None:
    """One value at every label, or the scaled target."""
    (index,) = work
    factor = -grad.item() / divisor(len(log_probs), reduction)
    if target.ndim == 2:
        np.multiply(target, factor, out)
        return
    _flat_index(log_probs.shape[1], target, index)
    out.fill(0)
    out.put(index, factor, "clip")


@kernels.kernel(workspace="(b,c),(b,c),(b,1),(b)int,(b)")
def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    reduction: str,
    out: tuple[Array | None, Array | None],
    work: tuple[Array, Array, Array, Array, Array],
) -> None:
    """Loss by log-sum-exp; the probabilities on the way."""
    loss, probs = out
    shifted, exps, column, index, picked = work
    if probs is not None:
        exps = probs
    np.maximum.reduce(logits, 1, None, column, keepdims=True)
    np.subtract(logits, column, shifted)
    expected = _expected(shifted, target, (exps, index, picked))
    np.exp(shifted, exps)
    np.add.reduce(exps, 1, None, column, keepdims=True)
    if probs is not None:
        np.divide(probs, column, probs)
    if loss is not None:
        total = _log_total(column, target, picked)
        loss[...] = (total - expected) / divisor(len(logits), reduction)


def _log_total(sums: Array, target: Array, weights: Array) -> float:
    """Sum of the logarithms, weighted by the sums of the target's rows (1 for a label)."""
    np.log(sums, sums)
    if target.ndim == 1:
        return _total(sums)
    np.add.reduce(target, 1, out=weights)
    np.multiply(weights, sums.reshape(-1), weights)
    return _total(weights)


@kernels.kernel(workspace="(b)int,(b),(b,1)")
def softmax_cross_entropy_backward(
    grad: Array,
    probs: Array,
    target: Array,
    *,
    reduction: str,
    out: Array,
    work: tuple[Array, Array, Array],
) -> None:
    """One factor for all elements, subtracted once more at the labels."""
    index, picked, column = work
    factor = grad.item() / divisor(len(probs), reduction)
    if target.ndim == 2:
        np.add.reduce(target, 1, None, column, keepdims=True)
        np.multiply(probs, column, out)
        _scaled_difference(out, target, factor, out)
        return
    np.multiply(probs, factor, out)
    _flat_index(probs.shape[1], target, index)
    out.take(index, None, picked, "clip")
    np.subtract(picked, factor, picked)
    out.put(index, picked, "clip")
