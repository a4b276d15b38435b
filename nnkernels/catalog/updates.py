"""Optimizer updates of parameter arrays, and gradient clipping.

All work in place on the arguments named first in their docstrings; ``lr`` is a number above 0,
``step`` counts the updates from 1, ``weight_decay`` is the factor of the L2 gradient
``weight_decay * param`` that is added to ``grad`` (:func:`adamw` differs).
"""

from __future__ import annotations

import math

import numpy as np

from nnkernels.spec import Array, Cost, Error, op

__all__ = [
    "adam",
    "adamw",
    "clip_by_global_norm",
    "clip_by_value",
    "momentum",
    "rmsprop",
    "sgd",
]

Scales = tuple[Array, ...]

DECAY = {"weight_decay": "[0,inf)"}
UNIT = "[0,1)"
BETAS = {"beta1": UNIT, "beta2": UNIT, "eps": "(0,inf)", **DECAY}


def bias_correction(beta: float, step: int) -> float:
    """``1 - beta^step``, the weight of all that an average from 0 has seen.

    Written like that it cancels: with a beta of 0.999 two hundred rounding errors at the first
    steps, where the result is 0.001.
    """
    return -math.expm1(step * math.log(beta)) if beta else 1.0


def _direction_size(param: Array, grad: Array, weight_decay: float) -> Array:
    """Size of the terms of ``grad + weight_decay param``, which may cancel."""
    size: Array = np.abs(grad) + weight_decay * np.abs(param)
    return size


def _sgd_scale(
    results: Scales, param: Array, grad: Array, lr: Array, *, weight_decay: float
) -> Scales:
    return (np.abs(param) + lr * _direction_size(param, grad, weight_decay),)


@op(
    "(...),(...),()scalar(0,inf)->",
    # In float64 the oracle rounds as well: it, and a kernel that applies the decay to param first,
    # round a term four times each, by up to eps / 2.
    error=Error(4, _sgd_scale),
    cost=Cost(2),
    updates=("param",),
    limits=DECAY,
)
def sgd(param: Array, grad: Array, lr: Array, *, weight_decay: float = 0.0) -> Array:
    """Gradient descent ``param -= lr (grad + weight_decay param)``, in place.

    Shapes: ``param`` and ``grad`` alike.

    Source: ``torch.optim.SGD``.
    """
    return param - lr * (grad + weight_decay * param)


def _momentum_scale(
    results: Scales,
    param: Array,
    grad: Array,
    velocity: Array,
    lr: Array,
    *,
    beta: float,
    nesterov: bool,
    weight_decay: float,
) -> Scales:
    direction = _direction_size(param, grad, weight_decay)
    speed = beta * np.abs(velocity) + direction
    step = direction + beta * speed if nesterov else speed
    return np.abs(param) + lr * step, speed


@op(
    "(...),(...),(...),()scalar(0,inf)->",
    error=Error(4, _momentum_scale),
    cost=Cost(4),
    updates=("param", "velocity"),
    limits={"beta": UNIT, **DECAY},
)
def momentum(
    param: Array,
    grad: Array,
    velocity: Array,
    lr: Array,
    *,
    beta: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Array, Array]:
    """Gradient descent with momentum; ``param`` and ``velocity`` change in place.

    ``velocity = beta velocity + d`` with ``d = grad + weight_decay param``; then ``param -= lr
    velocity``, or with ``nesterov`` ``param -= lr (d + beta velocity)``.

    Shapes: ``param``, ``grad`` and ``velocity`` (zeros at first) alike.

    Source: ``torch.optim.SGD`` with dampening 0; Sutskever et al. (2013).
    """
    direction = grad + weight_decay * param
    velocity = beta * velocity + direction
    step = direction + beta * velocity if nesterov else velocity
    return param - lr * step, velocity


def _quotient_scale(top: Array, root: Array, slack: Array, bottom: Array) -> Array:
    """Size of the errors of ``top / bottom``, where the root in ``bottom`` errs by ``slack``."""
    scale: Array = np.abs(top) / bottom * (1 + (root + slack) / bottom)
    return scale


def _rmsprop_scale(
    results: Scales,
    param: Array,
    grad: Array,
    square_avg: Array,
    lr: Array,
    *,
    alpha: float,
    eps: float,
    weight_decay: float,
) -> Scales:
    direction = _direction_size(param, grad, weight_decay)
    root = np.sqrt(results[1])
    step = _quotient_scale(direction, root, np.sqrt(1 - alpha) * direction, root + eps)
    average = alpha * np.abs(square_avg) + (1 - alpha) * np.square(direction)
    return np.abs(param) + lr * step, average


