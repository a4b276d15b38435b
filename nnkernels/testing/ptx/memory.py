"""The device's address space: allocations, red zones, and which bytes hold a value.

Memory lies in segments. Each byte has a state beside its value, so one gather of states tells
whether an access stays inside a living allocation and reads what was written.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnkernels.testing.ptx.dtypes import Array, DType
from nnkernels.testing.ptx.faults import Kind

OUTSIDE, FREED, ALLOCATED, WRITTEN = 0, 1, 2, 3
"""States of a byte; ALLOCATED is the bit that living allocations have."""

FILLER = 0xFF
"""Fresh memory holds NaN and -1."""

BASE = 0x7F00_0000_0000
FIRST = np.uint64(BASE)
SEGMENT = 64 << 20
ALIGNMENT = 512
RED_ZONE = 4096
WIDEST_RED_ZONE = 1 << 20
QUARANTINE = 8
"""How many freed blocks of one size stay untouched before the oldest is used again."""


class Segment:
    """A stretch of memory with the state of each byte, seen in units of 1, 2, 4, 8 or 16 bytes."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.size = base, size
        self.data = np.zeros(size, np.uint8)
        self.state = np.zeros(size, np.uint8)
        self._data = _units(self.data)
        self._state = _units(self.state)

    def fill(self, start: int, stop: int, state: int) -> None:
        """Set the state of a range of bytes."""
        self.state[start:stop] = state

    def load(self, offsets: Array, size: int) -> Array | None:
        """The units of ``size`` bytes at aligned unsigned ``offsets``; None if any is not written.

        16-byte units are rows of two.
        """
        at = (offsets >> SHIFT[size]).view(np.int64)
        try:
            states = self._state[size].take(at, 0)
        except IndexError:
            return None
        if np.count_nonzero(states != WRITTEN_UNITS[size]):
            return None
        values: Array = self._data[size].take(at, 0)
        return values

    def store(self, offsets: Array, values: Array, size: int) -> bool:
        """Write units; False, and nothing written, if one is outside a living allocation.

        Where offsets repeat the last one stays.
        """
        at = (offsets >> SHIFT[size]).view(np.int64)
        unit = ALLOCATED_UNITS[size]
        try:
            states = self._state[size].take(at, 0)
        except IndexError:
            return False
        if np.count_nonzero((states & unit) != unit):
            return False
        self._data[size][at] = values
        self._state[size][at] = WRITTEN_UNITS[size]
        return True

    def states_of(self, offset: int, size: int) -> Array:
        """States of the bytes of one access, OUTSIDE beyond the segment."""
        states = np.full(size, OUTSIDE, np.uint8)
        inside = self.state[max(offset, 0) : max(offset + size, 0)]
        states[: inside.size] = inside
        return states


SHIFT = {size: np.uint64(bits) for bits, size in enumerate((1, 2, 4, 8, 16))}


def _unit_type(size: int) -> DType:
    return np.dtype(f"u{min(size, 8)}")


def _unit(value: int, size: int) -> Any:
    return np.frombuffer(bytes([value]) * min(size, 8), _unit_type(size))


WRITTEN_UNITS = {size: _unit(WRITTEN, size) for size in SHIFT}
ALLOCATED_UNITS = {size: _unit(ALLOCATED, size) for size in SHIFT}


