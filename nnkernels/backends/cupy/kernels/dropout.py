"""Dropout: masks drawn on the device, from counters that are read there."""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.launching import (
    BLOCK,
    Launch,
    Queue,
    RecipeTable,
    can_vectorise,
    storage_of,
    stride_grid,
    vector_length,
)
from nnkernels.catalog.regularisation import drop_threshold, first_element

recipes = RecipeTable()

WORDS = 4
"""Of a Philox block, each of which decides on one element."""


@recipes.recipe
def dropout(
    queue: Queue,
    x: Any,
    seed: Any,
    step: Any,
    *,
    p: float,
    layer: int,
    first_row: int,
    out: tuple[Any, Any],
) -> None:
    """Mask and result in one launch; by whole Philox blocks where the part begins with one."""
    y, mask = out
    if not x.size:
        return
    first = first_element(x.shape, first_row)
    unit = max(WORDS, vector_length(storage_of(x)))
    whole = first % WORDS == 0 and _in_units(unit, x, y, mask)
    params = (1 / (1 - p), drop_threshold(p), first, layer)
    _launch(queue, "dropout", unit if whole else 1, x, (x, seed, step, y, mask, *params))


@recipes.recipe
def dropout_backward(queue: Queue, grad: Any, mask: Any, *, p: float, out: Any) -> None:
    """``grad`` or 0, scaled."""
    if not grad.size:
        return
    unit = vector_length(storage_of(grad))
    whole = _in_units(unit, grad, out, mask)
    _launch(queue, "dropout_backward", unit if whole else 1, grad, (grad, mask, out, 1 / (1 - p)))


def _in_units(unit: int, x: Any, y: Any, mask: Any) -> bool:
    """Whether arrays can be taken ``unit`` elements at a time; the mask has a byte for each."""
    aligned = mask is None or mask.data.ptr % unit == 0
    return aligned and x.size % unit == 0 and can_vectorise(x.size, x, y)


def _launch(queue: Queue, kernel: str, unit: int, x: Any, arguments: tuple[Any, ...]) -> None:
    """Launch on all elements of ``x``, ``unit`` of them to a thread at once."""
    size = int(x.size)
    kernel = kernel if unit == 1 else f"{kernel}_vec"
    grid = stride_grid(size // unit)
    queue.launch(Launch("dropout", kernel, storage_of(x), grid, BLOCK, (*arguments, size)))
