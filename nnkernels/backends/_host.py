"""The CPU as a device: NumPy arrays in host memory, shared by all CPU backends."""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np

from nnkernels.errors import DeviceMismatchError, type_name
from nnkernels.spec import Array

ALIGNMENT = 64


class HostDevice:
    """Host memory; work is done when a kernel returns."""

    name = "cpu"
    queue = None

    def available(self) -> str | None:
        """Always usable."""
        return None

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """``numpy.asarray``, refusing arrays that live on a GPU."""
        if hasattr(array, "__cuda_array_interface__"):
            raise DeviceMismatchError(
                f"a {type_name(array)} lives on a GPU; copy it to the "
                "host first, for example with its backend's to_numpy()"
            )
        return np.asarray(array, dtype)

    def to_numpy(self, array: Any) -> Array:
        """The array itself."""
        return self.asarray(array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """``numpy.empty``."""
        return np.empty(shape, dtype)

    def buffer(self, nbytes: int) -> Array:
        """Zeroed bytes, aligned to 64 (a cache line, a vector register)."""
        raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + nbytes]

    def owns(self, array: Any) -> bool:
        """Whether it is a NumPy array."""
        return isinstance(array, np.ndarray)

    def borrow(self, array: Any) -> Array | None:
        """None: what lies in host memory becomes an array through NumPy."""
        return None

    def extent(self, array: Any) -> tuple[int, int]:
        """See :func:`numpy.lib.array_utils.byte_bounds`."""
        first, last = np.lib.array_utils.byte_bounds(array)
        return int(first), int(last)

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def timer(self) -> float:
        """``time.perf_counter()``."""
        return time.perf_counter()

    def describe(self) -> dict[str, str]:
        """The processor's architecture."""
        return {"device": "cpu", "machine": platform.machine()}


HOST = HostDevice()