def _units(memory: Array) -> dict[int, Array]:
    whole = memory[: memory.size // 16 * 16]
    units = {size: whole.view(f"u{size}") for size in (1, 2, 4, 8)}
    units[16] = units[8].reshape(-1, 2)
    return units


def explain_states(states: Array, *, reads: bool) -> tuple[Kind, str] | None:
    """What is wrong with touching bytes in these states, if anything is."""
    if (states == FREED).any():
        return Kind.USE_AFTER_FREE, "the memory was freed"
    if (states == OUTSIDE).any():
        return Kind.OUT_OF_BOUNDS, "outside every allocation"
    if reads and (states == ALLOCATED).any():
        return Kind.UNINITIALISED, "the memory was allocated and never written"
    return None


class Extent(NamedTuple):
    """A living allocation."""

    base: int
    nbytes: int


class Memory:
    """The memory of a device.

    Addresses are integers. Allocations are aligned to 512 bytes with red zones between. Bytes
    that nothing wrote are known as such: a kernel that reads them faults. Not thread-safe.
    """

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._ends: list[int] = []
        self._bases: list[int] = []
        self._sizes: dict[int, int] = {}
        self._reserved: dict[int, int] = {}
        self._freed: dict[int, deque[int]] = {}
        self._sorted: Array | None = None
        self.symbols: dict[tuple[object, str], int] = {}

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> int:
        """The address of ``nbytes`` fresh bytes, zeros that count as written if ``zeroed``."""
        if nbytes < 0:
            raise ValueError(f"cannot allocate {nbytes} bytes")
        reserved = -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        waiting = self._freed.setdefault(reserved, deque())
        base = waiting.popleft() if len(waiting) > QUARANTINE else self._reserve(reserved)
        self._reserved[base] = reserved
        self._sizes[base] = nbytes
        bisect.insort(self._bases, base)
        self._sorted = None
        segment, start = self._segment(base)
        segment.fill(start, start + reserved, OUTSIDE)
        segment.data[start : start + nbytes] = 0 if zeroed else FILLER
        segment.fill(start, start + nbytes, WRITTEN if zeroed else ALLOCATED)
        return base

    def _reserve(self, reserved: int) -> int:
        """New room with its red zone."""
        zone = min(max(RED_ZONE, reserved), WIDEST_RED_ZONE)
        room = reserved + zone
        if not self.segments or self._ends[-1] + room > self.segments[-1].size - WIDEST_RED_ZONE:
            self._add_segment(max(SEGMENT, room + 2 * WIDEST_RED_ZONE))
        start = self._ends[-1]
        self._ends[-1] = start + room
        return self.segments[-1].base + start

    def _add_segment(self, size: int) -> None:
        base = BASE
        if self.segments:
            last = self.segments[-1]
            base = (last.base + last.size + SEGMENT) // SEGMENT * SEGMENT
        self.segments.append(Segment(base, size))
        self._ends.append(RED_ZONE)

    def free(self, address: int) -> None:
        """End an allocation; its bytes fault from now on."""
        nbytes = self._sizes.pop(address, None)
        if nbytes is None:
            raise ValueError(f"{address:#x} is not the address of an allocation")
        self._bases.remove(address)
        self._sorted = None
        segment, start = self._segment(address)
        segment.fill(start, start + nbytes, FREED)
        self._freed.setdefault(self._reserved.pop(address), deque()).append(address)

    def extent(self, address: int) -> Extent:
        """The allocation that holds ``address``; ValueError if there is none."""
        at = bisect.bisect_right(self._bases, address) - 1
        if at >= 0:
            base = self._bases[at]
            if address < base + max(self._sizes[base], 1):
                return Extent(base, self._sizes[base])
        raise ValueError(f"{address:#x} lies in no allocation")

    @property
    def bases(self) -> Array:
        """Addresses of all allocations, ascending."""
        if self._sorted is None:
            self._sorted = np.array(self._bases, np.int64)
        return self._sorted

    # --- access by the host ----------------------------------------------------------------

    def write(self, address: int, values: Any) -> None:
        """Copy the bytes of an array or a bytes-like object to ``address``."""
        source = values.tobytes() if isinstance(values, np.ndarray) else bytes(values)
        segment, start = self._host(address, len(source))
        segment.data[start : start + len(source)] = np.frombuffer(source, np.uint8)
        segment.fill(start, start + len(source), WRITTEN)

    def read(self, address: int, nbytes: int) -> bytes:
        """A copy of ``nbytes`` bytes, written or not."""
        segment, start = self._host(address, nbytes)
        return segment.data[start : start + nbytes].tobytes()

    def mark_written(self, address: int, nbytes: int) -> None:
        """Say that the host wrote these bytes through a view."""
        segment, start = self._host(address, nbytes)
        segment.fill(start, start + nbytes, WRITTEN)

    def view(
        self, address: int, shape: Sequence[int], dtype: Any, strides: Sequence[int] | None = None
    ) -> Array:
        """A NumPy view of the bytes; writing through it does not count until marked."""
        kind = np.dtype(dtype)
        steps = strides if strides is not None else _packed(shape, kind.itemsize)
        ends = [(n - 1) * step for n, step in zip(shape, steps, strict=True)]
        low = sum(min(end, 0) for end in ends)
        span = sum(abs(end) for end in ends) + kind.itemsize if all(shape) else 0
        segment, _ = self._host(address + low if span else address, span)
        start = address - segment.base
        return np.ndarray(tuple(shape), kind, segment.data.data, start, tuple(steps))

    def _host(self, address: int, nbytes: int) -> tuple[Segment, int]:
        """Where a range lies; ValueError if it leaves its allocation."""
        extent = self.extent(address)
        if address + nbytes > extent.base + extent.nbytes:
            raise ValueError(
                f"{nbytes} bytes at {address:#x} leave an allocation of {extent.nbytes} bytes "
                f"at {extent.base:#x}"
            )
        return self._segment(address)

    # --- access by kernels -----------------------------------------------------------------

    def _segment(self, address: int) -> tuple[Segment, int]:
        for segment in self.segments:
            if 0 <= address - segment.base < segment.size:
                return segment, address - segment.base
        raise ValueError(f"{address:#x} lies in no segment")

    def load(self, addresses: Array, size: int) -> Array | None:
        """The units at aligned unsigned ``addresses``; None if one cannot be read."""
        if len(self.segments) == 1:
            return self.segments[0].load(addresses - FIRST, size)
        parts = [(s, self._inside(s, addresses)) for s in self.segments]
        result = np.zeros((addresses.size, 2) if size == 16 else addresses.size, _unit_type(size))
        for segment, at in parts:
            values = segment.load(addresses[at] - np.uint64(segment.base), size)
            if values is None:
                return None
            result[at] = values
        return result if sum(at.size for _, at in parts) == addresses.size else None

    def store(self, addresses: Array, values: Array, size: int) -> bool:
        """Write units; False if one cannot be written."""
        if len(self.segments) == 1:
            return self.segments[0].store(addresses - FIRST, values, size)
        parts = [(s, self._inside(s, addresses)) for s in self.segments]
        values = np.broadcast_to(values, (addresses.size, *values.shape[1:]))  # may be one for all
        done = all(s.store(addresses[at] - np.uint64(s.base), values[at], size) for s, at in parts)
        return done and sum(at.size for _, at in parts) == addresses.size

    def _inside(self, segment: Segment, addresses: Array) -> Array:
        offsets = addresses - np.uint64(segment.base)
        return np.flatnonzero(offsets < segment.size)

    def wrong(self, address: int, size: int, *, reads: bool) -> tuple[Kind, str] | None:
        """What is wrong with an access of ``size`` bytes, if anything is."""
        try:
            segment, start = self._segment(address)
        except ValueError:
            return Kind.OUT_OF_BOUNDS, f"{address:#x} is no address of this device"
        found = explain_states(segment.states_of(start, size), reads=reads)
        return (found[0], f"{found[1]}; {self.describe(address, size)}") if found else None

    def describe(self, address: int, size: int) -> str:
        """An address in words: how far from which allocation."""
        at = bisect.bisect_right(self._bases, address) - 1
        if at < 0:
            return f"{size} bytes at {address:#x}, before every allocation"
        base = self._bases[at]
        return (
            f"bytes {address - base} to {address - base + size} of an allocation of "
            f"{self._sizes[base]} bytes at {base:#x}"
        )


def _packed(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * n)
    return tuple(reversed(strides[: len(shape)])) if shape else ()
