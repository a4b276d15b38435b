"""Sums over a whole array: the blocks of one launch leave their shares in scratch."""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.launching import (
    BLOCK,
    MAX_BLOCKS,
    Launch,
    Queue,
    can_vectorise,
    storage_of,
    stride_grid,
    vector_length,
)

PARTIAL = f"partial({MAX_BLOCKS})"
"""Scratch for the shares."""


def sum_shares(queue: Queue, module: str, kernel: str, x: Any, partial: Any, *trailing: Any) -> int:
    """Launch a kernel that writes the blocks' shares of a sum; how many there are.

    The kernel takes the array, the shares, the number of elements, then ``trailing`` arguments.
    Without elements there are no shares and no launch.
    """
    if not x.size:
        return 0
    storage, items = storage_of(x), int(x.size)
    if can_vectorise(items, x):
        kernel, items = f"{kernel}_vec", items // vector_length(storage)
    grid = stride_grid(items)
    arguments = (x, partial, int(x.size), *trailing)
    queue.launch(Launch(module, kernel, storage, grid, BLOCK, arguments))
    return grid[0]
