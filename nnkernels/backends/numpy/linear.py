"""Matrix products, affine layers and sums."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.spec import Array

kernels = KernelTable()


def product(a: Array, b: Array, out: Array) -> None:
    """``a @ b``: ``numpy.dot`` costs 0.7 us a call less than ``numpy.matmul``.

    It also takes BLAS for an outer product, where matmul is eight times slower; but it writes to
    C-contiguous arrays only.
    """
    if out.flags.c_contiguous:
        np.dot(a, b, out)
    else:
        np.matmul(a, b, out)


def _has_avx512() -> bool:
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return any(name in found for name in ("AVX512_SKX", "X86_V4"))


UNPACKED = 1_000_000 if _has_avx512() else 0
"""Largest m n k that OpenBLAS multiplies without packing its operands first (AVX-512 only)."""


def product_in_halves(a: Array, b: Array, out: Array) -> None:
    """``a @ b`` as two products of half the rows, where that spares the packing.

    Measured for (32, 784) by (784, 64), float32, one thread: 16.6 us instead of 25.9.
    """
    if UNPACKED < a.size * b.shape[1] <= 2 * UNPACKED:
        half = len(a) // 2
        product(a[:half], b, out[:half])
        product(a[half:], b, out[half:])
    else:
        product(a, b, out)


@kernels.kernel
def matmul(a: Array, b: Array, *, transpose_a: bool, transpose_b: bool, out: Array) -> None:
    """BLAS reads a transposed operand in place."""
    product(a.T if transpose_a else a, b.T if transpose_b else b, out)


@kernels.kernel(blas=False)
def bias_add(x: Array, b: Array, *, out: Array) -> None:
    """One pass."""
    np.add(x, b, out)


@kernels.kernel(workspace="(b)")
def bias_grad(grad: Array, *, out: Array, work: tuple[Array]) -> None:
    """Column sums as a product with ones: BLAS is faster here than a reduction over rows."""
    (ones,) = work
    ones.fill(1)
    product(ones, grad, out)


@kernels.kernel
def linear(x: Array, w: Array, b: Array, *, out: Array) -> None:
    """Product, then the bias in place."""
    product_in_halves(x, w, out)
    np.add(out, b, out)


@kernels.kernel(workspace="(b)")
def linear_backward(
    grad: Array,
    x: Array,
    w: Array,
    *,
    out: tuple[Array | None, Array | None, Array | None],
    work: tuple[Array],
) -> None:
    """Up to three products."""
    grad_x, grad_w, grad_b = out
    if grad_x is not None:
        product(grad, w.T, grad_x)
    if grad_w is not None:
        product(x.T, grad, grad_w)
    if grad_b is not None:
        bias_grad(grad, out=grad_b, work=work)


@kernels.kernel(blas=False)
def add(a: Array, b: Array, *, out: Array) -> None:
    """One pass."""
    np.add(a, b, out)
