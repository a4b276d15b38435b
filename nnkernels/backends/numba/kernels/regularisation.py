"""Dropout, whose random words stay in the first-level cache, and penalties."""

from __future__ import annotations

import numpy as np

from nnkernels.backends.numba.compiling.family import Family
from nnkernels.backends.numba.compiling.intrinsics import inlined, local_bytes, wanted
from nnkernels.backends.numba.kernels.sums import (
    PARTIAL,
    SEGMENTS,
    segment,
    sum_of_partial,
    sum_of_sizes,
    sum_of_squares,
)
from nnkernels.catalog import philox
from nnkernels.spec import Array

family = Family()

LANES = 4
CHUNK = 1024
"""Elements whose flags are made before they are used."""

FLAGS = CHUNK + LANES
"""Bytes of flags: a chunk's blocks may begin before its first element and end behind its last."""

# Typed, because Numba makes a float64 of a uint64 and a plain integer.
ROUNDS = philox.ROUNDS
LOW, HALF, BYTE = np.uint64(philox.LOW), np.uint64(32), np.uint64(8)
MULTIPLIER0, MULTIPLIER1 = np.uint64(philox.MULTIPLIERS[0, 0]), np.uint64(philox.MULTIPLIERS[1, 0])
WEYL0, WEYL1 = np.uint64(philox.WEYL[0]), np.uint64(philox.WEYL[1])


@inlined
def kept_flags(
    block: np.uint64, third: np.uint64, fourth: np.uint64, seed: np.uint64, threshold: np.uint64
) -> np.uint32:
    """Four bytes, each 1 where a word of the block reaches ``threshold`` and 0 elsewhere.

    The block's counter is ``(lo32(block), hi32(block), third, fourth)``; see
    :mod:`nnkernels.catalog.philox`. Numbers are uint64 because processors multiply the low halves
    of packed ones at once. The byte of the first word is the lowest.
    """
    word0, word1, word2, word3 = block & LOW, block >> HALF, third, fourth
    key0, key1 = seed & LOW, seed >> HALF
    for _ in range(ROUNDS):
        even, odd = word0 * MULTIPLIER0, word2 * MULTIPLIER1
        word0, word1 = (odd >> HALF) ^ word1 ^ key0, odd & LOW
        word2, word3 = (even >> HALF) ^ word3 ^ key1, even & LOW
        key0, key1 = (key0 + WEYL0) & LOW, (key1 + WEYL1) & LOW
    flags = np.uint64(word3 >= threshold)
    flags = flags << BYTE | np.uint64(word2 >= threshold)
    flags = flags << BYTE | np.uint64(word1 >= threshold)
    return np.uint32(flags << BYTE | np.uint64(word0 >= threshold))


@family.phase(over="...")
def dropout(
    x: Array,
    seed: Array,
    step: Array,
    y: Array,
    mask: Array,
    p: float,
    layer: int,
    first_row: int,
    row_size: int,
    first: int,
) -> None:
    """``y = x mask / (1 - p)``, in chunks: flags of whole blocks, then what each element gets.

    Blocks are vectorised first, elements then, with the flags' bytes in between: four words of
    each of sixteen blocks would otherwise have to be interleaved.
    """
    kind = x.dtype.type
    scale, zero = kind(1 / (1 - p)), kind(0)
    threshold = np.uint64(np.ceil(p * 2.0**32))
    third, fourth, key = np.uint64(layer), np.uint64(step[0]) & LOW, np.uint64(seed[0])
    flags = local_bytes(FLAGS)
    words = flags.view(np.uint32)
    with_y, with_mask = wanted(y), wanted(mask)
    for start in range(0, x.size, CHUNK):
        stop = min(start + CHUNK, x.size)
        element = first_row * row_size + first + start
        block, lane = np.uint64(element) // np.uint64(LANES), element % LANES
        for i in range((lane + stop - start + LANES - 1) // LANES):
            words[i] = kept_flags(block + np.uint64(i), third, fourth, key, threshold)
        kept = flags[lane:]
        if with_mask:
            target = mask[start:stop]
            for i in range(target.size):
                target[i] = kept[i] != 0
        if with_y:
            source, target = x[start:stop], y[start:stop]
            for i in range(target.size):
                target[i] = source[i] * (scale if kept[i] != 0 else zero)


@family.phase(over="...")
def dropout_backward(grad: Array, mask: Array, out: Array, p: float) -> None:
    """``grad mask / (1 - p)``."""
    kind = grad.dtype.type
    scale, zero = kind(1 / (1 - p)), kind(0)
    for i in range(grad.size):
        out[i] = grad[i] * (scale if mask[i] else zero)


family.workspace("l1_penalty", PARTIAL)


@family.phase("l1_penalty", over=SEGMENTS)
def sizes_of_segments(w: Array, partial: Array, first: int) -> None:
    """Sum of ``|w|`` of each segment."""
    for i in range(partial.size):
        partial[i] = sum_of_sizes(segment(w, first + i))


@family.phase()
def l1_penalty(partial: Array, out: Array, strength: float) -> None:
    """``strength`` times the sum."""
    out[0] = strength * sum_of_partial(partial)


@family.phase(over="...")
def l1_penalty_backward(grad: Array, w: Array, out: Array, strength: float) -> None:
    """``grad strength sign(w)``; the product where w is neither above nor below 0: 0 or NaN."""
    kind = w.dtype.type
    slope, zero = kind(np.float64(grad[0]) * strength), kind(0)
    for i in range(w.size):
        out[i] = slope if w[i] > zero else (-slope if w[i] < zero else slope * w[i])


family.workspace("l2_penalty", PARTIAL)


@family.phase("l2_penalty", over=SEGMENTS)
def squares_of_segments(w: Array, partial: Array, first: int) -> None:
    """Sum of ``w²`` of each segment."""
    for i in range(partial.size):
        partial[i] = sum_of_squares(segment(w, first + i))


@family.phase()
def l2_penalty(partial: Array, out: Array, strength: float) -> None:
    """``strength`` times the sum."""
    out[0] = strength * sum_of_partial(partial)


@family.phase(over="...")
def l2_penalty_backward(grad: Array, w: Array, out: Array, strength: float) -> None:
    """``2 grad strength w``."""
    slope = w.dtype.type(2 * np.float64(grad[0]) * strength)
    for i in range(w.size):
        out[i] = slope * w[i]
