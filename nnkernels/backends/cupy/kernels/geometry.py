"""How rows are dealt out to the threads of a grid."""

from __future__ import annotations

from nnkernels.backends.cupy.launching import BLOCK, MAX_BLOCKS, ceil_div

WARP = 32
"""Threads of a warp."""

WARP_COLUMNS = 128
"""The widest row that a warp keeps in its registers; a block takes wider ones."""


def row_teams(rows: int, columns: int) -> tuple[str, tuple[int, int]]:
    """The variant of a row-wise kernel, ``_warp`` or ``_block``, and its grid."""
    if columns <= WARP_COLUMNS:
        return "_warp", row_grid(ceil_div(rows, BLOCK // WARP))
    return "_block", row_grid(rows)


def row_grid(blocks: int) -> tuple[int, int]:
    """A grid whose blocks take further rows when they are done with theirs."""
    return min(max(blocks, 1), MAX_BLOCKS), 1


def tile(rows: int, columns: int) -> tuple[int, tuple[int, int]]:
    """The shift of a tile (a block as 2**shift columns, as few as hold a row) and its grid."""
    shift = min(max(columns - 1, 0).bit_length(), BLOCK.bit_length() - 1)
    return shift, row_grid(ceil_div(rows, BLOCK >> shift))
