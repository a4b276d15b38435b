"""A fake device that stands in for a GPU: opaque arrays, queued kernels, no implicit transfer.

Arrays know their shape and dtype, can be sliced, viewed and assigned to one another, and nothing
else: whatever would read a value without saying so (``item``, ``float``, ``numpy.asarray``,
comparing, printing) raises :class:`~nnkernels.errors.DeviceMismatchError`. Work is queued and done
by ``synchronize()``, in order; ``to_numpy`` synchronises first, as on a real device.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from nnkernels.backend import Backend, Kernel, reference_kernel
from nnkernels.errors import DeviceMismatchError
from nnkernels.program import Interpreter
from nnkernels.spec import OPERATORS, Array


def _refused(what: str) -> Any:
    """A method that refuses ``what``."""

    def method(self: OpaqueArray, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse(what)

    return method


class OpaqueArray:
    """An array of an :class:`OpaqueDevice`; its values are out of reach."""

    __array_ufunc__ = None

    def __init__(self, device: OpaqueDevice, memory: Array) -> None:
        self._device = device
        self._memory = memory
        self.shape = memory.shape
        self.strides = memory.strides
        self.dtype = memory.dtype
        self.itemsize = memory.itemsize

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self._memory.size)

    @property
    def T(self) -> OpaqueArray:
        """The transpose, a view."""
        return OpaqueArray(self._device, self._memory.T)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __repr__(self) -> str:
        return f"<opaque array {self.shape} {self.dtype}>"

    def __getitem__(self, index: Any) -> OpaqueArray:
        """A view of a part; slices only."""
        parts = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(p, slice) or p is Ellipsis for p in parts):
            self._refuse("indexing")
        return OpaqueArray(self._device, self._memory[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        """Queue a copy from an array of this device, or a fill with one number."""
        target = self[index]._memory
        if isinstance(value, OpaqueArray):
            self._device.enqueue(lambda: np.copyto(target, value._memory))
        elif isinstance(value, (bool, int, float)):
            self._device.enqueue(lambda: target.fill(value))
        else:
            self._refuse(f"assigning a {type(value).__name__}")

    def view(self, dtype: Any) -> OpaqueArray:
        """The same bytes as another dtype."""
        return OpaqueArray(self._device, self._memory.view(dtype))

    def reshape(self, shape: tuple[int, ...]) -> OpaqueArray:
        """The same memory in another shape; a copy is refused."""
        view = self._memory.view()
        view.shape = shape
        return OpaqueArray(self._device, view)

    def astype(self, dtype: Any) -> OpaqueArray:
        """A converted copy, made on the device."""
        target = np.empty(self.shape, dtype)
        self._device.enqueue(lambda: np.copyto(target, self._memory, casting="unsafe"))
        return OpaqueArray(self._device, target)

    def _refuse(self, what: str) -> NoReturn:
        raise DeviceMismatchError(
            f"{what} would copy an opaque array's values to the host without saying so; use the "
            "backend's to_numpy() or asarray()"
        )

    item, tolist, tobytes = _refused("item()"), _refused("tolist()"), _refused("tobytes()")
    min, max = _refused("min()"), _refused("max()")
    __array__ = _refused("numpy.asarray()")
    __array_function__ = _refused("a NumPy function")
    __iter__, __bool__ = _refused("iterating"), _refused("bool()")
    __int__, __index__, __float__ = _refused("int()"), _refused("an index"), _refused("float()")
    __eq__, __ne__, __hash__ = _refused("=="), _refused("!="), object.__hash__
    __lt__, __gt__, __le__, __ge__ = map(_refused, ("<", ">", "<=", ">="))


class OpaqueDevice:
    """A device of opaque arrays; kernels wait in a queue until ``synchronize()``."""

    name = "opaque"

    def __init__(self) -> None:
        self._queue: list[Callable[[], None]] = []
        self.queue = OpaqueQueue(self)

    @property
    def pending(self) -> int:
        """How many pieces of work wait in the queue."""
        return len(self._queue)

    def available(self) -> str | None:
        """Always usable."""
        return None

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """``array`` on this device: NumPy arrays and numbers are copied, its own returned."""
        if isinstance(array, OpaqueArray):
            return array if dtype is None or array.dtype == dtype else array.astype(dtype)
        return OpaqueArray(self, np.array(array, dtype, order="C"))

    def to_numpy(self, array: Any) -> Array:
        """A copy of the values, after all pending work."""
        if not self.owns(array):
            raise DeviceMismatchError(f"to_numpy: a {type(array).__name__} is not on this device")
        self.finish()
        return np.array(array._memory)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of filler (NaN, large negative numbers), so that reading it shows."""
        memory = np.empty(shape, dtype)
        memory.fill({"f": np.nan, "i": -(2**62)}.get(memory.dtype.kind, 1))
        return OpaqueArray(self, memory)

    def buffer(self, nbytes: int) -> Any:
        """Zeroed bytes."""
        return OpaqueArray(self, np.zeros(nbytes, np.uint8))

    def owns(self, array: Any) -> bool:
        """Whether it is an array of this very device."""
        return isinstance(array, OpaqueArray) and array._device is self

    def borrow(self, array: Any) -> Any:
        """None: no other library knows this device."""
        return None

    def extent(self, array: Any) -> tuple[int, int]:
        """Where the memory behind it lies."""
        first, last = np.lib.array_utils.byte_bounds(array._memory)
        return int(first), int(last)

    def enqueue(self, work: Callable[[], None]) -> None:
        """Append ``work`` to the queue."""
        self._queue.append(work)

    def synchronize(self) -> None:
        """Do all pending work, in order."""
        self.finish()

    def finish(self) -> None:
        """Do all pending work, in order, whatever ``synchronize`` has been made to do."""
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def timer(self) -> float:
        """Seconds, after all pending work."""
        self.synchronize()
        return time.perf_counter()

    def describe(self) -> dict[str, str]:
        """That it is a fake."""
        return {"device": "opaque", "kind": "a fake device for tests"}


