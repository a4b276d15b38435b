"""What a backend's precision asks of it, and the oracle that results are compared with.

Float32 products of a backend in precision ``bf16`` may round what they multiply to bfloat16, to
nearest and ties to even, and nothing else. So the oracle rounds it too, and the bounds stay those
of float32: they are far below what a rounding that was not asked for would cost. Float64 arrays are
computed in float64 in every precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.dispatch import get_backend
from nnkernels.spec import Array, get_op


def bfloat16(array: Array) -> Array:
    """The nearest values that bfloat16 has, of ties the even one, in the dtype of ``array``.

    Not for numbers below the least normal one, 2⁻¹²⁶.
    """
    fraction, exponent = np.frexp(array)
    with np.errstate(over="ignore"):
        nearest: Array = np.ldexp(np.rint(fraction * 256) / 256, exponent).astype(np.float32)
        return nearest.astype(array.dtype)


ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {"bf16": bfloat16}
"""By precision: how products may round what they multiply."""


def precision_of(backend: Backend, dtype: Any) -> str:
    """The precision of a backend's products of arrays of ``dtype``."""
    return backend.precision if np.dtype(dtype) == np.float32 else "fp32"


@functools.cache
def oracle_backend(precision: str) -> Backend:
    """The reference, whose products round what they multiply as ``precision`` may."""
    reference = get_backend("reference")
    if precision not in ROUNDINGS:
        return reference
    rounded = ROUNDINGS[precision]

    def matmul(a: Array, b: Array, **transposed: bool) -> Array:
        return get_op("matmul").evaluate(rounded(a), rounded(b), **transposed)[0]

    return reference.replace(matmul=matmul)
