"""Device arrays that look like ``cupy.ndarray``: the part of it that a backend needs.

What would read values without saying so raises as in CuPy or counts as a read, and what CuPy
computes by kernels of its own is not there, but for copying, filling, converting, ``min`` and
``max``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np

from nnkernels.spec import Array
from nnkernels.testing.simulated.devices import Device
from nnkernels.testing.simulated.machine import Machine, StreamState
from nnkernels.testing.simulated.memory import Layout

DLPACK_CUDA = 2
"""Device type of CUDA memory in the DLPack standard."""


@dataclass(frozen=True)
class Flags:
    """As CuPy's, which know nothing of alignment."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class Capsule(NamedTuple):
    """What stands for DLPack's capsule."""

    layout: Layout
    owner: Any


class MemoryPointer:
    """The address of an array's first element.

    Args:
        machine: the simulated devices.
        ptr: the address; 0 for arrays without elements.
        owner: keeps the memory alive.
    """

    def __init__(self, machine: Machine, ptr: int, owner: Any) -> None:
        self.ptr = ptr
        self._machine, self._owner = machine, owner

    def __int__(self) -> int:
        return self.ptr

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        """Queue a copy of ``size`` bytes from the host's address ``mem``."""
        state = state_of(self._machine, stream)
        self._machine.copy_from_host(state, self.ptr, _address(mem), size, self._owner)

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        """Queue a copy of ``size`` bytes to the host's address ``mem``."""
        state = state_of(self._machine, stream)
        self._machine.copy_to_host(state, _address(mem), self.ptr, size, self._owner)


def _address(memory: Any) -> int:
    """An address, given as such or as a ``ctypes.c_void_p``."""
    return int(getattr(memory, "value", memory))


def state_of(machine: Machine, stream: Any) -> StreamState:
    """The stream given, or the current one."""
    return machine.current if stream is None else machine.stream(int(stream.ptr))


def _uncomputed(what: str) -> Any:
    """A method for what CuPy does by a kernel of its own, which nobody should use unseen."""

    def method(self: ndarray, *arguments: Any, **keywords: Any) -> NoReturn:
        raise TypeError(f"the simulated device does not compute {what}; launch a kernel")

    return method


