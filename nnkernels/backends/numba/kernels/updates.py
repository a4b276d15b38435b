"""Optimizer updates, each one pass over its arrays, and gradient clipping.

What is the same for all elements (rates, bias corrections) is worked out once a call in float64
and rounded once to the dtype of the arrays. The decay's term is always there: it costs one fused
multiply-add, which waits for memory anyway.
"""

from __future__ import annotations

import math

import numpy as np

from nnkernels.backends.numba.compiling.family import Family
from nnkernels.backends.numba.compiling.intrinsics import fma, inlined, wanted
from nnkernels.backends.numba.kernels.sums import (
    PARTIAL,
    SEGMENTS,
    segment,
    sum_of_partial,
    sum_of_squares,
)
from nnkernels.spec import Array

family = Family()


@family.phase(over="...")
def sgd(param: Array, grad: Array, lr: Array, weight_decay: float) -> None:
    """``param -= lr (grad + weight_decay param)``."""
    kind = param.dtype.type
    rate, decay = kind(lr[0]), kind(weight_decay)
    for i in range(param.size):
        param[i] = fma(-rate, fma(decay, param[i], grad[i]), param[i])


@family.phase(over="...")
def momentum(
    param: Array,
    grad: Array,
    velocity: Array,
    lr: Array,
    beta: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """``velocity = beta velocity + d`` with ``d = grad + weight_decay param``.

    Then ``param -= lr velocity``, or with ``nesterov`` ``param -= lr (d + beta velocity)``.
    """
    kind = param.dtype.type
    rate, decay, keep = kind(lr[0]), kind(weight_decay), kind(beta)
    if nesterov:
        for i in range(param.size):
            direction = fma(decay, param[i], grad[i])
            speed = fma(keep, velocity[i], direction)
            velocity[i] = speed
            param[i] = fma(-rate, fma(keep, speed, direction), param[i])
    else:
        for i in range(param.size):
            speed = fma(keep, velocity[i], fma(decay, param[i], grad[i]))
            velocity[i] = speed
            param[i] = fma(-rate, speed, param[i])


@family.phase(over="...")
def rmsprop(
    param: Array,
    grad: Array,
    square_avg: Array,
    lr: Array,
    alpha: float,
    eps: float,
    weight_decay: float,
) -> None:
    """``square_avg = alpha square_avg + (1 - alpha) d²`` with ``d = grad + weight_decay param``.

    Then ``param -= lr d / (sqrt(square_avg) + eps)``.
    """
    kind = param.dtype.type
    rate, decay, small = kind(lr[0]), kind(weight_decay), kind(eps)
    keep, take = kind(alpha), kind(1 - alpha)
    for i in range(param.size):
        direction = fma(decay, param[i], grad[i])
        average = fma(keep, square_avg[i], take * (direction * direction))
        square_avg[i] = average
        param[i] -= rate * direction / (np.sqrt(average) + small)


@inlined
def bias_correction(beta: float, step: int) -> float:
    """``1 - beta^step`` without cancelling."""
    return -math.expm1(step * math.log(beta)) if beta != 0.0 else 1.0


@inlined
def adam_elements(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: float,
    step: int,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    shrink: float,
) -> None:
    """One pass for both variants: ``decay`` in the gradient, and a factor ``shrink`` of param.

    With ``r = sqrt(1 - beta2^step)`` the bias-corrected ``m̂ / (sqrt(v̂) + eps)`` is ``m r / (1 -
    beta1^step) / (sqrt(v) + eps r)``: the rate and eps hold both corrections.
    """
    kind = param.dtype.type
    root = np.sqrt(bias_correction(betas[1], step))
    rate = kind(lr * root / bias_correction(betas[0], step))
    small, fall, factor = kind(eps * root), kind(decay), kind(shrink)
    keep1, take1 = kind(betas[0]), kind(1 - betas[0])
    keep2, take2 = kind(betas[1]), kind(1 - betas[1])
    for i in range(param.size):
        direction = fma(fall, param[i], grad[i])
        first = fma(keep1, m[i], take1 * direction)
        second = fma(keep2, v[i], take2 * (direction * direction))
        m[i], v[i] = first, second
        param[i] = fma(factor, param[i], -(rate * first / (np.sqrt(second) + small)))


@family.phase(over="...")
def adam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: Array,
    step: Array,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """``param -= lr m̂ / (sqrt(v̂) + eps)`` with the averages of ``grad + weight_decay param``."""
    betas = (beta1, beta2)
    adam_elements(param, grad, m, v, lr[0], step[0], betas, eps, weight_decay, 1.0)


@family.phase(over="...")
def adamw(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: Array,
    step: Array,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """``param *= 1 - lr weight_decay``, then :func:`adam` without decay."""
    shrink = 1 - lr[0] * weight_decay
    adam_elements(param, grad, m, v, lr[0], step[0], (beta1, beta2), eps, 0.0, shrink)


@family.phase(over="...")
def clip_by_value(grad: Array, limit: float) -> None:
    """Elements beyond a limit become the limit; NaN is beyond none."""
    high = grad.dtype.type(limit)
    for i in range(grad.size):
        value = high if grad[i] > high else grad[i]
        grad[i] = -high if value < -high else value


family.workspace("clip_by_global_norm", f"{PARTIAL},factor(1)scalar")


@family.phase("clip_by_global_norm", over=SEGMENTS)
def squares_of_gradient(grad: Array, partial: Array, first: int) -> None:
    """Sum of the squares of each segment."""
    for i in range(partial.size):
        partial[i] = sum_of_squares(segment(grad, first + i))


@family.phase("clip_by_global_norm", makes=())
def norm_and_factor(partial: Array, factor: Array, out: Array, max_norm: float) -> None:
    """The norm, and ``min(1, max_norm / (norm + 1e-6))``, which is NaN for a norm of NaN."""
    norm = np.sqrt(sum_of_partial(partial))
    if wanted(out):
        out[0] = norm
    quotient = max_norm / (norm + 1e-6)
    factor[0] = 1.0 if quotient > 1 else quotient


@family.phase(over="...")
def clip_by_global_norm(grad: Array, factor: Array) -> None:
    """``grad *= factor``, where that changes anything."""
    scale = grad.dtype.type(factor[0])
    if scale != 1:
        for i in range(grad.size):
            grad[i] *= scale
