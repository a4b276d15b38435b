"""A CUDA device as nnkernels' Device: arrays are CuPy's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.backends.cupy.gpu import Gpu
from nnkernels.backends.cupy.queue import CudaQueue
from nnkernels.errors import BackendError, DeviceMemoryError, DeviceMismatchError, type_name
from nnkernels.spec import Array

DLPACK_CUDA = 2
"""Device type of CUDA memory in the DLPack standard."""


class CudaDevice:
    """Memory of one GPU; work is queued on the current stream.

    Args:
        gpu: which one.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.cp = gpu.cp
        self.queue = CudaQueue(gpu)

    @property
    def name(self) -> str:
        """``cuda:0``, ``cuda:1``, ..."""
        return f"cuda:{self.gpu.index}"

    def available(self) -> str | None:
        """Usable: the backend exists only where the probe found a device that works."""
        return None

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """``array`` on this device.

        Its own arrays and other libraries' tensors in its memory are used in place, host arrays are
        copied.

        Raises:
            DeviceMismatchError: it lives on another GPU.
            DeviceMemoryError: there is no room for it.
        """
        borrowed = self.borrow(array)
        if borrowed is not None:
            fits = dtype is None or borrowed.dtype == dtype
            converted: Array = borrowed if fits else borrowed.astype(dtype)
            return converted
        host = np.asarray(array, dtype, order="C")
        with self.gpu.current(), room(self.gpu, f"an array of shape {host.shape} {host.dtype}"):
            placed: Array = self.cp.asarray(host)
        return placed

    def borrow(self, array: Any) -> Any:
        """An array on this device over the memory of ``array``; None for host arrays.

        Raises:
            DeviceMismatchError: it lives on another GPU.
        """
        if isinstance(array, self.cp.ndarray):
            self._check_index(array, int(array.device.id))
            return array
        kind, index = _place(array)
        if kind != DLPACK_CUDA:
            return None
        if index is not None:
            self._check_index(array, index)
        with self.gpu.current():
            interface = hasattr(array, "__cuda_array_interface__")
            borrowed = (self.cp.asarray if interface else self.cp.from_dlpack)(array)
        self._check_index(array, int(borrowed.device.id))
        return borrowed

    def _check_index(self, array: Any, index: int) -> None:
        if index != self.gpu.index:
            raise DeviceMismatchError(
                f"a {type_name(array)} lives on cuda:{index}, not on "
                f"{self.name}; use backend 'cupy:{index}', or copy it first"
            )

    def to_numpy(self, array: Any) -> Array:
        """A copy of the values, after all work that was queued before on the current stream."""
        found = self.borrow(array)
        if found is None:
            raise DeviceMismatchError(f"to_numpy: a {type_name(array)} is not on {self.name}")
        with self.gpu.current():
            values: Array = found.get()
        return values

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array."""
        with self.gpu.current(), room(self.gpu, f"an array of shape {shape} {np.dtype(dtype)}"):
            array: Array = self.cp.empty(shape, dtype)
        return array

    def buffer(self, nbytes: int) -> Array:
        """``nbytes`` zeroed bytes, aligned to 512."""
        with self.gpu.current(), room(self.gpu, f"a buffer of {nbytes} bytes"):
            array: Array = self.cp.zeros((nbytes,), np.uint8)
        return array

    def owns(self, array: Any) -> bool:
        """Whether it is a CuPy array on this very device."""
        return isinstance(array, self.cp.ndarray) and int(array.device.id) == self.gpu.index

    def extent(self, array: Any) -> tuple[int, int]:
        """First address of ``array``, and the one behind its last byte."""
        first = last = int(array.data.ptr)
        if not array.size:
            return first, first
        for length, stride in zip(array.shape, array.strides, strict=True):
            reach = (length - 1) * stride
            first, last = first + min(reach, 0), last + max(reach, 0)
        return first, last + int(array.itemsize)

    def synchronize(self) -> None:
        """Wait for the current stream."""
        with self.gpu.current():
            self.cp.cuda.get_current_stream().synchronize()

    def timer(self) -> float:
        """Seconds, after all work on the current stream."""
        self.synchronize()
        return time.perf_counter()

    def describe(self) -> dict[str, str]:
        """Name, architecture, versions, and what is known of the layers."""
        verdicts = self.gpu.layers.verdicts().items()
        layers = ", ".join(f"{name} {verdict}" for name, verdict in verdicts)
        return {**self.gpu.identity(), "layers": layers}


def gpu_of(backend: Backend) -> Gpu:
    """The GPU of a CuPy backend.

    Raises:
        BackendError: its device is no CUDA device.
    """
    if not isinstance(backend.device, CudaDevice):
        raise BackendError(f"backend {backend.name} is on {backend.device.name}, not on a GPU")
    return backend.device.gpu


def _place(array: Any) -> tuple[int | None, int | None]:
    """DLPack's device type and number of a foreign array; None where it does not say."""
    device = getattr(array, "__dlpack_device__", None)
    if device is not None:
        kind, index = device()
        return int(kind), int(index)
    return (DLPACK_CUDA, None) if hasattr(array, "__cuda_array_interface__") else (None, None)


@contextlib.contextmanager
def room(gpu: Gpu, what: str) -> Iterator[None]:
    """Turn CuPy's out-of-memory error into ours, which says what was asked for and what is free."""
    try:
        yield
    except gpu.cp.cuda.memory.OutOfMemoryError as error:
        free, total = gpu.device.mem_info
        raise DeviceMemoryError(
            f"cuda:{gpu.index}: no room for {what}: {free / 2**20:.1f} of {total / 2**20:.1f} MiB "
            "are free; free other arrays, or compute on fewer rows at once"
        ) from error
