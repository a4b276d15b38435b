"""The memory of simulated devices, layouts of arrays in it, and pinned memory of the host."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nnkernels.spec import Array
from nnkernels.testing import ptx
from nnkernels.testing.simulated.errors import OutOfMemoryError

UNIT = 512
"""Bytes that allocations are rounded up to, as in CuPy's pools."""

FILLER = 0xFF
"""Fresh pinned memory holds NaN and -1."""


class Layout(NamedTuple):
    """Where an array lies; keeps nothing alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]

    @classmethod
    def packed(cls, address: int, shape: tuple[int, ...], dtype: Any, order: str = "C") -> Layout:
        """The layout without gaps, by rows (``C``) or by columns (``F``)."""
        kind = np.dtype(dtype)
        strides, step = [0] * len(shape), kind.itemsize
        for axis in range(len(shape)) if order == "F" else reversed(range(len(shape))):
            strides[axis] = step
            step *= shape[axis]
        return cls(address, shape, kind, tuple(strides))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def extent(self) -> tuple[int, int]:
        """Lowest address, and bytes from there to the end; for arrays with elements."""
        ends = [(n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)]
        lowest = self.address + sum(min(end, 0) for end in ends)
        return lowest, sum(map(abs, ends)) + self.dtype.itemsize

    def runs(self) -> Iterator[tuple[int, int]]:
        """Address and length in bytes of every stretch of memory without gaps."""
        if not self.size:
            return
        dense, outer = self.dtype.itemsize, []
        address, _ = self.extent
        for stride, length in sorted(zip(map(abs, self.strides), self.shape, strict=True)):
            if length > 1 and stride == dense:
                dense *= length
            elif length > 1:
                outer.append(range(0, stride * length, stride) if stride else range(1))
        for offsets in itertools.product(*outer):
            yield address + sum(offsets), dense


class Block:
    """Memory that lives as long as this object, and until no work waits that may use it."""

    def __init__(self, memory: DeviceMemory, device: int, address: int, nbytes: int) -> None:
        self.device, self.address, self.nbytes = device, address, nbytes
        self._freed = memory.freed

    def __del__(self) -> None:
        self._freed.append((self.device, self.address, self.nbytes))


class DeviceMemory:
    """The memory of all devices; every allocation belongs to one of them.

    Args:
        devices: how many.
        capacity: bytes of each.

    Attributes:
        space: the addresses, with what was written.
        freed: blocks whose owners are gone, to be freed when no work waits.
    """

    def __init__(self, devices: int, capacity: int) -> None:
        self.space = ptx.Memory()
        self.capacity = capacity
        self.used = [0] * devices
        self.freed: deque[tuple[int, int, int]] = deque()
        self._owners: dict[int, int] = {}

    def allocate(self, device: int, nbytes: int, *, zeroed: bool = False) -> Block:
        """Fresh memory.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        reserved = -(-nbytes // UNIT) * UNIT
        if self.used[device] + reserved > self.capacity:
            raise OutOfMemoryError(reserved, self.used[device])
        address = self.space.allocate(nbytes, zeroed=zeroed)
        self.used[device] += reserved
        self._owners[address] = device
        return Block(self, device, address, nbytes)

    def free_dead_blocks(self) -> None:
        """Free what nobody owns any more."""
        while self.freed:
            device, address, nbytes = self.freed.popleft()
            self.space.free(address)
            del self._owners[address]
            self.used[device] -= -(-nbytes // UNIT) * UNIT

    def device_of(self, address: int) -> int:
        """The device that an address belongs to; ValueError if it is none's."""
        return self._owners[self.space.extent(address).base]

    def values(self, layout: Layout) -> Array:
        """A view of an array's values.

        Raises:
            Fault: nothing wrote them.
        """
        if layout.size and self.space.wrong(*layout.extent, reads=True):
            for address, nbytes in layout.runs():  # gaps may hold anything
                wrong = self.space.wrong(address, nbytes, reads=True)
                if wrong is not None:
                    raise ptx.Fault(*wrong)
        return self.view(layout)

    def write(self, layout: Layout, values: Any) -> None:
        """Change an array's values."""
        self.view(layout)[...] = values
        for address, nbytes in layout.runs():
            self.space.mark_written(address, nbytes)

    def view(self, layout: Layout) -> Array:
        """A view of an array's memory, whether anything wrote it or not."""
        if not layout.size:
            return np.empty(layout.shape, layout.dtype)
        return self.space.view(layout.address, layout.shape, layout.dtype, layout.strides)


# --- the host's side ---------------------------------------------------------------------------


def host_bytes(address: int, nbytes: int) -> Array:
    """A view of ``nbytes`` bytes of the process's own memory."""
    return np.ctypeslib.as_array((ctypes.c_ubyte * nbytes).from_address(address))


class PinnedMemory:
    """The host memory that devices read and write while the host goes on."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, Any]] = []

    def allocate(self, nbytes: int) -> Any:
        """A buffer with CuPy's ``ptr`` and ``size()``, larger than asked for, as from CuPy's pool.

        It is kept for good: the device may use it when nothing on the host does any more.
        """
        size = max(UNIT, 1 << (nbytes - 1).bit_length())
        kind = type("PinnedMemoryPointer", (_PinnedMemoryPointer, ctypes.c_ubyte * size), {})
        block = kind()
        ctypes.memset(block.ptr, FILLER, size)
        self._blocks.append((block.ptr, block))
        return block

    def holds(self, address: int, nbytes: int) -> bool:
        """Whether these bytes lie in one pinned buffer."""
        return any(
            base <= address and address + nbytes <= base + len(block)
            for base, block in self._blocks
        )


class _PinnedMemoryPointer:
    """What CuPy adds to a buffer."""

    @property
    def ptr(self) -> int:
        """Its address."""
        return ctypes.addressof(self)  # type: ignore[arg-type]  # mixed into ctypes arrays

    def size(self) -> int:
        """Bytes."""
        return len(self)  # type: ignore[arg-type]  # mixed into ctypes arrays
