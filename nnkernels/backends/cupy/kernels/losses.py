"""Losses and their gradients.

A loss is two launches: every block leaves the sum of its terms in scratch, then one block adds
these up. Both always in the same order, so that a result has the same bits every time.
"""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.kernels.geometry import row_teams, tile
from nnkernels.backends.cupy.launching import (
    BLOCK,
    MAX_BLOCKS,
    Launch,
    Queue,
    RecipeTable,
    can_vectorise,
    elementwise,
    storage_of,
    stride_grid,
    vector_length,
)
from nnkernels.catalog.losses import divisor

recipes = RecipeTable()

PARTIAL = f"({MAX_BLOCKS})"
"""Scratch for one sum a block."""


def _launch(queue: Queue, kernel: str, like: Any, grid: tuple[int, int], *arguments: Any) -> None:
    queue.launch(Launch("losses", kernel, storage_of(like), grid, BLOCK, arguments))


def _total(queue: Queue, partial: Any, blocks: int, out: Any, count: int) -> None:
    """The blocks' sums in one, divided by ``count``."""
    _launch(queue, "total", partial, (1, 1), partial, out, 1 / count, blocks)


def _by_elements(
    queue: Queue,
    kernel: str,
    pred: Any,
    target: Any,
    out: Any,
    partial: Any,
    count: int,
    *params: float,
) -> None:
    """A loss whose terms belong to elements."""
    items = pred.size
    if can_vectorise(items, pred, target):
        kernel, items = f"{kernel}_vec", items // vector_length(storage_of(pred))
    grid = stride_grid(items)
    _launch(queue, kernel, pred, grid, pred, target, partial, *params, pred.size)
    _total(queue, partial, grid[0], out, count)


def _by_classes(
    queue: Queue, kernel: str, pred: Any, target: Any, out: Any, partial: Any, reduction: str
) -> None:
    """A loss with one sample a row, whose target is a label or a row of probabilities."""
    count = divisor(len(pred), reduction)
    if target.ndim == 2:
        _by_elements(queue, kernel, pred, target, out, partial, count)
        return
    grid = stride_grid(len(pred))
    _launch(queue, f"{kernel}_labels", pred, grid, pred, target, partial, *pred.shape)
    _total(queue, partial, grid[0], out, count)


def _gradient(
    queue: Queue,
    kernel: str,
    grad: Any,
    pred: Any,
    target: Any,
    out: Any,
    count: int,
    *params: float,
) -> None:
    """The gradient of a loss whose terms belong to elements."""
    elementwise(queue, "losses", kernel, (pred, target, grad), (out,), (1 / count, *params))


def _class_gradient(
    queue: Queue, kernel: str, grad: Any, pred: Any, target: Any, out: Any, reduction: str
) -> None:
    """The gradient of a loss with one sample a row."""
    count = divisor(len(pred), reduction)
    if target.ndim == 2:
        _gradient(queue, kernel, grad, pred, target, out, count)
        return
    shift, grid = tile(*pred.shape)
    arguments = (pred, target, grad, out, 1 / count, *pred.shape, shift)
    _launch(queue, f"{kernel}_labels", pred, grid, *arguments)


# --- by elements -------------------------------------------------------------------------------


@recipes.recipe(workspace=PARTIAL)
def mse(
    queue: Queue, pred: Any, target: Any, *, reduction: str, out: Any, work: tuple[Any]
) -> None:
    """Squares in one sum."""
    _by_elements(queue, "mse", pred, target, out, *work, divisor(pred.size, reduction))


@recipes.recipe
def mse_backward(
    queue: Queue, grad: Any, pred: Any, target: Any, *, reduction: str, out: Any
) -> None:
    """One pass."""
    _gradient(queue, "mse_backward", grad, pred, target, out, divisor(pred.size, reduction))


@recipes.recipe(workspace=PARTIAL)
def mae(
    queue: Queue, pred: Any, target: Any, *, reduction: str, out: Any, work: tuple[Any]
) -> None:
    """Sizes in one sum."""
    _by_elements(queue, "mae", pred, target, out, *work, divisor(pred.size, reduction))


@recipes.recipe
def mae_backward(
    queue: Queue, grad: Any, pred: Any, target: Any, *, reduction: str, out: Any
) -> None:
    """One pass."""
    _gradient(queue, "mae_backward", grad, pred, target, out, divisor(pred.size, reduction))


@recipes.recipe(workspace=PARTIAL)
def sum_squared_error(queue: Queue, pred: Any, target: Any, *, out: Any, work: tuple[Any]) -> None:
    """The sum of mse, divided by the rows."""
    _by_elements(queue, "mse", pred, target, out, *work, len(pred))


@recipes.recipe
def sum_squared_error_backward(
    queue: Queue, grad: Any, pred: Any, target: Any, *, out: Any
) -> None:
    """The gradient of mse, divided by the rows."""
    _gradient(queue, "mse_backward", grad, pred, target, out, len(pred))


