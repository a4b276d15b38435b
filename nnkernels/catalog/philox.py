"""Philox4x32-10, the counter-based generator behind dropout masks and shuffled batches.

A block of four 32-bit words is a function of a 128-bit counter and a 64-bit key: no state, so any
machine computes any part of a mask, and gets the same bits.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import numpy as np

from nnkernels.errors import InputError
from nnkernels.spec import Array

LOW = 0xFFFFFFFF
"""The low 32 bits of a word."""

SHUFFLE = LOW
"""Third counter word of shuffles; dropout's ``layer`` stays below it."""

MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def fill(state: Array, product: Array, first: int, third: int, fourth: int, seed: int) -> None:
    """Write the words of consecutive blocks into ``state``, in place.

    Block ``first + i`` has the counter ``(lo32(block), hi32(block), third, lo32(fourth))`` and the
    key ``(lo32(seed), hi32(seed))`` of the seed's two's complement; ``state[lane, i]`` becomes its
    word ``lane``.

    Shapes: ``state`` (4, n) and ``product`` (2, n), scratch, both uint64; n >= 1.
    """
    blocks = state[0]
    blocks.fill(1)
    blocks[0] = first
    np.add.accumulate(blocks, out=blocks)
    np.right_shift(blocks, 32, state[1])
    np.bitwise_and(blocks, LOW, blocks)
    state[2].fill(third)
    state[3].fill(fourth & LOW)
    encrypt(state, product, seed & LOW, (seed >> 32) & LOW)


def encrypt(state: Array, product: Array, key0: int, key1: int) -> None:
    """Ten rounds of Philox on the counters in ``state`` (4, n), in place; see :func:`fill`."""
    even, odd, crossed = state[0::2], state[1::2], product[::-1]
    for turn in range(ROUNDS):
        np.multiply(even, MULTIPLIERS, product)
        np.right_shift(crossed, 32, even)
        np.bitwise_xor(even, odd, even)
        np.bitwise_xor(even[0], (key0 + turn * WEYL[0]) & LOW, even[0])
        np.bitwise_xor(even[1], (key1 + turn * WEYL[1]) & LOW, even[1])
        np.bitwise_and(crossed, LOW, odd)


def words(first: int, count: int, third: int, fourth: int, seed: int) -> Array:
    """Words ``first`` to ``first + count`` of the stream of blocks of :func:`fill`.

    Word ``e`` is lane ``e % 4`` of block ``e // 4``. Result (count) uint64, each below 2**32.
    """
    block, lane = divmod(first, 4)
    blocks = -(-(lane + count) // 4)
    state = np.empty((4, blocks), np.uint64)
    if blocks:
        fill(state, np.empty((2, blocks), np.uint64), block, third, fourth, seed)
    return state.T.reshape(-1)[lane : lane + count]


def shuffled(n: int, seed: int, epoch: int) -> Array:
    """The numbers 0 to n - 1 in the random order of ``epoch``: the same on every machine.

    Number i gets the key ``word(i) << 32 | i``, with word i of the stream of :func:`words` whose
    third counter word is ``0xFFFFFFFF`` and whose fourth is ``lo32(epoch)``; the order is that of
    the keys, which differ, so that any sorting algorithm gives it. Result (n) int64.

    Raises:
        InputError: n is negative, or 2**32 or more.
    """
    if not 0 <= n <= LOW:
        raise InputError(f"shuffled: n must lie in [0, 2**32), got {n}; shuffle in smaller parts")
    keys = words(0, n, SHUFFLE, epoch, seed)
    np.left_shift(keys, 32, keys)
    np.bitwise_or(keys, np.arange(n, dtype=np.uint64), keys)
    keys.sort()
    np.bitwise_and(keys, LOW, keys)
    return keys.view(np.int64)
