"""Optimizer updates, blocked so that all passes over a block stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.catalog.updates import bias_correction
from nnkernels.spec import Array

kernels = KernelTable(blas=False)

BLOCK = 65536
"""Elements of a block. Measured for Adam on 670,000 float32 parameters: 4096 elements take twice
as long (calls), 16384 a quarter longer, more than this no less."""

SUM_BLOCK = 8192
"""Elements of a block of a dot product: below the length at which OpenBLAS uses threads, so that
norms do not depend on their number."""

ONE = f"({BLOCK})"
TWO = f"({BLOCK}),({BLOCK})"


def _blocks(length: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same consecutive one-dimensional pieces of all arrays, as views whatever the strides."""
    if arrays[0].ndim != 1:
        if all(a.flags.c_contiguous for a in arrays):
            arrays = tuple([a.reshape(-1) for a in arrays])
        else:
            for rows in zip(*arrays, strict=True):
                yield from _blocks(length, *rows)
            return
    for start in range(0, arrays[0].size, length):
        yield tuple([a[start : start + length] for a in arrays])


def _direction(p: Array, g: Array, weight_decay: float, scratch: Array) -> Array:
    """``g + weight_decay p``: g itself without decay, else in scratch."""
    if weight_decay == 0:
        return g
    s = scratch[: p.size]
    np.multiply(p, weight_decay, s)
    np.add(s, g, s)
    return s


def _average(average: Array, value: Array, decay: float, scratch: Array) -> None:
    """``average = decay average + (1 - decay) value``; scratch may be value."""
    np.multiply(value, 1 - decay, scratch)
    np.multiply(average, decay, average)
    np.add(average, scratch, average)


def _subtract(p: Array, direction: Array, rate: float, scratch: Array) -> None:
    """``p -= rate direction``; scratch may be direction."""
    np.multiply(direction, rate, scratch)
    np.subtract(p, scratch, p)


@kernels.kernel(workspace=ONE)
def sgd(param: Array, grad: Array, lr: Array, *, weight_decay: float, work: tuple[Array]) -> None:
    """Two passes a block, three with decay."""
    rate = lr.item()
    for p, g in _blocks(BLOCK, param, grad):
        if weight_decay:
            np.multiply(p, 1 - rate * weight_decay, p)
        _subtract(p, g, rate, work[0][: p.size])


@kernels.kernel(workspace=TWO)
def momentum(
    param: Array,
    grad: Array,
    velocity: Array,
    lr: Array,
    *,
    beta: float,
    nesterov: bool,
    weight_decay: float,
    work: tuple[Array, Array],
) -> None:
    """Four passes a block; decay and Nesterov's step cost two more each."""
    rate = lr.item()
    for p, g, v in _blocks(BLOCK, param, grad, velocity):
        s = work[0][: p.size]
        d = _direction(p, g, weight_decay, work[1])
        np.multiply(v, beta, v)
        np.add(v, d, v)
        if nesterov:
            _subtract(p, d, rate, s)
        _subtract(p, v, rate * beta if nesterov else rate, s)


@kernels.kernel(workspace=TWO)
def rmsprop(
    param: Array,
    grad: Array,
    square_avg: Array,
    lr: Array,
    *,
    alpha: float,
    eps: float,
    weight_decay: float,
    work: tuple[Array, Array],
) -> None:
    """Nine passes a block, two more with decay."""
    rate = lr.item()
    for p, g, v in _blocks(BLOCK, param, grad, square_avg):
        s = work[0][: p.size]
        d = _direction(p, g, weight_decay, work[1])
        np.multiply(d, d, s)
        _average(v, s, alpha, s)
        np.sqrt(v, s)
        np.add(s, eps, s)
        np.divide(d, s, s)
        _subtract(p, s, rate, s)


@kernels.kernel(workspace=TWO)
def adam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: Array,
    step: Array,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    work: tuple[Array, Array],
) -> None:
    """Twelve passes a block, two more with decay."""
    rate, small = _corrected(lr.item(), step.item(), beta1, beta2, eps)
    for p, g, mm, vv in _blocks(BLOCK, param, grad, m, v):
        d = _direction(p, g, weight_decay, work[1])
        _adam_block(p, d, mm, vv, work[0][: p.size], rate, beta1, beta2, small)


@kernels.kernel(workspace=ONE)
def adamw(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: Array,
    step: Array,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    work: tuple[Array],
) -> None:
    """Twelve passes a block, one more with decay."""
    rate, small = _corrected(lr.item(), step.item(), beta1, beta2, eps)
    for p, g, mm, vv in _blocks(BLOCK, param, grad, m, v):
        if weight_decay:
            np.multiply(p, 1 - lr.item() * weight_decay, p)
        _adam_block(p, g, mm, vv, work[0][: p.size], rate, beta1, beta2, small)


def _corrected(lr: float, step: int, beta1: float, beta2: float, eps: float) -> tuple[float, float]:
    """Rate and eps that hold both bias corrections: ``m / (sqrt(v) + eps)`` needs no others."""
    root = math.sqrt(bias_correction(beta2, step))
    return lr * root / bias_correction(beta1, step), eps * root


def _adam_block(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    s: Array,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    _average(m, g, beta1, s)
    np.multiply(g, g, s)
    _average(v, s, beta2, s)
    np.sqrt(v, s)
    np.add(s, eps, s)
    np.divide(m, s, s)
    _subtract(p, s, rate, s)


@kernels.kernel
def clip_by_value(grad: Array, *, limit: float) -> None:
    """Two passes, which keep NaN."""
    np.minimum(grad, limit, out=grad)
    np.maximum(grad, -limit, out=grad)


@kernels.kernel(workspace=f"({SUM_BLOCK})scalar", blas=True)
def clip_by_global_norm(grad: Array, *, max_norm: float, out: Array, work: tuple[Array]) -> None:
    """Dot products of float64 blocks; the second pass only where something is clipped."""
    total = 0.0
    for (g,) in _blocks(SUM_BLOCK, grad):
        s = work[0][: g.size]
        np.copyto(s, g)
        total += np.dot(s, s).item()
    norm = math.sqrt(total)
    out[...] = norm
    # In this order a norm of NaN stays NaN.
    coefficient = min(max_norm / (norm + 1e-6), 1.0)
    if coefficient != 1:
        np.multiply(grad, coefficient, grad)
