"""Optimizer updates, each one launch, and gradient clipping.

Rates and the step counter stay on the device, where the kernels read them. ``skip`` is a counter
on the device, or None: where it is not 0 the kernels change nothing.
"""

from __future__ import annotations

import math
from typing import Any

from nnkernels.backends.cupy.kernels.sums import PARTIAL, sum_shares
from nnkernels.backends.cupy.launching import (
    BLOCK,
    Launch,
    Queue,
    RecipeTable,
    elementwise,
    storage_of,
)

recipes = RecipeTable()


@recipes.recipe
def sgd(
    queue: Queue, param: Any, grad: Any, lr: Any, *, weight_decay: float, skip: Any = None
) -> None:
    """``param -= lr (grad + weight_decay param)``."""
    elementwise(queue, "updates", "sgd", (param, grad, lr), (), (weight_decay,), skip)


@recipes.recipe
def momentum(
    queue: Queue,
    param: Any,
    grad: Any,
    velocity: Any,
    lr: Any,
    *,
    beta: float,
    nesterov: bool,
    weight_decay: float,
    skip: Any = None,
) -> None:
    """``velocity = beta velocity + grad + weight_decay param``, and a step along it."""
    arrays, params = (param, grad, velocity, lr), (beta, int(nesterov), weight_decay)
    elementwise(queue, "updates", "momentum", arrays, (), params, skip)


@recipes.recipe
def rmsprop(
    queue: Queue,
    param: Any,
    grad: Any,
    square_avg: Any,
    lr: Any,
    *,
    alpha: float,
    eps: float,
    weight_decay: float,
    skip: Any = None,
) -> None:
    """A step along the gradient over its running root mean square."""
    arrays, params = (param, grad, square_avg, lr), (alpha, 1 - alpha, eps, weight_decay)
    elementwise(queue, "updates", "rmsprop", arrays, (), params, skip)


@recipes.recipe
def adam(
    queue: Queue,
    param: Any,
    grad: Any,
    m: Any,
    v: Any,
    lr: Any,
    step: Any,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    skip: Any = None,
) -> None:
    """``param -= lr m̂ / (sqrt(v̂) + eps)``, with ``weight_decay param`` in the gradient."""
    arrays, params = (param, grad, m, v, lr, step), (*_average(beta1), *_average(beta2), eps)
    elementwise(queue, "updates", "adam", arrays, (), (*params, weight_decay), skip)


@recipes.recipe
def adamw(
    queue: Queue,
    param: Any,
    grad: Any,
    m: Any,
    v: Any,
    lr: Any,
    step: Any,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    skip: Any = None,
) -> None:
    """``param *= 1 - lr weight_decay``, then :func:`adam` without decay."""
    arrays, params = (param, grad, m, v, lr, step), (*_average(beta1), *_average(beta2), eps)
    elementwise(queue, "updates", "adamw", arrays, (), (*params, weight_decay), skip)


def _average(beta: float) -> tuple[float, float, float]:
    """What a kernel takes of an average's factor: itself, ``1 - beta``, and its logarithm."""
    return beta, 1 - beta, math.log(beta) if beta else -math.inf


@recipes.recipe
def clip_by_value(queue: Queue, grad: Any, *, limit: float, skip: Any = None) -> None:
    """Elements beyond a limit become the limit."""
    elementwise(queue, "updates", "clip_by_value", (grad,), (), (limit,), skip)


@recipes.recipe(workspace=f"{PARTIAL}scalar,factor()scalar")
def clip_by_global_norm(
    queue: Queue, grad: Any, *, out: Any, work: tuple[Any, Any], max_norm: float, skip: Any = None
) -> None:
    """The norm, and the gradient times ``min(1, max_norm / (norm + 1e-6))``: three launches."""
    partial, factor = work
    shares = sum_shares(queue, "updates", "sum_of_squares", grad, partial, skip)
    arguments = (partial, out, factor, max_norm, shares, skip)
    storage = storage_of(grad)
    queue.launch(Launch("updates", "norm_and_factor", storage, (1, 1), BLOCK, arguments))
    elementwise(queue, "updates", "clip_by_global_norm", (grad, factor), (), (), skip)