@recipes.recipe(workspace=PARTIAL)
def huber(
    queue: Queue,
    pred: Any,
    target: Any,
    *,
    delta: float,
    reduction: str,
    out: Any,
    work: tuple[Any],
) -> None:
    """Both branches in one sum."""
    count = divisor(pred.size, reduction)
    _by_elements(queue, "huber", pred, target, out, *work, count, delta)


@recipes.recipe
def huber_backward(
    queue: Queue, grad: Any, pred: Any, target: Any, *, delta: float, reduction: str, out: Any
) -> None:
    """One pass."""
    count = divisor(pred.size, reduction)
    _gradient(queue, "huber_backward", grad, pred, target, out, count, delta)


@recipes.recipe(workspace=PARTIAL)
def binary_cross_entropy(
    queue: Queue, pred: Any, target: Any, *, reduction: str, out: Any, work: tuple[Any]
) -> None:
    """Both logarithms in one sum."""
    count = divisor(pred.size, reduction)
    _by_elements(queue, "binary_cross_entropy", pred, target, out, *work, count)


@recipes.recipe
def binary_cross_entropy_backward(
    queue: Queue, grad: Any, pred: Any, target: Any, *, reduction: str, out: Any
) -> None:
    """One pass."""
    count = divisor(pred.size, reduction)
    _gradient(queue, "binary_cross_entropy_backward", grad, pred, target, out, count)


@recipes.recipe(workspace=PARTIAL)
def binary_cross_entropy_with_logits(
    queue: Queue, logits: Any, target: Any, *, reduction: str, out: Any, work: tuple[Any]
) -> None:
    """Terms without cancellation in one sum."""
    count = divisor(logits.size, reduction)
    _by_elements(queue, "binary_cross_entropy_with_logits", logits, target, out, *work, count)


@recipes.recipe
def binary_cross_entropy_with_logits_backward(
    queue: Queue, grad: Any, logits: Any, target: Any, *, reduction: str, out: Any
) -> None:
    """One pass."""
    kernel = "binary_cross_entropy_with_logits_backward"
    _gradient(queue, kernel, grad, logits, target, out, divisor(logits.size, reduction))


# --- by classes --------------------------------------------------------------------------------


@recipes.recipe(workspace=PARTIAL)
def categorical_cross_entropy(
    queue: Queue, probs: Any, target: Any, *, reduction: str, out: Any, work: tuple[Any]
) -> None:
    """Logarithms at the labels, or of all."""
    _by_classes(queue, "categorical_cross_entropy", probs, target, out, *work, reduction)


@recipes.recipe
def categorical_cross_entropy_backward(
    queue: Queue, grad: Any, probs: Any, target: Any, *, reduction: str, out: Any
) -> None:
    """One pass."""
    kernel = "categorical_cross_entropy_backward"
    _class_gradient(queue, kernel, grad, probs, target, out, reduction)


@recipes.recipe(workspace=PARTIAL)
def nll_loss(
    queue: Queue, log_probs: Any, target: Any, *, reduction: str, out: Any, work: tuple[Any]
) -> None:
    """What the labels pick, or all weighed."""
    _by_classes(queue, "nll_loss", log_probs, target, out, *work, reduction)


@recipes.recipe
def nll_loss_backward(
    queue: Queue, grad: Any, log_probs: Any, target: Any, *, reduction: str, out: Any
) -> None:
    """One pass."""
    _class_gradient(queue, "nll_loss_backward", grad, log_probs, target, out, reduction)


@recipes.recipe(workspace=PARTIAL)
def softmax_cross_entropy(
    queue: Queue,
    logits: Any,
    target: Any,
    *,
    reduction: str,
    out: tuple[Any | None, Any | None],
    work: tuple[Any],
) -> None:
    """A row to a warp or a block; its loss and its probabilities in one launch."""
    loss, probs = out
    (partial,) = work
    variant, grid = row_teams(*logits.shape)
    kernel = f"softmax_cross_entropy_{targets_are(target)}{variant}"
    _launch(queue, kernel, logits, grid, logits, target, probs, partial, *logits.shape)
    if loss is not None:
        _total(queue, partial, grid[0], loss, divisor(len(logits), reduction))


@recipes.recipe
def softmax_cross_entropy_backward(
    queue: Queue, grad: Any, probs: Any, target: Any, *, reduction: str, out: Any
) -> None:
    """A row to a warp or a block."""
    if not out.size:
        return
    variant, grid = row_teams(*probs.shape)
    kernel = f"softmax_cross_entropy_backward_{targets_are(target)}{variant}"
    scale = 1 / divisor(len(probs), reduction)
    _launch(queue, kernel, probs, grid, probs, target, grad, out, scale, *probs.shape)


def targets_are(target: Any) -> str:
    """The part of a kernel's name that says what targets it takes."""
    return "labels" if target.ndim == 1 else "rows"
