"""Batches of arrays that stay in host memory: the next one travels while the device computes.

Two buffers on either side take turns. The rows of a batch are collected in pinned memory, copied by
a stream of their own, and moved from there to where the launches expect them; events keep either
side from overwriting what the other still needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkernels.backends.cupy import queue
from nnkernels.backends.cupy.device import CudaDevice
from nnkernels.spec import Array


class _Buffer:
    """A batch on its way: pinned memory, device memory, and what has happened to them.

    Attributes:
        row: of the data, with which its batch begins; None while it holds none.
        copied: the device memory has been filled, and the pinned memory may be changed.
        moved: the device memory may be filled again.
    """

    def __init__(self, device: CudaDevice, targets: Mapping[str, Any]) -> None:
        cp = device.gpu.cp
        self.row: int | None = None
        self.copied, self.moved = (cp.cuda.Event(disable_timing=True) for _ in range(2))
        self.pinned = {n: queue.pinned(cp, a.shape, a.dtype) for n, a in targets.items()}
        self.device: dict[str, Any] = {
            n: device.empty(a.shape, a.dtype) for n, a in targets.items()
        }


class HostRows:
    """Brings batches of host arrays to the device.

    Args:
        device: a CUDA device.
        sources: host arrays by name; all have the same number of rows.
        targets: by the same names, the device arrays where the launches expect a batch.
        order: rows of the sources in the order of the batches; None: as they are.
    """

    def __init__(
        self,
        device: CudaDevice,
        sources: Mapping[str, Array],
        targets: Mapping[str, Any],
        order: Array | None,
    ) -> None:
        self._device, self._targets = device, dict(targets)
        self._stream = device.gpu.cp.cuda.Stream(non_blocking=True)
        self._buffers: list[_Buffer] = []
        self._rows = min(len(array) for array in self._targets.values())
        self.turn_to(sources, order)

    def turn_to(self, sources: Mapping[str, Array], order: Array | None) -> None:
        """Bring batches of other arrays, or in another order, from now on."""
        self._sources, self._order = dict(sources), order
        self._length = min(map(len, sources.values())) if order is None else len(order)
        for buffer in self._buffers:
            buffer.row = None

    def settle(self) -> None:
        """Wait for the batch that travels."""
        self._stream.synchronize()

    def bring(self, row: int, following: int, stream: Any) -> None:
        """Let ``stream`` find the batch at ``row`` in the targets; fetch the one at ``following``.

        ``stream`` is the current one. The host waits only while both buffers travel.
        """
        if not self._buffers:  # only now has whatever was fed before given its memory back
            self._buffers = [_Buffer(self._device, self._targets) for _ in range(2)]
        ready, other = self._buffers
        if ready.row != row:
            self._fetch(ready, row)
        stream.wait_event(ready.copied)
        for name, target in self._targets.items():
            target[...] = ready.device[name]
        ready.moved.record(stream)
        ready.row = None
        if 0 <= following <= self._length - self._rows:
            self._fetch(other, following)
        self._buffers.reverse()

    def _fetch(self, buffer: _Buffer, row: int) -> None:
        buffer.copied.synchronize()
        rows = slice(row, row + self._rows)
        for name, source in self._sources.items():
            if self._order is None:
                buffer.pinned[name][...] = source[rows]
            else:
                np.take(source, self._order[rows], axis=0, out=buffer.pinned[name], mode="clip")
        self._stream.wait_event(buffer.moved)
        for name, pinned in buffer.pinned.items():
            buffer.device[name].set(pinned, stream=self._stream)
        buffer.copied.record(self._stream)
        buffer.row = row
