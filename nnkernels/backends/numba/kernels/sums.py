"""Sums over a whole array that do not depend on how threads divide it.

The array is cut into a fixed number of segments, whatever its size. A phase over the segments
leaves the float64 sum of each in scratch, declared as :data:`PARTIAL`; another phase adds these up
in order.
"""

from __future__ import annotations

import numpy as np

from nnkernels.backends.numba.compiling.intrinsics import inlined
from nnkernels.spec import Array

SEGMENTS = "64"
"""The items of a phase that sums: enough for the threads of any machine to share."""

PARTIAL = f"partial({SEGMENTS})scalar"

_COUNT = int(SEGMENTS)

_BLOCK = 4096
"""Elements summed before their sum is added to that of the segment, to keep rounding errors low."""


@inlined
def segment(x: Array, number: int) -> Array:
    """Segment ``number`` of a flat array."""
    return x[number * x.size // _COUNT : (number + 1) * x.size // _COUNT]


@inlined
def sum_of_sizes(x: Array) -> float:
    """Sum of ``|x|``."""
    total = 0.0
    for start in range(0, x.size, _BLOCK):
        block, part = x[start : start + _BLOCK], 0.0
        for i in range(block.size):
            part += np.abs(np.float64(block[i]))
        total += part
    return total


@inlined
def sum_of_squares(x: Array) -> float:
    """Sum of ``x²``; each square is taken in float64, where it does not overflow for a float32."""
    total = 0.0
    for start in range(0, x.size, _BLOCK):
        block, part = x[start : start + _BLOCK], 0.0
        for i in range(block.size):
            part += np.float64(block[i]) * np.float64(block[i])
        total += part
    return total


@inlined
def sum_of_partial(partial: Array) -> float:
    """The whole sum."""
    total = 0.0
    for i in range(partial.size):
        total += partial[i]
    return total
