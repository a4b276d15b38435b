"""Softmax over rows and its derivatives."""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.kernels.geometry import row_teams
from nnkernels.backends.cupy.launching import BLOCK, Launch, Queue, RecipeTable, storage_of

recipes = RecipeTable()


def _over_rows(queue: Queue, kernel: str, inputs: tuple[Any, ...], out: Any) -> None:
    if not out.size:
        return
    columns = out.shape[-1]
    rows = out.size // columns
    variant, grid = row_teams(rows, columns)
    arguments = (*inputs, out, rows, columns)
    queue.launch(Launch("rows", kernel + variant, storage_of(out), grid, BLOCK, arguments))


@recipes.recipe
def softmax(queue: Queue, x: Any, *, out: Any) -> None:
    """Maximum, sum and scaled exps of every row in one launch."""
    _over_rows(queue, "softmax", (x,), out)


@recipes.recipe
def softmax_backward(queue: Queue, grad: Any, y: Any, *, out: Any) -> None:
    """One launch."""
    _over_rows(queue, "softmax_backward", (grad, y), out)


@recipes.recipe
def log_softmax(queue: Queue, x: Any, *, out: Any) -> None:
    """Maximum, sum and differences of every row in one launch."""
    _over_rows(queue, "log_softmax", (x,), out)


@recipes.recipe
def log_softmax_backward(queue: Queue, grad: Any, y: Any, *, out: Any) -> None:
    """One launch."""
    _over_rows(queue, "log_softmax_backward", (grad, y), out)
