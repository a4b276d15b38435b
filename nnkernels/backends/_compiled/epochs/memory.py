"""Where a plan's arrays lie: what all threads share, and what each has for itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nnkernels.backends._compiled.epochs.tasks import PRIVATE_BUFFERS, Region
from nnkernels.program import Program, State
from nnkernels.program.format import CONSTANT, INPUT, aligned
from nnkernels.spec import Array

INPUT_PREFIX = f"{INPUT} "


class Shared:
    """Arrays that all threads see: the State's buffers, scratch, constants.

    Inputs have no place here: they come with every feed, and count as address 0 until then.
    """

    def __init__(self, program: Program, state: State, regions: Iterable[Region]) -> None:
        self._arrays = {n: b for n, b in state.buffers.items() if n not in PRIVATE_BUFFERS}
        for region in regions:
            if not region.private and not region.memory.startswith(INPUT_PREFIX):
                self._make_room(region, state)
        for slot in program.slots:
            name = f"{CONSTANT} {slot.name}"
            if name in self._arrays:
                self._arrays[name].view(slot.dtype)[...] = slot.value

    def _make_room(self, region: Region, state: State) -> None:
        have = self._arrays.get(region.memory)
        if have is None or have.nbytes < region.offset + region.nbytes:
            self._arrays[region.memory] = state.device.buffer(region.offset + region.nbytes)

    def address(self, region: Region) -> int:
        """Where a region begins."""
        if region.memory.startswith(INPUT_PREFIX):
            return 0
        return int(self._arrays[region.memory].ctypes.data) + region.offset

    def read(self, region: Region, dtype: str) -> Array:
        """A copy of what lies in a region."""
        raw = self._arrays[region.memory].view(np.uint8)
        values = raw[region.offset : region.offset + region.nbytes].view(dtype)
        return np.array(values.reshape(region.shape))


class Private:
    """What one thread has for itself: numbers of the step, and its copy of the State's."""

    def __init__(self, state: State, regions: Iterable[Region]) -> None:
        self._state = state
        sizes = {name: state.buffers[name].nbytes for name in PRIVATE_BUFFERS}
        for region in regions:
            if region.private and region.memory not in sizes:
                sizes[region.memory] = region.nbytes
        self._offsets: dict[str, int] = {}
        total = 0
        for name, nbytes in sizes.items():
            self._offsets[name] = total
            total += aligned(nbytes)
        self._bytes = state.device.buffer(total)

    def address(self, region: Region) -> int:
        """Where a region begins."""
        return int(self._bytes.ctypes.data) + self._offsets[region.memory] + region.offset

    def counter(self, name: str) -> int:
        """Address of one of the State's counters."""
        names = {e.name: e for e in self._state.layout.entries if e.buffer == "counters"}
        return int(self._bytes.ctypes.data) + self._offsets["counters"] + names[name].offset

    def read(self, region: Region, dtype: str) -> Array:
        """A copy of what lies in a region."""
        first = self._offsets[region.memory] + region.offset
        return np.array(self._bytes[first : first + region.nbytes].view(dtype)).reshape(
            region.shape
        )

    def fetch_state(self) -> None:
        """Copy the State's scalars and counters here."""
        for name in PRIVATE_BUFFERS:
            self._mine(name)[...] = self._state.buffers[name]

    def store_state(self) -> None:
        """Copy them back."""
        for name in PRIVATE_BUFFERS:
            self._state.buffers[name][...] = self._mine(name)

    def _mine(self, name: str) -> Array:
        buffer = self._state.buffers[name]
        first = self._offsets[name]
        return self._bytes[first : first + buffer.nbytes].view(buffer.dtype)
