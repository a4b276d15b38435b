"""Which code computes a matrix product: our own register tiles, or BLAS.

The rule: our own where this processor has tiles (AVX-512, AVX2 with FMA, NEON) and the right
operand is at most :data:`OWN_BYTES` large, so that its blocks come from a cache; BLAS otherwise,
which copies blocks of large operands into order first. ``nnkernels tune`` measures where the two
meet on a machine, for each dtype, and only then another number than the default counts.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Literal, NamedTuple

from nnkernels.backends.numba.microkernel import vector_bits

OWN_BYTES = 4 << 20
"""Largest right operand, in bytes, of our own product; measured on a CPU with AVX-512."""


class Choice(NamedTuple):
    """Who computes a product, and why."""

    code: Literal["own", "blas"]
    why: str


def choose(n: int, k: int, itemsize: int) -> Choice:
    """Who multiplies by a right operand of (k, n)."""
    if not vector_bits():
        return Choice("blas", "this processor has no tiles of ours")
    limit, source = own_bytes("float32" if itemsize == 4 else "float64")
    size = n * k * itemsize
    if size <= limit:
        return Choice("own", f"right operand {size:,} B <= {limit:,} B ({source})")
    return Choice("blas", f"right operand {size:,} B > {limit:,} B ({source})")


@functools.cache
def own_bytes(dtype: str) -> tuple[int, str]:
    """The limit of the rule for ``float32`` or ``float64``, and where it comes from.

    It is looked up once in a process, so that products of equal shapes have equal bits in it.
    """
    from nnkernels.backends.numba import tuned

    found = tuned.read()
    if found is None:
        return OWN_BYTES, "default"
    return found.limits[dtype], f"tuned {found.date}"


@functools.cache
def gemm_address(dtype: str) -> int:
    """Address of Fortran's ``sgemm`` or ``dgemm`` in the BLAS that SciPy uses."""
    from scipy.linalg import cython_blas

    capsule: Any = cython_blas.__pyx_capi__["sgemm" if dtype == "float32" else "dgemm"]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address: int = pointer_of(capsule, name_of(capsule))
    return address
