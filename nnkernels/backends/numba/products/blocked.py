"""Matrix products: our own blocked loop over register tiles, or BLAS, by size.

Both compute ``out = a b``, or ``a b + bias``, for rows ``[first, last)`` of ``out``. Ours reads a
in either orientation and b by rows; the order in which an element's products are added depends on k
alone, so that its bits are the same however the rows are divided. For a transposed b it works on a
transposed copy.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from nnkernels.backends.numba.compiling.intrinsics import fma, size_of, view
from nnkernels.backends.numba.products.microkernel import (
    cover,
    lanes,
    tile,
    tile_rows,
    transpose_square,
)
from nnkernels.spec import Array

K_BLOCK = 128
"""Rows of b that stay in the first-level cache while all rows of a pass over them."""

TOP = max(tile_rows())
NOTHING = (0, 0, 0)


@functools.cache
def strip_cover(*, pairs: bool = False) -> Any:
    """A compiled function that covers a strip of ``out`` that is one to four vectors wide."""
    one, two, three, four = (cover(min(vectors, TOP), pairs=pairs) for vectors in (1, 2, 3, 4))

    @njit
    def strip(vectors, rows, k, a, b, out, addend, columns, like):
        if vectors == 1:
            one(rows, k, a, b, out, addend, columns, like)
        elif vectors == 2:
            two(rows, k, a, b, out, addend, columns, like)
        elif vectors == 3:
            three(rows, k, a, b, out, addend, columns, like)
        else:
            four(rows, k, a, b, out, addend, columns, like)

    return strip


any_cover = strip_cover()


@njit
def _strips(rows, n, k, a, b, out, bias, like):
    """``out = a b + bias`` for k >= 1, in strips of up to four vectors.

    In each strip blocks of k, in each of these tiles from top to bottom. ``a``, ``b`` and ``out``
    are operands of tiles, ``bias`` is the address of a row or 0.
    """
    width, item = lanes(like), size_of(like)
    blocks = (k + K_BLOCK - 1) // K_BLOCK
    depth = (k + blocks - 1) // blocks
    for j in range(0, n, TOP * width):
        columns = min(n - j, TOP * width)
        strip = (out[0] + j * item, out[1], 0)
        for start in range(0, k, depth):
            addend = strip
            if start == 0:
                addend = (bias + j * item if bias != 0 else 0, 0, 0)
            any_cover(
                (columns + width - 1) // width,
                rows,
                min(depth, k - start),
                (a[0] + start * a[2], a[1], a[2]),
                (b[0] + start * b[1] + j * item, b[1], 0),
                strip,
                addend,
                columns,
                like,
            )


@njit
def _dots(rows, k, a, b, out, bias, like, one):
    """One column: a sum for every row of a, whose elements lie side by side."""
    column = view(b[0], k, like)
    start = view(bias, 1, like)[0] if bias != 0 else like
    for i in range(rows):
        row = view(a[0] + i * a[1], k, like)
        total = like
        for j in range(k):
            total += row[j] * column[j]
        # Not ``start + total``: for k = 1, LLVM rounds the product in some rows and not in others.
        view(out[0] + i * out[1], 1, like)[0] = fma(total, one, start)


def own_product(
    a: int,
    a_row: int,
    a_column: int,
    b: int,
    b_row: int,
    bias: int,
    k: int,
    out: Array,
    first: int,
    last: int,
) -> None:
    """Rows ``[first, last)`` of ``out``, which is whole.

    ``a``, ``b`` and ``bias`` are addresses (no bias: 0); the other names tell what they step over,
    in bytes.
    """
    like = out.dtype.type(0)
    n, item, rows = out.shape[1], out.itemsize, last - first
    left = (a + first * a_row, a_row, a_column)
    right = (b, b_row, item)
    target = (out.ctypes.data + first * n * item, n * item, item)
    if k == 0:  # an empty sum
        row = view(bias, n, like)
        for i in range(first, last):
            for j in range(n):
                out[i, j] = row[j] if bias != 0 else like
    elif n == 1 and a_column == item:
        _dots(rows, k, left, right, target, bias, like, out.dtype.type(1))
    elif n == 1 and bias == 0:  # a column: as the row outᵀ = bᵀ aᵀ, which fills vectors
        _strips(1, rows, k, (b, 0, b_row), (left[0], a_column, 0), target, 0, like)
    else:
        _strips(rows, n, k, left, right, target, bias, like)


@intrinsic
def _blas(typing_context, function, left, right, sizes, operands, steps, like):
    """Call Fortran's ``gemm`` at an address, with everything passed by reference.

    ``left`` and ``right`` are the letters N or T; ``sizes`` (m, n, k), ``operands`` addresses and
    ``steps`` elements between columns, all in Fortran's order; ``out = left right + out * beta``,
    where ``like`` is beta.
    """
    triple = types.containers.UniTuple(types.int64, 3)

    def generate(context, builder, signature, values):
        byte, word = ir.IntType(8), ir.IntType(32)
        function, left, right, sizes, operands, steps, beta = values
        unpack = [cgutils.unpack_tuple(builder, v, 3) for v in (sizes, operands, steps)]
        sizes, operands, steps = unpack

        def reference(value, kind):
            place = cgutils.alloca_once(builder, kind)
            builder.store(value, place)
            return builder.bitcast(place, byte.as_pointer())

        def integer(value):
            return reference(builder.trunc(value, word), word)

        letters = [reference(builder.trunc(v, byte), byte) for v in (left, right)]
        alpha = reference(ir.Constant(beta.type, 1.0), beta.type)
        a, b, c = (builder.inttoptr(o, byte.as_pointer()) for o in operands)
        arguments = [
            *letters,
            *(integer(v) for v in sizes),
            alpha,
            a,
            integer(steps[0]),
            b,
            integer(steps[1]),
            reference(beta, beta.type),
            c,
            integer(steps[2]),
        ]
        kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
        builder.call(builder.inttoptr(function, kind.as_pointer()), arguments)
        return context.get_dummy_value()

    letters = (types.int64, types.int64)
    return types.void(types.int64, *letters, triple, triple, triple, like), generate


N, T = ord("N"), ord("T")


def blas_product(
    gemm: int,
    a: int,
    a_step: int,
    a_transposed: int,
    b: int,
    b_step: int,
    b_transposed: int,
    bias: int,
    k: int,
    out: Array,
    first: int,
    last: int,
) -> None:
    """The same by BLAS; steps are elements from row to row as stored.

    BLAS stores by columns, and so computes the transposed ``outᵀ = bᵀ aᵀ``.
    """
    n, item = out.shape[1], out.itemsize
    beta = out.dtype.type(0)
    if bias != 0:
        beta = out.dtype.type(1)
        row = view(bias, n, beta)
        for i in range(first, last):
            for j in range(n):
                out[i, j] = row[j]
    offset = first if a_transposed else first * a_step
    _blas(
        gemm,
        T if b_transposed else N,
        T if a_transposed else N,
        (n, last - first, k),
        (b, a + offset * item, out.ctypes.data + first * n * item),
        (b_step, a_step, n),
        beta,
    )


def transpose(a: Array, out: Array, first: int, last: int) -> None:
    """Columns ``[first, last)`` of ``out``, which is ``a`` (its rows ``first`` to ``last``) turned.

    Whole squares go through vector registers, the edges element by element.
    """
    like = out.dtype.type(0)
    size, item = lanes(like), out.itemsize
    columns = a.shape[1]
    whole_columns, whole_last = columns // size * size, first + (last - first) // size * size
    for j in range(0, whole_columns, size):
        for i in range(first, whole_last, size):
            source = a.ctypes.data + (i * columns + j) * item
            target = out.ctypes.data + (j * out.shape[1] + i) * item
            transpose_square(source, columns * item, target, out.shape[1] * item, like)
    for i in range(first, last):
        for j in range(whole_columns if i < whole_last else 0, columns):
            out[j, i] = a[i, j]


_sum_one, _sum_two, _sum_three, _sum_four = (tile(1, min(v, TOP)) for v in (1, 2, 3, 4))


def column_sums(grad: Array, out: Array, one: Array, first: int, last: int) -> None:
    """Sums over the rows of the columns ``[first, last)``, as a product with a row of ones.

    ``one`` is scratch for the number 1, all of whose neighbours it stands for.
    """
    like = out.dtype.type(0)
    width, item, rows = lanes(like), out.itemsize, grad.shape[0]
    one[0] = out.dtype.type(1)
    left = (one.ctypes.data, 0, 0)
    if rows == 0:
        for j in range(out.size):
            out[j] = like
        return
    for j in range(0, last - first, TOP * width):
        columns = min(last - first - j, TOP * width)
        right = (grad.ctypes.data + (first + j) * item, grad.shape[1] * item, 0)
        target = (out.ctypes.data + j * item, 0, 0)
        vectors = (columns + width - 1) // width
        if vectors == 1:
            _sum_one(rows, left, right, target, NOTHING, columns, like)
        elif vectors == 2:
            _sum_two(rows, left, right, target, NOTHING, columns, like)
        elif vectors == 3:
            _sum_three(rows, left, right, target, NOTHING, columns, like)
        else:
            _sum_four(rows, left, right, target, NOTHING, columns, like)
