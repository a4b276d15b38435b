"""Random draws that are the same bits on every machine and with every NumPy.

Only the raw 64-bit output of NumPy's Philox is used: its stream is fixed, whereas the methods of
``numpy.random.Generator`` may change theirs between versions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def raw(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """``count`` random 64-bit words; a longer draw begins with the words of a shorter one."""
    key = np.array([seed, stream], dtype=np.uint64)
    words: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return words


def uniform(seed: int, stream: int, rows: int, columns: int) -> NDArray[np.float64]:
    """A ``[rows, columns]`` array of multiples of 2**-53, uniform in [0, 1)."""
    words = raw(seed, stream, rows * columns).reshape(rows, columns) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-53


def bell(seed: int, stream: int, rows: int, columns: int) -> NDArray[np.float32]:
    """A ``[rows, columns]`` array of mean 0 and standard deviation 1, within ±3.5.

    The sum of four uniform 16-bit numbers (Irwin-Hall): close to a normal, and free of the
    logarithms and cosines whose last bits differ between machines.
    """
    parts = raw(seed, stream, rows * columns).view(np.uint16).reshape(rows, columns, 4)
    total = parts[..., 0].astype(np.float32)
    for index in (1, 2, 3):
        total += parts[..., index]
    total -= np.float32(4 * 32767.5)
    total *= np.float32(3**0.5 / 65536)
    return total


def permutation(seed: int, stream: int, count: int) -> NDArray[np.int64]:
    """The numbers 0 to ``count - 1`` in random order."""
    return np.argsort(raw(seed, stream, count), kind="stable").astype(np.int64, copy=False)
