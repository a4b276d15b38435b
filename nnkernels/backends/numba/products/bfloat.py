"""Products of float32 matrices in bfloat16: rounded while they are packed, added up in float32.

Both operands are rounded to bfloat16, to nearest and ties to even, while their blocks are put in
order as in ``packed.py``. Two neighbours along k share the place of one float32: an element of a
tile's operand is such a pair, and one instruction of the processor, AVX512_BF16's ``vdpbf16ps``,
multiplies the pairs of two vectors and adds both products to float32. That instruction takes
subnormal numbers for zero, and so are the sums that it leaves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from nnkernels.backends.numba.compiling.intrinsics import local_bytes, size_of, view
from nnkernels.backends.numba.products.blocked import TOP, strip_cover
from nnkernels.backends.numba.products.microkernel import lanes, transpose_square
from nnkernels.backends.numba.products.packed import DEPTH, block_product
from nnkernels.spec import Array

STRIPS = 16
"""Strips of a block of b: many, because a is rounded again for each block."""

LAYERS = 2
"""Layers of a block of b, each of ``DEPTH`` pairs of rows."""

ROWS = 96
"""Rows of a block of a."""

BLOCK_B = LAYERS * DEPTH * STRIPS * 256
BLOCK_A = DEPTH * ROWS * 4
PANEL = DEPTH * 64
"""Bytes of so many columns of a transposed b as a vector has elements, rounded but not turned."""

INT16, INT32 = ir.IntType(16), ir.IntType(32)

_cover = strip_cover(pairs=True)


def _nearest(builder: Any, number: Any) -> Any:
    """The upper half of a float32's bits after rounding, as i32; a NaN stays one."""
    bits = builder.bitcast(number, INT32)
    upper = builder.lshr(bits, INT32(16))
    half = builder.add(INT32(0x7FFF), builder.and_(upper, INT32(1)))
    nearest = builder.lshr(builder.add(bits, half), INT32(16))
    quiet = builder.or_(upper, INT32(0x40))
    return builder.select(builder.fcmp_unordered("uno", number, number), quiet, nearest)


@intrinsic
def rounded(typing_context, number):
    """The bits of a float32 rounded to bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.trunc(_nearest(builder, values[0]), INT16)

    return types.uint16(types.float32), generate


@intrinsic
def paired(typing_context, low, high):
    """The bits of two float32 rounded to bfloat16, ``high`` in the upper half."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        low, high = (_nearest(builder, value) for value in values)
        return builder.or_(low, builder.shl(high, INT32(16)))

    return types.uint32(types.float32, types.float32), generate


@njit
def round_row(k, source, target):
    """``k`` numbers side by side, to half their size, and a zero after an odd number of them."""
    numbers = view(source, k, np.float32(0))
    halves = view(target, k + k % 2, np.uint16(0))
    for kk in range(k):
        halves[kk] = rounded(numbers[kk])
    if k % 2:
        halves[k] = 0


@njit
def round_rows(k, count, source, step, target, target_step):
    """``k`` rows of ``count`` numbers to half as many rows of pairs; the last may hold zeros."""
    for kk in range(0, k - 1, 2):
        even = view(source + kk * step, count, np.float32(0))
        odd = view(source + kk * step + step, count, np.float32(0))
        row = view(target + kk // 2 * target_step, count, np.uint32(0))
        for i in range(count):
            row[i] = paired(even[i], odd[i])
    if k % 2:
        even = view(source + (k - 1) * step, count, np.float32(0))
        row = view(target + k // 2 * target_step, count, np.uint32(0))
        for i in range(count):
            row[i] = paired(even[i], np.float32(0))


@njit
def _pack_turned(k, columns, b, target, panel, like):
    """A strip of a b that is stored by columns: some of them rounded, then turned by squares.

    Squares at the edges reach beyond what there is, into what no tile looks at.
    """
    size, width = lanes(like), TOP * lanes(like) * size_of(like)
    for j in range(0, columns, size):
        for jj in range(min(size, columns - j)):
            round_row(k, b[0] + (j + jj) * b[2], panel + jj * DEPTH * 4)
        for pair in range(0, (k + 1) // 2, size):
            place = target + pair * width + j * 4
            transpose_square(panel + pair * 4, DEPTH * 4, place, width, like)


@njit
def _pack_block(k, columns, b, target, panel, like):
    """A block of b: layers of ``DEPTH`` pairs of rows, in each its strips one after the other."""
    width, item = TOP * lanes(like), size_of(like)
    for layer in range(0, k, 2 * DEPTH):
        deep = min(2 * DEPTH, k - layer)
        for j in range(0, columns, width):
            source = (b[0] + layer * b[1] + j * b[2], b[1], b[2])
            place = target + (layer // 2 * STRIPS * width + j * DEPTH) * item
            wide = min(columns - j, width)
            if b[2] == item:
                round_rows(deep, wide, source[0], b[1], place, width * item)
            else:
                _pack_turned(deep, wide, source, place, panel, like)


@njit
def _pack_left(rows, k, a, target, like):
    """A block of a, and the operand of tiles that it then is: by pairs of columns, or by rows."""
    item = size_of(like)
    if a[2] != item:
        round_rows(k, rows, a[0], a[2], target, ROWS * item)
        return target, item, ROWS * item
    for i in range(rows):
        round_row(k, a[0] + i * a[1], target + i * DEPTH * item)
    return target, DEPTH * item, item


def bfloat_product(
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
    in bytes. An element's products are added in an order that depends on k alone.
    """
    like = out.dtype.type(0)
    n, item = out.shape[1], out.itemsize
    width = TOP * lanes(like)
    block_b, block_a = local_bytes(BLOCK_B).ctypes.data, local_bytes(BLOCK_A).ctypes.data
    panel = local_bytes(PANEL).ctypes.data
    for j in range(0, n, STRIPS * width):
        columns = min(n - j, STRIPS * width)
        for start in range(0, k, 2 * LAYERS * DEPTH):
            end = min(k, start + 2 * LAYERS * DEPTH)
            corner = (b + start * b_row + j * b_column, b_row, b_column)
            _pack_block(end - start, columns, corner, block_b, panel, like)
            for i in range(first, last, ROWS):
                place = (out.ctypes.data + (i * n + j) * item, n * item, 0)
                for layer in range(start, end, 2 * DEPTH):
                    deep, rows = min(2 * DEPTH, end - layer), min(last - i, ROWS)
                    source = (a + i * a_row + layer * a_column, a_row, a_column)
                    left = _pack_left(rows, deep, source, block_a, like)
                    addend = place
                    if layer == 0:
                        addend = (bias + j * item if bias != 0 else 0, 0, 0)
                    packed = block_b + (layer - start) // 2 * STRIPS * width * item
                    pairs = (deep + 1) // 2
                    block_product(_cover, rows, columns, pairs, left, packed, place, addend, like)
