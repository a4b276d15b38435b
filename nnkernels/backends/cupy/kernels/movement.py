"""Moving and counting: rows of a batch, labels, hits."""

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
    storage_of,
    stride_grid,
    vector_length,
)

recipes = RecipeTable()


@recipes.recipe
def gather_rows(queue: Queue, x: Any, rows: Any, *, out: Any) -> None:
    """A tile of rows to a block, 16 bytes at a time where they allow."""
    if not out.size:
        return
    if x.ndim == 1:
        _gather(queue, "gather_numbers", "float32", (x, rows, out), 1, 1)
        return
    storage, columns = storage_of(x), x.shape[1]
    if can_vectorise(columns, x, out):
        arrays, items = (x, rows, out), columns // vector_length(storage)
        _gather(queue, "gather_rows_vec", storage, arrays, columns, items)
    else:
        _gather(queue, "gather_rows", storage, (x, rows, out), columns, columns)


def _gather(
    queue: Queue, kernel: str, storage: str, arrays: tuple[Any, ...], columns: int, items: int
) -> None:
    """A row has ``columns`` elements and is moved in ``items`` pieces."""
    count = arrays[1].size
    shift, grid = tile(count, items)
    arguments = (*arrays, count, columns, shift)
    queue.launch(Launch("movement", kernel, storage, grid, BLOCK, arguments))


@recipes.recipe
def one_hot(queue: Queue, labels: Any, *, classes: int, dtype: str, out: Any) -> None:
    """One launch; ``out`` has the dtype."""
    if not out.size:
        return
    shift, grid = tile(labels.size, classes)
    arguments = (labels, out, labels.size, classes, shift)
    queue.launch(Launch("movement", "one_hot", storage_of(out), grid, BLOCK, arguments))


@recipes.recipe
def argmax(queue: Queue, x: Any, *, out: Any) -> None:
    """A row to a warp or a block."""
    if not out.size:
        return
    variant, grid = row_teams(*x.shape)
    arguments = (x, out, *x.shape)
    queue.launch(Launch("movement", f"argmax{variant}", storage_of(x), grid, BLOCK, arguments))


@recipes.recipe(workspace=f"({MAX_BLOCKS})int")
def count_correct(
    queue: Queue, scores: Any, targets: Any, *, threshold: float, out: Any, work: tuple[Any]
) -> None:
    """The hits of every block, then their sum: two launches, and the first only for some rows."""
    (partial,) = work
    blocks = _count_by_blocks(queue, scores, targets, threshold, partial) if scores.size else 0
    arguments = (partial, out, blocks)
    queue.launch(Launch("movement", "total_hits", storage_of(scores), (1, 1), BLOCK, arguments))


def _count_by_blocks(
    queue: Queue, scores: Any, targets: Any, threshold: float, partial: Any
) -> int:
    """Launch the kernel that fits the targets; the number of its blocks."""
    rows, columns = scores.shape
    if targets.ndim == 2 and columns == 1:
        kernel, grid, params = "count_correct_binary", stride_grid(rows), (threshold, rows)
    else:
        variant, grid = row_teams(rows, columns)
        targets_are = "labels" if targets.ndim == 1 else "rows"
        kernel, params = f"count_correct_{targets_are}{variant}", (rows, columns)
    arguments = (scores, targets, partial, *params)
    queue.launch(Launch("movement", kernel, storage_of(scores), grid, BLOCK, arguments))
    return grid[0]
