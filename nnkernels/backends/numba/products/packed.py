"""Our own product for operands that no cache holds: blocks of both are first put in order.

A block of b is copied to strips of up to four vectors, each with its rows one after the other, and
stays in the second-level cache while all rows of a pass over it; a transposed one is turned on the
way. A block of a transposed a is copied row by row. Without that, a step from row to row of a large
operand is a step to another page, and many rows fall into the same few sets of a cache.

Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008).
"""

from __future__ import annotations

from numba import njit

from nnkernels.backends.numba.compiling.intrinsics import local_bytes, size_of, view
from nnkernels.backends.numba.products.blocked import TOP, any_cover
from nnkernels.backends.numba.products.microkernel import lanes, transpose_square
from nnkernels.spec import Array

DEPTH = 128
"""Rows of a block of b: a strip of it, 32 KiB, stays in the first-level cache."""

STRIPS = 4
"""Strips of a block of b."""

LAYERS = 4
"""Layers of so many rows that a block of b has: a tile of ``out`` is read and written again for
each block, so deep blocks spare memory traffic."""

ROWS = 96
"""Rows of a block of a."""

BLOCK_B = LAYERS * DEPTH * STRIPS * 256
BLOCK_A = DEPTH * ROWS * 4 * 2


@njit
def _pack_rows(k, columns, b, target, like):
    """A strip of a b that is stored by rows."""
    width, item = TOP * lanes(like), size_of(like)
    for kk in range(k):
        source = view(b[0] + kk * b[1], columns, like)
        row = view(target + kk * width * item, columns, like)
        for j in range(columns):
            row[j] = source[j]


@njit
def _pack_turned(k, columns, b, target, like):
    """A strip of a b that is stored by columns, by squares and element by element at its edges."""
    size, item = lanes(like), size_of(like)
    step = TOP * size * item
    whole_k, whole_columns = k // size * size, columns // size * size
    for j in range(0, whole_columns, size):
        for kk in range(0, whole_k, size):
            source = b[0] + j * b[2] + kk * item
            transpose_square(source, b[2], target + kk * step + j * item, step, like)
    for j in range(columns):
        source = view(b[0] + j * b[2], k, like)
        for kk in range(whole_k if j < whole_columns else 0, k):
            view(target + kk * step + j * item, 1, like)[0] = source[kk]


@njit
def _pack_columns(rows, k, a, target, like):
    """A block of an a that is stored by columns: ``rows`` of each of ``k`` columns."""
    item = size_of(like)
    for kk in range(k):
        source = view(a[0] + kk * a[2], rows, like)
        column = view(target + kk * ROWS * item, rows, like)
        for i in range(rows):
            column[i] = source[i]


@njit
def _pack_block(k, columns, b, target, like):
    """A block of b: layers of ``DEPTH`` rows, in each its strips one after the other."""
    width, item = TOP * lanes(like), size_of(like)
    for layer in range(0, k, DEPTH):
        deep = min(DEPTH, k - layer)
        for j in range(0, columns, width):
            source = (b[0] + layer * b[1] + j * b[2], b[1], b[2])
            place = target + (layer * STRIPS * width + j * DEPTH) * item
            if b[2] == item:
                _pack_rows(deep, min(columns - j, width), source, place, like)
            else:
                _pack_turned(deep, min(columns - j, width), source, place, like)


@njit
def block_product(cover, rows, n, k, a, packed, out, addend, like):
    """``out = a b + addend`` for one layer of a block of b, strips of which ``cover`` computes."""
    width, item = TOP * lanes(like), size_of(like)
    for j in range(0, n, width):
        columns = min(n - j, width)
        cover(
            (columns + lanes(like) - 1) // lanes(like),
            rows,
            k,
            a,
            (packed + j * DEPTH * item, width * item, 0),
            (out[0] + j * item, out[1], 0),
            (addend[0] + j * item if addend[0] != 0 else 0, addend[1], 0),
            columns,
            like,
        )


def packed_product(
    a: int,
    a_row: int,
    a_column: int,
    b: int,
    b_row: int,
    b_column: int,
    bias: int,
    k: int,
    out: Array,
    first: int,
    last: int,
) -> None:
    """Rows ``[first, last)`` of ``out``, which is whole; k >= 1.

    ``a``, ``b`` and ``bias`` are addresses (no bias: 0); the other names tell what they step over,
    in bytes.
    """
    like = out.dtype.type(0)
    n, item = out.shape[1], out.itemsize
    width = TOP * lanes(like)
    block_b, block_a = local_bytes(BLOCK_B).ctypes.data, local_bytes(BLOCK_A).ctypes.data
    for j in range(0, n, STRIPS * width):
        columns = min(n - j, STRIPS * width)
        for start in range(0, k, LAYERS * DEPTH):
            end = min(k, start + LAYERS * DEPTH)
            corner = (b + start * b_row + j * b_column, b_row, b_column)
            _pack_block(end - start, columns, corner, block_b, like)
            for i in range(first, last, ROWS):
                place = (out.ctypes.data + (i * n + j) * item, n * item, 0)
                for layer in range(start, end, DEPTH):
                    deep, rows = min(DEPTH, end - layer), min(last - i, ROWS)
                    left = (a + i * a_row + layer * a_column, a_row, a_column)
                    if a_column != item:
                        _pack_columns(rows, deep, left, block_a, like)
                        left = (block_a, item, ROWS * item)
                    addend = place
                    if layer == 0:
                        addend = (bias + j * item if bias != 0 else 0, 0, 0)
                    packed = block_b + (layer - start) * STRIPS * width * item
                    block_product(any_cover, rows, columns, deep, left, packed, place, addend, like)
