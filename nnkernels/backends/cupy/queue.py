"""A CUDA device's current stream as nnkernels' Queue."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nnkernels.backends.cupy.gpu import Gpu
from nnkernels.spec import Array

FLUSHED = 2
"""What is written to flush the L2 cache, as a multiple of its size."""

UNKNOWN_L2 = 64 << 20
"""Bytes taken for the size of an L2 cache that CUDA does not tell."""


class CudaQueue:
    """What is queued on the current stream.

    Args:
        gpu: of which device.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._cp = gpu, gpu.cp

    def mark(self) -> Any:
        """A CUDA event."""
        with self._gpu.current():
            event = self._cp.cuda.Event()
            event.record()
        return event

    def between(self, first: Any, last: Any) -> float:
        """Seconds between two events, with a resolution of about half a microsecond."""
        last.synchronize()
        return float(self._cp.cuda.get_elapsed_time(first, last)) / 1e3

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised NumPy array in page-locked memory."""
        return pinned(self._cp, shape, np.dtype(dtype))

    def upload(self, source: Array, target: Any) -> None:
        """Queue a copy to the device."""
        with self._gpu.current():
            target.set(source)

    def download(self, source: Any, target: Array) -> None:
        """Queue a copy from the device."""
        with self._gpu.current():
            source.get(out=target, blocking=False)

    def flush(self) -> None:
        """Queue the writing of twice as much as the L2 cache holds."""
        with self._gpu.current():
            self._spoil.fill(0)

    @functools.cached_property
    def _spoil(self) -> Any:
        l2 = int(self._gpu.device.attributes.get("L2CacheSize", 0)) or UNKNOWN_L2
        return self._cp.empty((FLUSHED * l2,), np.uint8)


def pinned(cp: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised NumPy array in page-locked memory."""
    count = math.prod(shape)
    memory = cp.cuda.alloc_pinned_memory(max(count * dtype.itemsize, 1))
    return np.frombuffer(memory, dtype, count).reshape(shape)
