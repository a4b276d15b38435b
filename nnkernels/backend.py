"""A backend: data plus a table of plain functions on arrays of one device.

A kernel is ``function(*inputs, out=..., **params)``: it writes its results into ``out`` (a tuple
when the operator has several outputs, with None for one that is not wanted), updates the named
arguments in place, and never allocates, checks, casts or synchronises; the dispatcher has done
that. A kernel that declares scratch receives it as ``work=(...)``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from nnkernels import spec
from nnkernels.errors import BackendError, InputError, KernelMissingError, UnknownNameError
from nnkernels.spec import OPERATORS, Array, Op, Params

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class Queue(Protocol):
    """The work that a device does while the host goes on: when it was done, what travels to it."""

    def mark(self) -> Any:
        """A point in what has been queued."""

    def between(self, first: Any, last: Any) -> float:
        """Seconds on the device's own clock from one mark to a later one, after waiting for it."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised NumPy array that copies need not collect first."""

    def upload(self, source: Array, target: Array) -> None:
        """Queue a copy of a pinned array into one of the device; both are C-contiguous."""

    def download(self, source: Array, target: Array) -> None:
        """Queue a copy of an array of the device into a pinned one; both are C-contiguous."""

    def flush(self) -> None:
        """Queue what leaves nothing of other arrays in the device's last cache."""


class Device(Protocol):
    """What nnkernels asks of the place where arrays live."""

    @property
    def queue(self) -> Queue | None:
        """How its work is timed and fed; None where a kernel is done when it returns."""

    @property
    def name(self) -> str:
        """``cpu``, ``cuda:0``, ..."""

    def available(self) -> str | None:
        """None when usable, else one sentence with the reason and the remedy."""

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """``array`` on this device (an explicit transfer where needed)."""

    def to_numpy(self, array: Any) -> Array:
        """A NumPy array with the values of ``array``, after all pending work on it."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised C-contiguous array."""

    def buffer(self, nbytes: int) -> Array:
        """``nbytes`` zeroed bytes, aligned to 64."""

    def owns(self, array: Any) -> bool:
        """Whether ``array`` lives on this device."""

    def borrow(self, array: Any) -> Array | None:
        """An array of this device over the memory of another library's ``array``, if it has any.

        None where ``array`` is not in this device's memory, or can be used as it is.
        """

    def extent(self, array: Any) -> tuple[int, int]:
        """First address of an array of this device, and the one behind its last byte."""

    def synchronize(self) -> None:
        """Wait until all pending work is done."""

    def timer(self) -> float:
        """Seconds on a monotonic clock, after all pending work."""

    def describe(self) -> dict[str, str]:
        """Facts for ``nnkernels info``."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and the scratch it asks for.

    Attributes:
        function: see the module's docstring.
        workspace: scratch arrays in the signature language, over the operator's labels.
        owner: name of the backend or swap that brought it.
        blas: whether it may call a BLAS library; only then a call holds the library's threads,
            which takes longer than many a kernel.
    """

    function: Callable[..., None]
    workspace: str = ""
    owner: str = ""
    blas: bool = True

    @property
    def origin(self) -> str:
        """``module:function`` of the implementation."""
        return function_name(inspect.unwrap(self.function))


def frozen(
    function: Callable[..., None], arrays: Sequence[Any], keywords: Mapping[str, Any]
) -> Callable[[], None]:
    """A kernel's function on arrays that never change: the cheapest call.

    A function may have a method ``prepare`` that takes the same arguments and returns a function
    without any, which repeats the call.
    """
    prepare = getattr(function, "prepare", None)
    if prepare is not None:
        repeat: Callable[[], None] = prepare(*arrays, **keywords)
        return repeat
    return functools.partial(function, *arrays, **keywords)


def packed(array: Any) -> bool:
    """Whether an array of any device is C-contiguous, and aligned to its elements."""
    flags = array.flags
    if not flags.c_contiguous:
        return False
    if hasattr(flags, "aligned"):
        return bool(flags.aligned)
    return bool(array.data.ptr % array.itemsize == 0)


def function_name(function: Any) -> str:
    """``module:qualified.name``, the form that a swap is written in."""
    module = getattr(function, "__module__", "?")
    return f"{module}:{getattr(function, '__qualname__', type(function).__name__)}"


