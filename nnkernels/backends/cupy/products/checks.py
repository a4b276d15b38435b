"""What every product must satisfy, whoever computes it."""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.launching import Epilogue, Product
from nnkernels.backends.cupy.products.masks import stored_output
from nnkernels.errors import BackendError


def check(product: Product) -> None:
    """Refuse a product whose arrays do not fit, as nothing below would.

    Raises:
        BackendError: naming the array.
    """
    a, b, out = product.a, product.b, product.out
    m, k = reversed(a.shape) if product.transpose_a else a.shape
    inner, n = reversed(b.shape) if product.transpose_b else b.shape
    if inner != k or out.shape != (m, n):
        raise BackendError(
            f"product of {a.shape}{'ᵀ' * product.transpose_a} and "
            f"{b.shape}{'ᵀ' * product.transpose_b} does not fit out of shape {out.shape}"
        )
    arrays = {"a": a, "b": b, "out": out}
    if product.epilogue is not None:
        arrays |= _of_epilogue(product.epilogue, product)
    for name, array in arrays.items():
        if array.dtype != out.dtype or out.dtype.name not in ("float32", "float64"):
            raise BackendError(f"product: {name} is {array.dtype}, all must be float32 or float64")
        if not array.flags.c_contiguous:
            raise BackendError(f"product: {name} must be C-contiguous")


def _of_epilogue(asked: Epilogue, product: Product) -> dict[str, Any]:
    """The arrays that an epilogue needs, their shapes checked."""
    if asked.kind == "bias_grad" and product.transpose_b:
        raise BackendError("product: the epilogue 'bias_grad' sums columns of b, not transposed")
    given = {
        "bias": asked.bias,
        "bias_grad": asked.bias_grad,
        "mask": stored_output(asked.mask),
    }
    for name in _NEEDED[asked.kind]:
        shape = product.out.shape if name == "mask" else product.out.shape[1:]
        if given[name] is None or given[name].shape != shape:
            raise BackendError(f"product: {name} of {asked.kind!r} must have shape {shape}")
    return {name: given[name] for name in _NEEDED[asked.kind]}


_NEEDED = {
    "bias": ("bias",),
    "bias_relu": ("bias",),
    "bias_grad": ("bias_grad",),
    "drelu_bias_grad": ("bias_grad", "mask"),
}
"""Arrays by kind of epilogue."""
