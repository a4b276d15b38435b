"""Activation functions and their derivatives, in few passes over the output."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.spec import Array

kernels = KernelTable()


@kernels.kernel
def identity(x: Array, *, out: Array) -> None:
    """A copy."""
    np.copyto(out, x)


@kernels.kernel
def identity_backward(grad: Array, *, out: Array) -> None:
    """A copy."""
    np.copyto(out, grad)


@kernels.kernel
def sigmoid(x: Array, *, out: Array) -> None:
    """``1 / (1 + exp(-x))``: exp may overflow to infinity, whose reciprocal is the exact 0."""
    np.negative(x, out)
    np.exp(out, out)
    np.add(out, 1, out)
    np.reciprocal(out, out)


@kernels.kernel(workspace="(...)")
def sigmoid_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array]) -> None:
    """``grad y (1 - y)``."""
    (slope,) = work
    np.subtract(1, y, slope)
    np.multiply(slope, y, slope)
    np.multiply(grad, slope, out)


@kernels.kernel
def tanh(x: Array, *, out: Array) -> None:
    """One pass."""
    np.tanh(x, out)


@kernels.kernel(workspace="(...)")
def tanh_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array]) -> None:
    """``grad (1 - y²)``."""
    (slope,) = work
    np.multiply(y, y, slope)
    np.subtract(1, slope, slope)
    np.multiply(grad, slope, out)


@kernels.kernel
def relu(x: Array, *, out: Array) -> None:
    """One pass."""
    np.maximum(x, 0, out)


@kernels.kernel(workspace="(...)mask")
def relu_backward(grad: Array, y: Array, *, out: Array, work: tuple[Array]) -> None:
    """``grad`` times the mask ``y > 0``."""
    (mask,) = work
    np.greater(y, 0, mask)
    np.multiply(grad, mask, out)