@op(
    "(...),(...),(...)[0,inf),()scalar(0,inf)->",
    error=Error(4, _rmsprop_scale),
    cost=Cost(7),
    updates=("param", "square_avg"),
    limits={"alpha": UNIT, "eps": "(0,inf)", **DECAY},
)
def rmsprop(
    param: Array,
    grad: Array,
    square_avg: Array,
    lr: Array,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, Array]:
    """Gradient over its running root mean square; ``param`` and ``square_avg`` change in place.

    With ``d = grad + weight_decay param``: ``square_avg = alpha square_avg + (1 - alpha) d²``, then
    ``param -= lr d / (sqrt(square_avg) + eps)``.

    Shapes: ``param``, ``grad`` and ``square_avg`` (zeros at first) alike.

    Source: ``torch.optim.RMSprop`` with momentum 0, not centered; Tieleman and Hinton (2012).
    """
    direction = grad + weight_decay * param
    square_avg = alpha * square_avg + (1 - alpha) * np.square(direction)
    return param - lr * direction / (np.sqrt(square_avg) + eps), square_avg


def _adam_scale(
    results: Scales,
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
) -> Scales:
    direction = _direction_size(param, grad, weight_decay)
    first = beta1 * np.abs(m) + (1 - beta1) * direction
    second = beta2 * np.abs(v) + (1 - beta2) * np.square(direction)
    correction = np.sqrt(bias_correction(beta2, int(step)))
    root = np.sqrt(results[2]) / correction
    slack = np.sqrt(1 - beta2) * direction / correction
    change = _quotient_scale(first, root, slack, root + eps) / bias_correction(beta1, int(step))
    return np.abs(param) + lr * change, first, second


def _adamw_scale(
    results: Scales,
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: Array,
    step: Array,
    *,
    weight_decay: float,
    **params: float,
) -> Scales:
    change, first, second = _adam_scale(
        results, param, grad, m, v, lr, step, weight_decay=0.0, **params
    )
    return change + lr * weight_decay * np.abs(param), first, second


_ADAM = "(...),(...),(...),(...)[0,inf),()scalar(0,inf),()counter[1,inf)->"


@op(
    _ADAM,
    error=Error(6, _adam_scale),
    cost=Cost(11),
    updates=("param", "m", "v"),
    limits=BETAS,
)
def adam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: Array,
    step: Array,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Adam with bias correction; ``param``, ``m`` and ``v`` change in place.

    With ``d = grad + weight_decay param``: ``m = beta1 m + (1 - beta1) d``, ``v = beta2 v + (1 -
    beta2) d²``, then ``param -= lr m̂ / (sqrt(v̂) + eps)`` with ``m̂ = m / (1 - beta1^step)`` and
    ``v̂ = v / (1 - beta2^step)``.

    Shapes: ``param``, ``grad``, ``m`` and ``v`` (zeros at first) alike.

    Source: ``torch.optim.Adam``; Kingma and Ba (2015), algorithm 1.
    """
    grad = grad + weight_decay * param
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * np.square(grad)
    root = np.sqrt(v) / np.sqrt(bias_correction(beta2, int(step))) + eps
    return param - lr / bias_correction(beta1, int(step)) * m / root, m, v


@op(
    _ADAM,
    error=Error(4, _adamw_scale),
    cost=Cost(12),
    updates=("param", "m", "v"),
    limits=BETAS,
)
def adamw(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: Array,
    step: Array,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Array, Array, Array]:
    """Adam with decoupled decay: ``param *= 1 - lr weight_decay``, then :func:`adam` without.

    Shapes: ``param``, ``grad``, ``m`` and ``v`` (zeros at first) alike.

    Source: ``torch.optim.AdamW``; Loshchilov and Hutter (2019).
    """
    decayed = param * (1 - lr * weight_decay)
    return adam.reference(
        decayed, grad, m, v, lr, step, beta1=beta1, beta2=beta2, eps=eps, weight_decay=0.0
    )


@op("(...)->", error=Error(1), updates=("grad",), limits={"limit": "(0,inf)"})
def clip_by_value(grad: Array, *, limit: float = 1.0) -> Array:
    """Clip every element of ``grad`` to [-limit, limit], in place. NaN stays.

    Shapes: ``grad`` of any shape.

    Source: ``torch.nn.utils.clip_grad_value_``.
    """
    clipped: Array = np.clip(grad, -limit, limit)
    return clipped


def _norm_scale(results: Scales, grad: Array, *, max_norm: float) -> Scales:
    norm, clipped = results
    return np.abs(norm), np.abs(clipped)


@op(
    "(...)->norm()scalar",
    error=Error(8, _norm_scale),
    cost=Cost(lambda dims: 3.0 * float(np.prod(dims["..."]))),
    updates=("grad",),
    limits={"max_norm": "(0,inf)"},
)
def clip_by_global_norm(
    grad: Array, *, max_norm: float = 1.0, out: Array | None = None
) -> tuple[Array, Array]:
    """Euclidean norm of ``grad``, which is scaled in place to at most ``max_norm``.

    ``grad *= min(1, max_norm / (norm + 1e-6))``. The squares are summed in float64, so a float32
    ``grad`` of any size has the right norm. An infinite norm scales by 0 and a norm of NaN by
    NaN, so ``grad`` is then not finite, as it was before.

    Shapes: ``grad`` of any shape (one flat vector of all gradients); result () float64.

    Source: ``torch.nn.utils.clip_grad_norm_``; Pascanu et al. (2013).
    """
    norm = np.sqrt(np.square(grad.astype(np.float64)).sum())
    return np.asarray(norm), grad * np.minimum(max_norm / (norm + 1e-6), 1.0)
