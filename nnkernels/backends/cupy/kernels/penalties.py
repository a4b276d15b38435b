"""Penalties on weights: two launches to sum, one for the gradient."""

from __future__ import annotations

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


@recipes.recipe(workspace=PARTIAL)
def l1_penalty(queue: Queue, w: Any, *, out: Any, work: Any, strength: float) -> None:
    """``strength`` times the sum of ``|w|``."""
    _penalty(queue, "l1_penalty", w, out, work, strength)


@recipes.recipe(workspace=PARTIAL)
def l2_penalty(queue: Queue, w: Any, *, out: Any, work: Any, strength: float) -> None:
    """``strength`` times the sum of ``w²``."""
    _penalty(queue, "l2_penalty", w, out, work, strength)


def _penalty(queue: Queue, kernel: str, w: Any, out: Any, work: Any, strength: float) -> None:
    (partial,) = work
    shares = sum_shares(queue, "penalties", kernel, w, partial)
    arguments = (partial, out, strength, shares)
    queue.launch(Launch("penalties", "penalty_total", storage_of(w), (1, 1), BLOCK, arguments))


@recipes.recipe
def l1_penalty_backward(queue: Queue, grad: Any, w: Any, *, out: Any, strength: float) -> None:
    """``grad strength sign(w)``, 0 at 0."""
    elementwise(queue, "penalties", "l1_penalty_backward", (grad, w), (out,), (strength,))


@recipes.recipe
def l2_penalty_backward(queue: Queue, grad: Any, w: Any, *, out: Any, strength: float) -> None:
    """``2 grad strength w``."""
    elementwise(queue, "penalties", "l2_penalty_backward", (grad, w), (out,), (strength,))
