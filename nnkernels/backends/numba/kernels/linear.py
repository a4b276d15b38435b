"""Matrix products, affine layers and sums."""

from __future__ import annotations

from nnkernels.backend import Precision
from nnkernels.backends._blas import gemm_address
from nnkernels.backends._compiled import products
from nnkernels.backends._compiled.products import Multiplier, ProductCode
from nnkernels.backends.numba.compiling.family import Family
from nnkernels.backends.numba.compiling.linking import Function
from nnkernels.backends.numba.kernels import activations
from nnkernels.backends.numba.products import choice
from nnkernels.backends.numba.products.bfloat import bfloat_product
from nnkernels.backends.numba.products.blocked import (
    blas_product,
    column_sums,
    own_product,
    transpose,
)
from nnkernels.backends.numba.products.microkernel import vector_bits
from nnkernels.backends.numba.products.packed import packed_product
from nnkernels.spec import Array

family = Family()


def _choose(m: int, n: int, k: int, itemsize: int, precision: Precision) -> str:
    return choice.choose(m, n, k, itemsize, precision).code


MULTIPLIER = Multiplier(
    choose=_choose,
    codes={
        "own": ProductCode(Function(own_product), "rows", 96 << 10),
        "packed": ProductCode(Function(packed_product), "strided", 4 << 20),
        "blas": ProductCode(Function(blas_product), "blas", 8 << 20),
        "bf16": ProductCode(Function(bfloat_product), "strided", 8 << 20),
    },
    transpose=Function(transpose),
    gemm=gemm_address,
)
"""Who computes products here; see :mod:`nnkernels.backends.numba.products.choice`."""


def _sums() -> Function:
    """Column sums: by register tiles where there are some, else row by row."""
    return Function(column_sums if vector_bits() else row_sums)


products.declare(family, MULTIPLIER, _sums, activations.family)

ROW_BLOCK = 32
"""Rows that are summed before their sum is added to the total."""


def row_sums(grad: Array, out: Array, block: Array, first: int, last: int) -> None:
    """Sums over the rows, in blocks, of the columns ``[first, last)``."""
    zero = out.dtype.type(0)
    for j in range(out.size):
        out[j] = zero
    for start in range(0, grad.shape[0], ROW_BLOCK):
        for j in range(block.size):
            block[j] = zero
        for i in range(start, min(start + ROW_BLOCK, grad.shape[0])):
            row = grad[i, first:last]
            for j in range(block.size):
                block[j] += row[j]
        for j in range(block.size):
            out[j] += block[j]


@family.phase(over="b")
def bias_add(x: Array, b: Array, out: Array) -> None:
    """Row by row."""
    for i in range(x.shape[0]):
        row, target = x[i], out[i]
        for j in range(b.size):
            target[j] = row[j] + b[j]


@family.phase(over="...")
def add(a: Array, b: Array, out: Array) -> None:
    """Element by element."""
    for i in range(a.size):
        out[i] = a[i] + b[i]