class KernelTable(dict[str, Kernel]):
    """Kernels by operator name, filled with ``@table.kernel``.

    Args:
        kernels: to begin with.
        blas: of kernels that do not say otherwise; see :class:`Kernel`.
    """

    def __init__(self, kernels: Mapping[str, Kernel] | None = None, *, blas: bool = True) -> None:
        super().__init__(kernels or {})
        self._blas = blas

    def kernel(
        self,
        function: Callable[..., None] | None = None,
        *,
        workspace: str = "",
        blas: bool | None = None,
    ) -> Callable[..., Any]:
        """Register a function under its own name, which must be a declared operator's."""

        def add(function: Callable[..., None]) -> Callable[..., None]:
            name = getattr(function, "__name__", "")
            spec.get_op(name)
            if name in self:
                raise BackendError(f"two kernels for operator {name!r}: {self[name].origin}")
            self[name] = Kernel(function, workspace, blas=self._blas if blas is None else blas)
            return function

        return add if function is None else add(function)


@dataclass(frozen=True, slots=True)
class Resolution:
    """Which kernel serves an operator on a backend, and why.

    ``kernel`` is None where the operator is composed of others (``parts``).
    """

    op: str
    backend: str
    kernel: Kernel | None
    why: Literal["own", "swapped", "composed", "fallback"]
    parts: tuple[str, ...] = ()


class Notes(NamedTuple):
    """What a backend adds when :mod:`nnkernels.explain` says what runs.

    Attributes:
        lines: sentences about all of it.
        table: rows of texts; the first has the headings.
        each: for each instruction of a Program, in its order; ``""`` where there is nothing to say.
    """

    lines: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    each: tuple[str, ...] = ()


@functools.cache
def reference_kernel(op: Op[Any, Any]) -> Kernel:
    """The operator's reference, writing into ``out`` and the updated arguments."""
    positions = [op.inputs.index(name) for name in op.updates]

    @functools.wraps(op.reference)
    def kernel(*inputs: Array, out: Any = (), **params: Any) -> None:
        outs = out if isinstance(out, tuple) else (out,)
        targets = (*outs, *(inputs[i] for i in positions))
        with np.errstate(all="ignore"):
            results = op.evaluate(*inputs, **params)
        for target, result in zip(targets, results, strict=True):
            if target is not None:
                target[...] = result

    return Kernel(kernel, owner="reference")


