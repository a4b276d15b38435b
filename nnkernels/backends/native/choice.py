"""Which code computes a matrix product: our own tiles in vector registers, or BLAS.

Our own where the right operand is at most :data:`OWN_BYTES` large for the width of the registers,
BLAS beyond that, if SciPy brings one that can be called by its address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

OWN_BYTES: Mapping[int, int] = {512: 1 << 32, 256: 4 << 20, 128: 256 << 10}
"""Largest right operand, in bytes, of our own products, by the bits of the registers. With AVX-512
they were faster than BLAS in every size; the others are guesses."""

PACKED_BYTES, PACKED_ROWS = 512 << 10, 64
"""Right operand, and rows of the left one, from which copying blocks of both pays for itself."""

PACKED_ALWAYS = 32 << 20
"""Right operand from which it pays for any number of rows: in order, memory is read faster."""

Code = Literal["own", "packed", "blas"]


BLAS_SIZES = 1 << 31
"""Rows and columns that BLAS's integers cannot count."""


def choose(bits: int, m: int, n: int, k: int, itemsize: int, has_blas: Callable[[], bool]) -> Code:
    """Who computes a product of (m, k) by (k, n) with registers of ``bits``.

    ``has_blas`` says whether there is one, and is only asked where one is wanted.
    """
    size = n * k * itemsize
    if k and size > OWN_BYTES[bits] and max(m, n, k) < BLAS_SIZES and has_blas():
        return "blas"
    many = size >= PACKED_BYTES and m >= PACKED_ROWS
    return "packed" if k and (many or size >= PACKED_ALWAYS) else "own"
