"""Which code computes a matrix product: our own register tiles, or BLAS.

Products of float32 in precision ``bf16`` are computed by tiles of bfloat16 in all sizes, because
that is asked for by name; what follows is the choice between codes that compute alike.

The rule: our own where this processor has tiles (AVX-512, AVX2 with FMA, NEON) and the right
operand is at most :data:`OWN_BYTES` large, so that its blocks come from a cache; BLAS otherwise,
which copies blocks of large operands into order first. ``nnkernels tune`` measures where the two
meet on a machine, for each dtype, and only then another number than the default counts.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, NamedTuple

from nnkernels.backends.numba.products.microkernel import vector_bits

if TYPE_CHECKING:
    from nnkernels.backend import Precision
    from nnkernels.backends.numba.products.tuned import Tuned

OWN_BYTES = 1 << 32 if vector_bits() == 512 else 4 << 20
"""Largest right operand, in bytes, of our own products. With AVX-512 they were faster than BLAS in
every size that was measured; for other vectors the number is a guess until it is tuned."""


PACKED_BYTES, PACKED_ROWS = 512 << 10, 64
"""Right operand, and rows of the left one, from which copying blocks of both pays for itself."""

PACKED_ALWAYS = 32 << 20
"""Right operand from which it pays for any number of rows: in order, memory is read faster."""

Code = Literal["own", "packed", "blas", "bf16"]


class Choice(NamedTuple):
    """Who computes a product, and why."""

    code: Code
    why: str


def choose(m: int, n: int, k: int, itemsize: int, precision: Precision = "fp32") -> Choice:
    """Who computes a product of (m, k) by (k, n); of an empty sum nothing is rounded."""
    if precision == "bf16" and itemsize == 4 and k:
        return Choice("bf16", "precision bf16 is asked for")
    if not vector_bits():
        return Choice("blas", "this processor has no tiles of ours")
    limit, source = own_bytes("float32" if itemsize == 4 else "float64")
    size = n * k * itemsize
    if size > limit:
        return Choice("blas", f"right operand {size:,} B > {limit:,} B ({source})")
    return Choice(ours(m, size), f"right operand {size:,} B <= {limit:,} B ({source})")


def ours(m: int, size: int) -> Code:
    """Which of our own products takes a left operand of ``m`` rows and so large a right one."""
    many = size >= PACKED_BYTES and m >= PACKED_ROWS
    return "packed" if many or size >= PACKED_ALWAYS else "own"


def own_bytes(dtype: str) -> tuple[int, str]:
    """The limit of the rule for ``float32`` or ``float64``, and where it comes from."""
    found = stored()
    if found is None:
        return OWN_BYTES, "default"
    return found.limits[dtype], f"tuned {found.date}"


@functools.cache
def stored() -> Tuned | None:
    """What ``nnkernels tune`` stored; looked up once, so that a process keeps to one rule."""
    from nnkernels.backends.numba.products import tuned  # only who chooses a product reads files

    return tuned.read()