@dataclass(frozen=True, eq=False)
class Backend:
    """An immutable choice of kernels on one device.

    Attributes:
        name: what results and messages call it; swaps and settings are recorded in it.
        device: where its arrays live.
        kernels: its kernels by operator name.
        executor: builds an Executable from (backend, Program, State).
        fallback: backend of the same device whose kernels serve what this one lacks.
        strict: refuse the fallback.
        flushes_subnormals: whether kernels read subnormal float32 numbers as 0, as GPUs do here.
        strided: whether kernels take arrays of any stride; else they get C-contiguous ones.
        priority: ``auto`` takes the available host backend with the highest.
        threads: CPU threads of its kernels; None: the libraries' own number for single calls, the
            executor's choice for Programs.
        limit: context manager that holds what the kernels run on to so many threads; None where
            there is nothing to set.
        precision: arithmetic of float32 products; anything but true ``fp32`` is asked for by name.
        precisions: the precisions it can compute in.
        lacking: by precision that it has on other machines, what this one lacks for it.
        kernels_in: its own kernels that compute in a precision, by operator name, where they are
            not those of every precision; :meth:`configure` puts them in the place of the others,
            but for those that are swapped.
        select: the same backend on another device (``cupy:1``); None where there is only one.
        adopt: turns a user's function into a kernel of this backend's kind, or gives None where it
            is none: then it is called as Python code.
        staging: gives named arrays to be fed a place, on the device or, where that has no room for
            them, in host memory, from which its Executables then fetch the rows of every step. None
            where all arrays must be on the device.
        notes: what it adds to an explanation, from (backend, target): an operator, or a Program
            that is specialised to it. None where there is nothing to add.
    """

    name: str
    device: Device
    kernels: Mapping[str, Kernel]
    executor: Callable[[Backend, Any, Any], Any]
    fallback: Backend | None = None
    strict: bool = False
    strided: bool = True
    flushes_subnormals: bool = False
    priority: int = 0
    threads: int | None = None
    precision: Precision = "fp32"
    precisions: tuple[str, ...] = ("fp32",)
    lacking: Mapping[str, str] = field(default_factory=dict)
    kernels_in: Callable[[str], Mapping[str, Kernel]] | None = None
    select: Callable[[str], Backend] | None = None
    limit: Callable[[int], AbstractContextManager[None]] | None = None
    adopt: Callable[[Op[Any, Any], Any], Kernel | None] | None = None
    staging: Callable[[Mapping[str, Any]], dict[str, Array]] | None = None
    notes: Callable[[Backend, Any], Notes] | None = None
    swaps: Mapping[str, str] = field(default_factory=dict)
    base: str = ""

    def __post_init__(self) -> None:
        if not self.base:
            object.__setattr__(self, "base", self.name)
        owned = {n: k if k.owner else replace(k, owner=self.name) for n, k in self.kernels.items()}
        object.__setattr__(self, "kernels", MappingProxyType(owned))
        object.__setattr__(self, "swaps", MappingProxyType(dict(self.swaps)))

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """``backend.relu(x)`` runs an operator on this backend."""
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return functools.partial(spec.get_op(name).on, self)
        except UnknownNameError as error:
            raise AttributeError(f"backend {self.name}: {error}") from None

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *OPERATORS})

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """``array`` on this backend's device."""
        return self.device.asarray(array, dtype)

    def to_numpy(self, array: Any) -> Array:
        """``array`` as a NumPy array."""
        return self.device.to_numpy(array)

    def stage(self, **arrays: Any) -> dict[str, Array]:
        """Data that is read in rows, ready to be fed: on the device, or all of it left as given.

        Arrays are left where the device has no room for them and the backend's Executables can
        fetch rows from host memory; a warning tells.

        Raises:
            DeviceMemoryError: there is no room, and the Executables need them on the device.
        """
        if self.staging is not None:
            return self.staging(arrays)
        return {name: self.asarray(array) for name, array in arrays.items()}

    def configure(
        self,
        *,
        threads: int | None = None,
        precision: str | None = None,
        strict: bool | None = None,
    ) -> Backend:
        """A new backend with other settings, recorded in its name (``strict`` is not)."""
        if threads is not None and (type(threads) is not int or threads < 1):
            raise InputError(f"backend {self.base}: threads must be 1 or more, got {threads!r}")
        if threads is not None and self.limit is None:
            raise InputError(f"backend {self.base} has no threads to set")
        if precision is not None and precision not in self.precisions:
            why = self.lacking.get(str(precision))
            raise InputError(
                f"backend {self.base} computes in {', '.join(self.precisions)}, not {precision!r}"
                + (f": {why}" if why else "")
            )
        changes: dict[str, Any] = {
            "threads": self.threads if threads is None else threads,
            "precision": self.precision if precision is None else precision,
            "strict": self.strict if strict is None else strict,
        }
        if changes["precision"] != self.precision:
            changes["kernels"] = self._kernels_in(changes["precision"])
        explicit = [
            f"{key}={changes[key]}"
            for key, default in (("threads", None), ("precision", "fp32"))
            if changes[key] != default or (key == "precision" and precision is not None)
        ]
        settings = f"({','.join(explicit)})" if explicit else ""
        return replace(self, name=self.base + settings + _swap_suffix(self.swaps), **changes)

    def _kernels_in(self, precision: str) -> Mapping[str, Kernel]:
        if self.kernels_in is None:
            return self.kernels
        own = {n: k for n, k in self.kernels_in(precision).items() if n not in self.swaps}
        return {**self.kernels, **{n: replace(k, owner=self.base) for n, k in own.items()}}

    def replace(self, **swaps: Any) -> Backend:
        """A new backend with other kernels for some operators.

        A value is a function with the operator's arguments (writing to ``out``, or returning its
        result when it has no such parameter), a :class:`Kernel`, or the name of another backend of
        the same device whose kernel is taken. The name records the swaps.
        """
        kernels, labels = dict(self.kernels), dict(self.swaps)
        for name, value in swaps.items():
            kernel, labels[name] = self._swap(spec.get_op(name), value)
            kernels[name] = replace(kernel, owner=f"{name}={labels[name]}")
        head = self.name.partition("[")[0]
        return replace(self, name=head + _swap_suffix(labels), kernels=kernels, swaps=labels)

    def _swap(self, op: Op[Any, Any], value: Any) -> tuple[Kernel, str]:
        if isinstance(value, str):
            return self._swap_by_name(op, value)
        if isinstance(value, Kernel):
            return value, function_name(value.function)
        adopted = self.adopt(op, value) if self.adopt is not None else None
        if adopted is not None:
            return adopted, function_name(inspect.unwrap(adopted.function))
        if not callable(value):
            raise InputError(f"{self.name}: kernel for {op.name} must be a function, got {value!r}")
        return adapt(op, value), function_name(value)

    def _swap_by_name(self, op: Op[Any, Any], name: str) -> tuple[Kernel, str]:
        other: Backend = spec.slot.runtime.get_backend(name)
        if other.device.name != self.device.name:
            raise InputError(
                f"{self.name}: {op.name} cannot come from {name!r}, whose device is "
                f"{other.device.name}, not {self.device.name}"
            )
        kernel = other.resolve(op.name, op.params).kernel
        if kernel is None:
            raise KernelMissingError(f"backend {name!r} has no kernel of its own for {op.name}")
        return kernel, name

    def resolve(self, name: str, params: Params) -> Resolution:
        """The kernel that serves operator ``name`` under ``params``.

        A fused kernel is taken only if every operator it covers is served by the same owner;
        else the operator is composed of the others, so that a swap is never bypassed.
        """
        op = spec.get_op(name)
        kernel = self._kernel(op)
        if kernel is not None and (name in self.swaps or self._owns_covered(op, kernel, params)):
            return Resolution(name, self.name, kernel, "swapped" if name in self.swaps else "own")
        if op.composition is not None:
            return Resolution(name, self.name, None, "composed", op.covered(params))
        if self.fallback is not None and not self.strict:
            return replace(self.fallback.resolve(name, params), why="fallback")
        raise KernelMissingError(
            f"backend {self.name} has no kernel for {name!r}"
            + (f"; strict forbids falling back to {self.fallback.name}" if self.fallback else "")
        )

    def _kernel(self, op: Op[Any, Any]) -> Kernel | None:
        own = self.kernels.get(op.name)
        if own is None and self.base == "reference":
            return reference_kernel(op)
        return own

    def _owns_covered(self, op: Op[Any, Any], kernel: Kernel, params: Params) -> bool:
        return all(
            (part := self.resolve(name, spec.get_op(name).params).kernel) is not None
            and part.owner == kernel.owner
            for name in op.covered(params)
        )

    def coverage(self) -> dict[str, str]:
        """For every operator what serves it: ``own``, ``swapped``, ``composed``, ``fallback``, ...

        An operator served by the NumPy reference is reported as such, never as a kernel of its own.
        """
        return {name: self._coverage(op) for name, op in OPERATORS.items()}

    def _coverage(self, op: Op[Any, Any]) -> str:
        try:
            found = self.resolve(op.name, op.params)
            kernel = found.kernel
            is_reference = kernel is not None and kernel.function is reference_kernel(op).function
            return "reference" if is_reference else found.why
        except KernelMissingError:
            return "missing"

    def bind(self, program: Any, state: Any) -> Any:
        """An Executable of ``program`` on ``state``; see :mod:`nnkernels.program`."""
        return self.executor(self, program, state)


def _swap_suffix(labels: Mapping[str, str]) -> str:
    return f"[{','.join(f'{k}={v}' for k, v in sorted(labels.items()))}]" if labels else ""


def adapt(op: Op[Any, Any], function: Callable[..., Any]) -> Kernel:
    """A user's function as a kernel; one without ``out`` may return its result instead.

    An operator without outputs updates its arguments in place: so must the function.
    """
    try:
        takes_out = "out" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        takes_out = True
    if takes_out or not op.signatures(op.params)[0].outputs:
        return Kernel(function)

    @functools.wraps(function)
    def kernel(*inputs: Array, out: Any, **params: Any) -> None:
        results = function(*inputs, **params)
        pairs = [(out, results)] if not isinstance(out, tuple) else zip(out, results, strict=True)
        for target, result in pairs:
            if target is None:
                continue
            if np.shape(result) != target.shape or np.asarray(result).dtype != target.dtype:
                raise BackendError(
                    f"{op.name}: {function_name(function)} returned shape {np.shape(result)} "
                    f"{np.asarray(result).dtype}, expected {target.shape} {target.dtype}"
                )
            target[...] = result

    return Kernel(kernel)
