"""The namespaces that stand for ``cupy``, ``cupy.cuda`` and ``cupy.cuda.runtime``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nnkernels.spec import Array
from nnkernels.testing import ptx
from nnkernels.testing.simulated.arrays import Capsule, ndarray
from nnkernels.testing.simulated.compiling import Nvrtc, PtxStore
from nnkernels.testing.simulated.devices import Device, Event, Graph, Stream, bound
from nnkernels.testing.simulated.errors import (
    CUDADriverError,
    CUDARuntimeError,
    OutOfMemoryError,
)
from nnkernels.testing.simulated.kernels import RawModule
from nnkernels.testing.simulated.log import Log
from nnkernels.testing.simulated.lt import CublasLt
from nnkernels.testing.simulated.machine import Machine
from nnkernels.testing.simulated.memory import Layout

VERSION = "14.2.0"
CUDA_VERSION = 13000
DEVICE_NAME = "Simulated GPU"


class Runtime:
    """As ``cupy.cuda.runtime``."""

    CUDARuntimeError = CUDARuntimeError
    memcpyHostToDevice = 1
    memcpyDeviceToHost = 2

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def driverGetVersion(self) -> int:
        """Newest CUDA that the driver knows."""
        return CUDA_VERSION

    def runtimeGetVersion(self) -> int:
        """CUDA that CuPy was built with."""
        return CUDA_VERSION

    def getDeviceCount(self) -> int:
        """How many devices there are."""
        return self._machine.devices

    def getDevice(self) -> int:
        """Number of the current device."""
        return self._machine.device

    def setDevice(self, device: int) -> None:
        """Make a device current."""
        self._machine.set_device(device)

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        """Some of a device's properties."""
        self._machine.check(device)
        return {
            "name": DEVICE_NAME.encode(),
            "major": self._machine.sm // 10,
            "minor": self._machine.sm % 10,
            "totalGlobalMem": self._machine.memory.capacity,
            "multiProcessorCount": 132,
            "warpSize": 32,
            "clockRate": 1_980_000,
            "memoryClockRate": 2_619_000,
            "memoryBusWidth": 5120,
        }

    def memGetInfo(self) -> tuple[int, int]:
        """Bytes free on the current device, and bytes in all."""
        free, total = Device.of(self._machine, self._machine.device).mem_info
        return free, total

    def deviceSynchronize(self) -> None:
        """Wait for the current device."""
        self._machine.synchronise_device(self._machine.device)

    def streamSynchronize(self, stream: int) -> None:
        """Wait for a stream."""
        self._machine.synchronise_stream(self._machine.stream(stream))

    def memcpyAsync(self, dst: int, src: int, size: int, kind: int, stream: int) -> None:
        """Queue a copy between host and device."""
        state = self._machine.stream(stream)
        if kind == self.memcpyHostToDevice:
            self._machine.copy_from_host(state, dst, src, size, None)
        elif kind == self.memcpyDeviceToHost:
            self._machine.copy_to_host(state, dst, src, size, None)
        else:
            raise CUDARuntimeError(1)


class Cuda:
    """As ``cupy.cuda``."""

    def __init__(self, machine: Machine, store: PtxStore) -> None:
        self._machine = machine
        self.Device, self.Event = bound(Device, machine), bound(Event, machine)
        self.Graph, self.Stream = bound(Graph, machine), bound(Stream, machine)
        self.Stream.null = self.Stream(null=True)
        self.runtime = Runtime(machine)
        self.driver = SimpleNamespace(CUDADriverError=CUDADriverError)
        self.memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
        self.nvrtc = Nvrtc(store, machine.planted)
        self.cublas = SimpleNamespace()

    def get_current_stream(self, device_id: int = -1) -> Stream:
        """The calling thread's current stream of a device, by default the current one."""
        device = self._machine.device if device_id == -1 else device_id
        stream: Stream = self.Stream(null=True)
        stream.ptr = self._machine.current_pointers()[device]
        return stream

    def get_elapsed_time(self, start_event: Event, end_event: Event) -> float:
        """Milliseconds between two events."""
        return start_event.until(end_event)

    def alloc_pinned_memory(self, size: int) -> Any:
        """Host memory that copies go to and from while the host goes on."""
        return self._machine.pinned.allocate(size)


