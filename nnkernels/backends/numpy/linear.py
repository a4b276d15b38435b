"""Matrix products, affine layers and sums."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.spec import Array

kernels = KernelTable()


@kernels.kernel
def matmul(a: Array, b: Array, *, transpose_a: bool, transpose_b: bool, out: Array) -> None:
    """BLAS reads a transposed operand in place."""
    np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out)


@kernels.kernel
def bias_add(x: Array, b: Array, *, out: Array) -> None:
    """One pass."""
    np.add(x, b, out)


@kernels.kernel(workspace="(b)")
def bias_grad(grad: Array, *, out: Array, work: tuple[Array]) -> None:
    """Column sums as a product with ones: BLAS is faster here than a reduction over rows."""
    (ones,) = work
    ones.fill(1)
    np.matmul(ones, grad, out)


@kernels.kernel
def linear(x: Array, w: Array, b: Array, *, out: Array) -> None:
    """Product, then the bias in place."""
    np.matmul(x, w, out)
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
        np.matmul(grad, w.T, grad_x)
    if grad_w is not None:
        np.matmul(x.T, grad, grad_w)
    if grad_b is not None:
        bias_grad(grad, out=grad_b, work=work)


@kernels.kernel
def add(a: Array, b: Array, *, out: Array) -> None:
    """One pass."""
    np.add(a, b, out)
