"""Losses and their gradients."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.spec import Array

kernels = KernelTable()


@kernels.kernel(workspace="(b,c)")
def mse(pred: Array, target: Array, *, reduction: str, out: Array, work: tuple[Array]) -> None:
    """A dot product of the differences with themselves."""
    (difference,) = work
    np.subtract(pred, target, difference)
    flat = difference.reshape(-1)
    out[...] = np.dot(flat, flat) / (flat.size if reduction == "mean" else 1)


@kernels.kernel
def mse_backward(
    grad: Array, pred: Array, target: Array, *, reduction: str, out: Array
) -> None:
    """One factor for all elements."""
    np.subtract(pred, target, out)
    np.multiply(out, 2 * grad.item() / (pred.size if reduction == "mean" else 1), out)


@kernels.kernel(workspace="(b,c)")
def sum_squared_error(pred: Array, target: Array, *, out: Array, work: tuple[Array]) -> None:
    """A dot product of the differences with themselves."""
    (difference,) = work
    np.subtract(pred, target, difference)
    flat = difference.reshape(-1)
    out[...] = np.dot(flat, flat) / len(pred)


@kernels.kernel
def sum_squared_error_backward(grad: Array, pred: Array, target: Array, *, out: Array) -> None:
    """One factor for all elements."""
    np.subtract(pred, target, out)
    np.multiply(out, 2 * grad.item() / len(pred), out)


@kernels.kernel(workspace="(b,1),(b,c),(b)int")
def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    reduction: str,
    out: tuple[Array | None, Array | None],
    work: tuple[Array, Array, Array],
) -> None:
    """Loss by log-sum-exp; the probabilities on the way."""
    loss, probs = out
    column, logs, index = work
    np.maximum.reduce(logits, 1, None, column, True)
    np.subtract(logits, column, logs)
    exps = logs if probs is None else probs
    if loss is not None:
        total = _picked(logs, target, index)
    np.exp(logs, exps)
    np.add.reduce(exps, 1, None, column, True)
    if probs is not None:
        np.divide(probs, column, probs)
    if loss is not None:
        np.log(column, column)
        weight = _weighted(column, target)
        loss[...] = (weight - total) / (len(logits) if reduction == "mean" else 1)


def _picked(logs: Array, target: Array, index: Array) -> float:
    if target.ndim == 2:
        return float(np.einsum("ij,ij->", logs, target))
    return float(sum(logs[i, t] for i, t in enumerate(target.tolist())))


def _weighted(column: Array, target: Array) -> float:
    if target.ndim == 2:
        return float(np.einsum("ij,ik->", column, target))
    return float(np.add.reduce(column, None))


@kernels.kernel
def softmax_cross_entropy_backward(
    grad: Array, probs: Array, target: Array, *, reduction: str, out: Array
) -> None:
    """Subtract 1 at the labels, then scale."""
    np.copyto(out, probs)
    if target.ndim == 2:
        np.subtract(out, target, out)
    else:
        out[np.arange(len(target)), target] -= 1
    np.multiply(out, grad.item() / (len(probs) if reduction == "mean" else 1), out)