class ndarray:
    """A device array; see :mod:`nnkernels.testing.simulated.arrays`.

    Attributes:
        machine: the simulated devices, set by the namespace's own subclass.
        layout: where it lies.
        base: None, or the array that this one is a view of.
    """

    machine: Machine
    layout: Layout
    base: Any
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # compared by content, as in CuPy

    def __init__(self, shape: Any, dtype: Any = float, *, order: str = "C") -> None:
        self._make(shape, dtype, order, zeroed=False)

    def _make(self, shape: Any, dtype: Any, order: str, *, zeroed: bool) -> None:
        lengths = tuple(int(n) for n in (shape if np.iterable(shape) else (shape,)))
        if any(n < 0 for n in lengths):
            raise ValueError("Negative dimensions are not allowed")
        layout = Layout.packed(0, lengths, dtype, order)
        owner = None
        if layout.size:
            owner = self.machine.allocate(layout.nbytes, zeroed=zeroed)
            layout = layout._replace(address=owner.address)
        self._place(layout, owner, None)

    def _place(self, layout: Layout, owner: Any, base: Any) -> None:
        self.layout, self._owner, self.base = layout, owner, base
        self.shape, self.dtype, self.strides = layout.shape, layout.dtype, layout.strides
        known = layout.size > 0
        memory = self.machine.memory
        self._device = memory.device_of(layout.address) if known else self.machine.device

    @classmethod
    def over(cls, layout: Layout, owner: Any, base: Any = None) -> Self:
        """An array over memory that ``owner`` keeps alive."""
        array = cls.__new__(cls)
        array._place(layout, owner, base)
        return array

    @classmethod
    def zeroed(cls, shape: Any, dtype: Any, order: str) -> Self:
        """A new array of zeros."""
        array = cls.__new__(cls)
        array._make(shape, dtype, order, zeroed=True)
        return array

    # --- what is known of it -------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.layout.size

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.layout.nbytes

    @property
    def data(self) -> MemoryPointer:
        """Where it begins."""
        return MemoryPointer(self.machine, self.layout.address if self.size else 0, self._owner)

    @property
    def device(self) -> Device:
        """The device of its memory."""
        return Device.of(self.machine, self._device)

    @property
    def flags(self) -> Flags:
        """Whether it has no gaps, by rows and by columns."""
        flags = self._view().flags
        return Flags(flags.c_contiguous, flags.f_contiguous, self.base is None)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "stream": self.machine.current.pointer or 1,
            "version": 3,
            "strides": None if self.flags.c_contiguous else self.strides,
            "data": (self.data.ptr, False),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, self._device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Capsule:
        return Capsule(self.layout, self._owner)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<simulated device array {self.shape} {self.dtype}>"

    # --- views ---------------------------------------------------------------------------------

    def _view(self) -> Array:
        """NumPy's view of the memory, for what it knows of shapes and strides."""
        return self.machine.memory.view(self.layout)

    def _changed(self, change: Callable[[Array], Array]) -> Self:
        """The view that NumPy makes by ``change``."""
        before = self._view()
        after = change(before)
        address = self.layout.address
        if after.size:
            address += after.ctypes.data - before.ctypes.data
        layout = Layout(address, after.shape, after.dtype, after.strides)
        return type(self).over(layout, self._owner, self if self.base is None else self.base)

    def __getitem__(self, slices: Any) -> Self:
        parts = slices if isinstance(slices, tuple) else (slices,)
        for part in parts:
            if not (part is None or part is Ellipsis or isinstance(part, slice | int)):
                raise TypeError(f"the simulated device has no index {type(part).__name__}")
        if Ellipsis not in parts:
            parts = (*parts, Ellipsis)
        return self._changed(lambda array: array[parts])

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    @property
    def T(self) -> Self:
        """The transpose."""
        return self._changed(np.transpose)

    def view(self, dtype: Any = None) -> Self:
        """The same bytes, as another dtype."""
        kind = self.dtype if dtype is None else np.dtype(dtype)
        return self._changed(lambda array: array.view(kind))

    def reshape(self, *shape: Any, order: Any = "C") -> Self:
        """The same elements in another shape: a view where that can be, else a copy."""
        lengths = shape[0] if len(shape) == 1 else shape
        before = self._view()
        if self.size and not np.may_share_memory(before.reshape(lengths, order=order), before):
            return self.copy(order).reshape(lengths, order=order)
        return self._changed(lambda array: array.reshape(lengths, order=order))

    def ravel(self, order: str = "C") -> Self:
        """All elements in a row."""
        return self.reshape(-1, order=order)

    # --- work of CuPy's own kernels ------------------------------------------------------------

    def _compute(self, name: str, result: ndarray, compute: Callable[[Array], Any]) -> None:
        """Queue one of CuPy's kernels: ``result`` becomes what ``compute`` makes of the values."""
        machine, source, target = self.machine, self.layout, result.layout

        def run() -> None:
            machine.memory.write(target, compute(machine.memory.values(source)))

        if source.size or target.size:
            machine.submit(machine.current, "library", name, run, keep=(self, result))

    def astype(self, dtype: Any, order: str = "K", *, copy: bool | None = True) -> Self:
        """The values as another dtype; itself if nothing changes and no copy is asked for."""
        kind = np.dtype(dtype)
        if kind == self.dtype and not copy:
            return self
        result = type(self)(self.shape, kind, order=self._order(order))
        self._compute("astype", result, lambda values: values.astype(kind))
        return result

    def copy(self, order: str = "C") -> Self:
        """A copy."""
        result = type(self)(self.shape, self.dtype, order=self._order(order))
        self._compute("copy", result, np.copy)
        return result

    def _order(self, order: str) -> str:
        flags = self.flags
        by_columns = flags.f_contiguous and not flags.c_contiguous
        return "F" if order == "F" or (order in ("A", "K") and by_columns) else "C"

    def fill(self, value: Any) -> None:
        """Make every element ``value``."""
        machine, target = self.machine, self.layout
        number = np.asarray(value).astype(self.dtype)[()]

        def run() -> None:
            machine.memory.write(target, number)

        if self.size:
            machine.submit(machine.current, "library", "fill", run, keep=self)

    def min(self) -> Self:
        """The least element, an array without dimensions."""
        return self._reduced("min", np.min)

    def max(self) -> Self:
        """The greatest element, an array without dimensions."""
        return self._reduced("max", np.max)

    def _reduced(self, name: str, compute: Callable[[Array], Any]) -> Self:
        if not self.size:
            raise ValueError(f"zero-size array to reduction operation cupy_{name}")
        result = type(self)((), self.dtype)
        self._compute(name, result, compute)
        return result

    def __setitem__(self, slices: Any, value: Any) -> None:
        """Queue a copy from a device array, or a fill with a number."""
        target = self[slices]
        if isinstance(value, ndarray):
            target._take(value)
        elif isinstance(value, bool | int | float | np.generic):
            target.fill(value)
        else:
            raise TypeError(f"Unsupported type {type(value)}")

    def _take(self, source: ndarray) -> None:
        if np.broadcast_shapes(source.shape, self.shape) != self.shape:
            raise ValueError(f"cannot broadcast {source.shape} to {self.shape}")
        source._compute("copy", self, lambda values: np.array(values))

    # --- the host's side -----------------------------------------------------------------------

    def get(
        self,
        stream: Any = None,
        order: str = "C",
        out: Array | None = None,
        blocking: bool = True,
    ) -> Array:
        """The values on the host, after the work that the stream has before."""
        machine = self.machine
        state = state_of(machine, stream)
        result = np.empty(self.shape, self.dtype, "F" if self._order(order) == "F" else "C")
        if out is not None:
            result = self._checked_out(out)
        if not self.size:
            return result
        by_columns = not result.flags.c_contiguous
        dense = self.flags.f_contiguous if by_columns else self.flags.c_contiguous
        source = self if dense else self.copy("F" if by_columns else "C")
        host = result.ctypes.data
        machine.copy_to_host(state, host, source.data.ptr, self.nbytes, (source, result))
        if blocking:
            machine.synchronise_stream(state)
        return result

    def _checked_out(self, out: Array) -> Array:
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype:
            raise TypeError(f"{type(out).__name__} cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(
                f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}"
            )
        if not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        return out

    def set(self, arr: Array, stream: Any = None) -> None:
        """Queue a copy of the host's array: of what pinned memory then holds, else holds now."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        flags = self.flags
        if not (flags.c_contiguous or flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        host = np.ascontiguousarray(arr) if flags.c_contiguous else np.asfortranarray(arr)
        if self.size:
            state = state_of(self.machine, stream)
            self.machine.copy_from_host(
                state, self.data.ptr, host.ctypes.data, self.nbytes, (self, host)
            )

    def item(self) -> Any:
        """The only element; waits for the device."""
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        """All elements; waits for the device."""
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        return int(self.item().__index__())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to "
            "construct a NumPy array explicitly."
        )

    __eq__, __ne__ = _uncomputed("=="), _uncomputed("!=")
    __lt__, __le__, __gt__, __ge__ = map(_uncomputed, ("<", "<=", ">", ">="))
    __add__, __radd__, __sub__, __rsub__ = map(_uncomputed, ("+", "+", "-", "-"))
    __mul__, __rmul__, __truediv__, __rtruediv__ = map(_uncomputed, ("*", "*", "/", "/"))
    __iadd__, __isub__, __imul__, __itruediv__ = map(_uncomputed, ("+=", "-=", "*=", "/="))
    __matmul__, __pow__, __neg__, __abs__ = map(_uncomputed, ("@", "**", "-", "abs()"))
