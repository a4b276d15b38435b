"""The State: flat buffers that training reads and writes, shared by all Programs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkernels.backend import Device
from nnkernels.errors import DeviceMemoryError, ProgramError, ShapeError, unknown
from nnkernels.program.format import Layout, Slot
from nnkernels.spec import Array


class State:
    """Parameters, gradients, moments, statistics, scalars and counters of one training run.

    Every buffer is one flat array on the device, zero at first; :meth:`view` gives the named
    arrays inside. It is owned by the trainer and used by one Executable at a time.
    """

    def __init__(self, layout: Layout, device: Device) -> None:
        self.layout = layout
        self.device = device
        self.buffers: dict[str, Array] = {
            name: _room(device, name, count * np.dtype(dtype).itemsize).view(dtype)
            for name, (dtype, count) in layout.buffers.items()
        }
        self._entries = {entry.name: entry for entry in layout.entries}

    def names(self, buffer: str | None = None) -> list[str]:
        """Names of the arrays, all or those of one buffer."""
        return [e.name for e in self.layout.entries if buffer in (None, e.buffer)]

    def view(self, name: str) -> Array:
        """The array called ``name``: a view, not a copy."""
        if name not in self._entries:
            raise unknown("array of the state", name, self._entries)
        entry = self._entries[name]
        return self._slice(entry.buffer, entry.offset, entry.shape, entry.dtype)

    def slot(self, slot: Slot) -> Array:
        """The array behind a Program's ``slot``: a view."""
        if slot.buffer not in self.buffers:
            raise ProgramError(f"slot {slot.name!r}: the state has no buffer {slot.buffer!r}")
        return self._slice(slot.buffer, slot.offset, slot.shape, slot.dtype)

    def _slice(self, buffer: str, offset: int, shape: tuple[int, ...], dtype: str) -> Array:
        flat = self.buffers[buffer]
        first = offset // flat.dtype.itemsize
        count = int(np.prod(shape, dtype=np.int64))
        return flat[first : first + count].view(dtype).reshape(shape)

    def set(self, name: str, value: Any) -> None:
        """Copy ``value`` into the array called ``name``; shapes must agree."""
        target = self.view(name)
        source = self.device.asarray(value, target.dtype)
        if source.shape != target.shape:
            raise ShapeError(
                f"state: {name!r} has shape {target.shape}, the given array {source.shape}"
            )
        target[...] = source

    def get(self, name: str) -> Array:
        """A NumPy copy of the array called ``name``."""
        return np.array(self.device.to_numpy(self.view(name)))

    def number(self, name: str) -> float | int:
        """The value of a scalar or counter."""
        value: float | int = self.device.to_numpy(self.view(name)).item()
        return value

    def snapshot(self) -> dict[str, Array]:
        """NumPy copies of all buffers."""
        return {name: np.array(self.device.to_numpy(b)) for name, b in self.buffers.items()}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """Put back what :meth:`snapshot` gave."""
        for name, values in snapshot.items():
            self.buffers[name][...] = self.device.asarray(values)


def _room(device: Device, name: str, nbytes: int) -> Array:
    try:
        return device.buffer(nbytes)
    except DeviceMemoryError as error:
        raise DeviceMemoryError(
            f"the weights and what the optimizer keeps do not fit (their buffer {name!r}, whatever "
            f"the batch): {error}"
        ) from error
