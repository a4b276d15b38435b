"""Where a relu was positive, remembered from the forward to the backward product."""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.launching import Product

MASK_BITS = 128
"""The rows of a bit mask begin at multiples of so many bits: cublasLt's rule."""


def mask_width(columns: int) -> int:
    """Bits from a row of a mask to the next."""
    return -(-columns // MASK_BITS) * MASK_BITS


def mask_bytes(rows: int, columns: int) -> int:
    """Bytes of the bit mask of a relu's output."""
    return rows * mask_width(columns) // 8


class ReluMask:
    """A relu's stored output, and room for its bit mask, which cublasLt writes and reads.

    The same object is the ``mask`` of the forward product's epilogue (``bias_relu``) and of the
    backward product's (``drelu_bias_grad``), and the forward one must be prepared first: whether it
    writes the bits decides whether the backward one may read them. The stored output serves where
    there are none.

    Args:
        output: the forward product's result after the relu, of shape (m, n).
        bits: :func:`mask_bytes` (m, n) bytes, uint8, aligned to 16.

    Attributes:
        written: whether the forward product that was prepared last writes the bits.
    """

    def __init__(self, output: Any, bits: Any) -> None:
        self.output, self.bits = output, bits
        self.written = False


def stored_output(mask: Any) -> Any:
    """The relu's output of a :class:`ReluMask`, or of a mask that is that output."""
    return mask.output if isinstance(mask, ReluMask) else mask


def note_bits(product: Product, *, written: bool) -> None:
    """Note in a forward product's mask, if it has one, whether its bits are written."""
    asked = product.epilogue
    if asked is not None and asked.kind == "bias_relu" and isinstance(asked.mask, ReluMask):
        asked.mask.written = written