class OpaqueQueue:
    """What waits on an :class:`OpaqueDevice`; its clock is the host's, at which the work is done.

    Attributes:
        flushes: how often its cache, which it does not have, was flushed.
    """

    def __init__(self, device: OpaqueDevice) -> None:
        self._device, self.flushes = device, 0

    def mark(self) -> list[float]:
        """The time, once the queue comes to it."""
        stamp: list[float] = []
        self._device.enqueue(lambda: stamp.append(time.perf_counter()))
        return stamp

    def between(self, first: list[float], last: list[float]) -> float:
        """Seconds between two marks, after all pending work."""
        self._device.finish()
        return last[0] - first[0]

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array like any other."""
        return np.empty(shape, dtype)

    def upload(self, source: Array, target: Any) -> None:
        """Queue a copy of what the source holds then."""
        self._device.enqueue(functools.partial(np.copyto, target._memory, source))

    def download(self, source: Any, target: Array) -> None:
        """Queue a copy."""
        self._device.enqueue(functools.partial(np.copyto, target, source._memory))

    def flush(self) -> None:
        """Count."""
        self.flushes += 1


def opaque_backend() -> Backend:
    """A backend on an :class:`OpaqueDevice` of its own, with the reference kernels, queued."""
    device = OpaqueDevice()
    kernels = {name: _queued(device, reference_kernel(op)) for name, op in OPERATORS.items()}
    return Backend("opaque", device, kernels, Interpreter, strict=True)


def _queued(device: OpaqueDevice, kernel: Kernel) -> Kernel:
    @functools.wraps(kernel.function)
    def enqueue(*inputs: Any, out: Any = (), **params: Any) -> None:
        arrays = [_memory(device, a) for a in inputs]
        outs = (
            tuple(_memory(device, o) for o in out)
            if isinstance(out, tuple)
            else _memory(device, out)
        )
        device.enqueue(functools.partial(kernel.function, *arrays, out=outs, **params))

    return Kernel(enqueue)


def _memory(device: OpaqueDevice, array: Any) -> Array | None:
    if array is None:
        return None
    if not device.owns(array):
        raise DeviceMismatchError(f"a kernel of the opaque device got a {type(array).__name__}")
    memory: Array = array._memory
    return memory
