"""Batch normalisation, a block to a few columns, and layer normalisation, a team to a row."""

from __future__ import annotations

import math
from typing import Any

from nnkernels.backends.cupy.kernels.geometry import row_teams, tile
from nnkernels.backends.cupy.launching import (
    BLOCK,
    Launch,
    Queue,
    RecipeTable,
    can_vectorise,
    ceil_div,
    storage_of,
    stride_grid,
    vector_length,
)
from nnkernels.backends.cupy.sources import ITEMSIZES

recipes = RecipeTable()

SECTOR_BYTES = 32
"""What the memory moves at least: as many columns share a block."""

SLICES = 32
"""Slices of the rows whose column sums are taken apart from one another."""


def _launch(queue: Queue, kernel: str, like: Any, grid: tuple[int, int], *arguments: Any) -> None:
    queue.launch(Launch("normalisation", kernel, storage_of(like), grid, BLOCK, arguments))


def _column_blocks(x: Any, columns: int) -> int:
    return ceil_div(columns, SECTOR_BYTES // ITEMSIZES[storage_of(x)])


def _over_columns(queue: Queue, kernel: str, x: Any, *arguments: Any) -> None:
    """Launch with a block for every few columns of ``x``."""
    rows, columns = x.shape
    if columns:
        _launch(queue, kernel, x, (_column_blocks(x, columns), 1), *arguments, rows, columns)


@recipes.recipe
def batch_norm(
    queue: Queue,
    x: Any,
    gamma: Any,
    beta: Any,
    *,
    eps: float,
    out: tuple[Any, Any, Any],
) -> None:
    """Mean, variance and result in one launch: three passes over a block's columns."""
    _over_columns(queue, "batch_norm", x, x, gamma, beta, *out, eps)


@recipes.recipe
def batch_norm_backward(
    queue: Queue,
    grad: Any,
    x: Any,
    gamma: Any,
    mean: Any,
    variance: Any,
    *,
    eps: float,
    out: tuple[Any, Any, Any],
) -> None:
    """Both sums and the gradient in one launch: two passes over a block's columns."""
    _over_columns(queue, "batch_norm_backward", x, grad, x, gamma, mean, variance, *out, eps)


@recipes.recipe
def batch_norm_inference(
    queue: Queue,
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    *,
    eps: float,
    out: Any,
) -> None:
    """``(x - mean) slope + beta`` by threads that keep their columns."""
    if not x.size:
        return
    kernel, (rows, columns), packs = "batch_norm_inference", x.shape, x.shape[1]
    arrays = (x, gamma, beta, running_mean, running_var, out)
    if can_vectorise(columns, *arrays):
        kernel, packs = f"{kernel}_vec", columns // vector_length(storage_of(x))
    shift, grid = tile(rows, packs)
    _launch(queue, kernel, x, grid, *arrays, eps, rows, columns, shift)


@recipes.recipe
def update_running_statistics(
    queue: Queue,
    running_mean: Any,
    running_var: Any,
    mean: Any,
    variance: Any,
    *,
    rows: int,
    momentum: float,
    skip: Any = None,
) -> None:
    """``running = (1 - momentum) running + momentum batch``; one row has no unbiased variance."""
    if not mean.size:
        return
    moved, unbiased = (running_var, momentum * rows / (rows - 1)) if rows > 1 else (None, 0.0)
    factors = (1 - momentum, momentum, unbiased)
    arguments = (running_mean, moved, mean, variance, *factors, mean.size, skip)
    _launch(queue, "update_running_statistics", mean, stride_grid(mean.size), *arguments)


@recipes.recipe
def layer_norm(
    queue: Queue,
    x: Any,
    gamma: Any,
    beta: Any,
    *,
    eps: float,
    out: tuple[Any, Any, Any],
) -> None:
    """Mean, variance and result of every row in one launch."""
    _over_rows(queue, "layer_norm", x, x, gamma, beta, *out, eps)


@recipes.recipe(workspace=f"products({SLICES},c),sums({SLICES},c)")
def layer_norm_backward(
    queue: Queue,
    grad: Any,
    x: Any,
    gamma: Any,
    mean: Any,
    variance: Any,
    *,
    eps: float,
    out: tuple[Any, Any, Any],
    work: tuple[Any, Any],
) -> None:
    """One launch over rows; two for the sums over them, by slices and in all."""
    grad_x, *sums = out
    if grad_x is not None:
        _over_rows(queue, "layer_norm_backward", x, grad, x, gamma, mean, variance, grad_x, eps)
    if any(total is not None for total in sums):
        _layer_norm_sums(queue, (grad, x, mean, variance, *work, eps), work, sums)


def _over_rows(queue: Queue, kernel: str, x: Any, *arguments: Any) -> None:
    """Launch with a warp or a block for every row of ``x``."""
    if x.size:
        columns = x.shape[-1]
        rows = x.size // columns
        variant, grid = row_teams(rows, columns)
        _launch(queue, kernel + variant, x, grid, *arguments, rows, columns)


def _layer_norm_sums(
    queue: Queue, arguments: tuple[Any, ...], work: tuple[Any, Any], sums: list[Any]
) -> None:
    x = arguments[1]
    rows, columns = math.prod(x.shape[:-1]), x.shape[-1]
    slices = min(ceil_div(rows, BLOCK), SLICES)
    if slices:
        grid = _column_blocks(x, columns), slices
        _launch(queue, "layer_norm_backward_sums", x, grid, *arguments, rows, columns)
    totals = (*work, *sums, slices, columns)
    _launch(queue, "layer_norm_backward_totals", x, stride_grid(columns), *totals)
