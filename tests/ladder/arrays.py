"""Arrays in the host's memory that pass for a device's, and floating storage types in NumPy."""

from __future__ import annotations

import math
import mmap
from types import SimpleNamespace
from typing import Any

import numpy as np

from nnkernels.spec import Array

MAP_NORESERVE = 0x4000
"""Linux's flag for memory that is not counted until it is touched; ``mmap`` may lack the name."""

POISON = {"f": np.nan, "i": -(2**40), "u": 0xA5A5, "b": True}
"""What arrays hold that a kernel must fill, by kind of dtype."""


class DeviceArray(np.ndarray):
    """An array whose ``data.ptr`` is its address, as CuPy's."""

    @property
    def data(self) -> SimpleNamespace:
        """Where it is."""
        return SimpleNamespace(ptr=self.ctypes.data)


def device(values: Array, offset: int = 0) -> DeviceArray:
    """A copy of ``values`` in memory of its own, ``offset`` elements behind a 16-byte boundary."""
    base = np.empty(values.size + offset, values.dtype).view(DeviceArray)
    array = base[offset:].reshape(values.shape)
    array[...] = values
    return array


def sparse(shape: tuple[int, ...], dtype: Any) -> DeviceArray:
    """An array of zeros of any size, which takes memory only where it is touched."""
    dtype = np.dtype(dtype)
    nbytes = max(math.prod(shape) * dtype.itemsize, 1)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, nbytes, flags=flags)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape).view(DeviceArray)


def poisoned(shape: tuple[int, ...], dtype: Any, offset: int = 0) -> DeviceArray:
    """An array that a kernel must fill."""
    dtype = np.dtype(dtype)
    return device(np.full(shape, POISON[dtype.kind], dtype), offset)


def encode(values: Array, dtype: Any) -> Array:
    """Numbers in the dtype of a storage type; uint16 stands for the bits of bfloat16."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return bfloat16_bits(values) if np.dtype(dtype) == np.uint16 else values.astype(dtype)


def decode(array: Array) -> Array:
    """The numbers that an array holds."""
    plain = np.asarray(array)
    if plain.dtype != np.uint16:
        return plain
    return (plain.astype(np.uint32) << 16).view(np.float32)


def bfloat16_bits(values: Array) -> Array:
    """To nearest, ties to even; NaN stays NaN."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