class SimulatedCupy:
    """A namespace that stands for the module ``cupy``.

    Args:
        devices: how many GPUs there are.
        sm: compute capability of each, 90 for 9.0.
        memory_bytes: memory of each.
        ptx_arch: compute capability of the PTX that is run.
        order: seed of the order in which streams are done and blocks are run; by default
            everything is done as late as possible, and in order.
        noise: seed of the errors of approximate instructions; by default there are none.
        counted: whether ``statistics`` are kept, which takes time.
        folder: where the PTX of compiled kernels is kept, by default in the user's cache.

    Attributes:
        log: what the devices were asked to do.
        statistics: of the kernels that ran, by name, if they are counted.
        cublaslt: the library that computes products.
        cubins: folder of what is compiled for these devices: machine code from elsewhere is
            refused, for its PTX is not known.
        machine: the devices themselves.
        plant: ``plant(failure, after=0)`` lets one of
            :data:`~nnkernels.testing.simulated.planted.FAILURES` happen.
        heal: undoes that.
    """

    __version__ = VERSION

    def __init__(
        self,
        devices: int = 1,
        sm: int = 90,
        memory_bytes: int = 1 << 30,
        *,
        ptx_arch: int = 75,
        order: int | None = None,
        noise: int | None = None,
        counted: bool = False,
        folder: Path | None = None,
    ) -> None:
        machine = Machine(devices, sm, memory_bytes, order, noise, counted=counted)
        folder = folder or _default_folder()
        store = PtxStore(folder, ptx_arch)
        self.cubins = folder / "cubins"
        self.machine = machine
        self.log: Log = machine.log
        self.statistics: dict[str, ptx.Statistics] = machine.statistics
        self.plant, self.heal = machine.planted.plant, machine.planted.heal
        self.cublaslt = CublasLt(machine)
        self.ndarray: Any = bound(ndarray, machine)
        self.RawModule: Any = bound(RawModule, machine)
        self.RawModule.store = store
        self.cuda = Cuda(machine, store)
        self._core = SimpleNamespace(
            core=SimpleNamespace(assemble_cupy_compiler_options=lambda options: options)
        )

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        """A new array; reading what nothing wrote is a fault."""
        array: ndarray = self.ndarray(shape, dtype, order=order)
        return array

    def zeros(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        """A new array of zeros."""
        array: ndarray = self.ndarray.zeroed(shape, dtype, order)
        return array

    def asarray(self, a: Any, dtype: Any = None, order: str | None = None) -> ndarray:
        """``a`` on the current device: itself if it is there, a view of foreign device memory, or
        a copy of the host's."""
        if isinstance(a, ndarray):
            return a if dtype is None else a.astype(dtype, copy=False)
        if hasattr(a, "__cuda_array_interface__"):
            return self._over_interface(a)
        host = np.asarray(a, dtype, order=order or "C")  # type: ignore[call-overload]  # any text
        array = self.empty(host.shape, host.dtype)
        array.set(np.asarray(host, order="C"))
        return array

    def array(self, obj: Any, dtype: Any = None, copy: bool = True) -> ndarray:
        """A new array of the values of ``obj``."""
        array = self.asarray(obj, dtype)
        return array.copy() if copy and array is obj else array

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> ndarray:
        """``a`` without gaps, by rows."""
        array = self.asarray(a, dtype)
        return array if array.flags.c_contiguous else array.copy()

    def _over_interface(self, foreign: Any) -> ndarray:
        described = foreign.__cuda_array_interface__
        if described.get("stream") is not None:
            stream = described["stream"]
            self.cuda.runtime.streamSynchronize(0 if stream == 1 else stream)
        shape, kind = described["shape"], np.dtype(described["typestr"])
        layout = Layout.packed(described["data"][0], shape, kind)
        if described.get("strides") is not None:
            layout = layout._replace(strides=tuple(described["strides"]))
        array: ndarray = self.ndarray.over(layout, foreign)
        return array

    def from_dlpack(self, array: Any) -> ndarray:
        """A view of another library's array on a device."""
        capsule = array.__dlpack__(stream=self.machine.current.pointer or 1)
        if not isinstance(capsule, Capsule):
            raise TypeError("the simulated device reads its own capsules only")
        found: ndarray = self.ndarray.over(capsule.layout, capsule.owner)
        return found

    def matmul(self, x1: ndarray, x2: ndarray, /, out: ndarray | None = None) -> ndarray:
        """The product of two matrices, as cuBLAS would compute it.

        Raises:
            NotImplementedError: the stream is capturing.
        """
        for operand in (x1, x2):
            if not isinstance(operand, ndarray) or operand.ndim != 2:
                raise TypeError("the simulated device multiplies matrices only")
        if x1.shape[1] != x2.shape[0]:
            raise ValueError(f"matmul: shapes {x1.shape} and {x2.shape} do not fit")
        shape, kind = (x1.shape[0], x2.shape[1]), np.result_type(x1.dtype, x2.dtype)
        result = self.empty(shape, kind) if out is None else out
        if (result.shape, result.dtype) != (shape, kind) or not result.flags.c_contiguous:
            raise ValueError(f"matmul: out must be C-contiguous, {shape} {kind}")
        state = self.machine.current
        if state.capture is not None:
            raise NotImplementedError(
                "calling cuBLAS API during stream capture is currently unsupported"
            )
        memory, a, b, c = self.machine.memory, x1.layout, x2.layout, result.layout

        def run() -> None:
            memory.write(c, _product(memory.values(a), memory.values(b)))

        if result.size:
            self.machine.submit(state, "matmul", "matmul", run, keep=(x1, x2, result))
        return result


def _product(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        product: Array = a @ b
    return product


def _default_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("nnkernels")) / "simulated"
