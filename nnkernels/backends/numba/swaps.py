"""Kernels that users bring: compiled functions and pointers become part of the compiled epoch.

* A function compiled by ``numba.njit`` gets the operator's arrays and parameters by name, as a
  kernel written in Python would: ``def my_relu(x, out)``. One that has no ``out`` returns its
  result. A single number (a learning rate) is an array of one element: ``lr[0]``, ``out[0] = ...``.
  An elementwise operator's function is called on parts of the rows; any other one once, on
  the whole arrays, by one thread.
* A ``numba.cfunc`` or a ctypes function is called as it is, as ``(int64 record, int64 first,
  int64 last)``: on a record that holds the addresses of inputs and outputs, the parameters (floats
  by their bits) and the number of elements; ``[first, last)`` are the elements of an elementwise
  operator it is to compute, or (0, 1) for any other.

Anything else is Python code, for which a Program runs in the interpreter.
"""

from __future__ import annotations

import ctypes
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.backend import Kernel, function_name
from nnkernels.backends._compiled import record
from nnkernels.backends._compiled.declare import Access, Call, CompiledKernel, Part, Step
from nnkernels.backends._compiled.record import Field, Layout
from nnkernels.backends.numba.compiling.linking import live_entry, pointer_entry
from nnkernels.errors import InputError
from nnkernels.spec import Op

CFUNCTION: Any = ctypes.CFUNCTYPE(None).__mro__[1]
"""The class of all ctypes functions, which has no public name."""


def adopt(op: Op[Any, Any], value: Any) -> Kernel | None:
    """A user's compiled function as a kernel for ``op``; None for anything that is not compiled."""
    from numba.core.ccallback import CFunc
    from numba.core.dispatcher import Dispatcher

    if isinstance(value, Dispatcher):
        if value.targetoptions.get("parallel"):
            raise InputError(
                f"numba: kernel {function_name(value.py_func)} for {op.name} is compiled with "
                "parallel=True, whose threads cannot run beside the epoch's; compile it without"
            )
        part: Part = _Function(value, _returns(op, value))
    elif isinstance(value, (CFunc, CFUNCTION)):
        part = _Pointer(value)
    else:
        return None
    kernel = CompiledKernel(op, recipe=lambda call: [part], written_in=_python(value))
    return Kernel(kernel)


def _python(value: Any) -> Any:
    """The Python function to name and to point at."""
    return getattr(value, "py_func", None) or getattr(value, "_pyfunc", value)


def _returns(op: Op[Any, Any], dispatcher: Any) -> bool:
    """Whether a function returns its result instead of writing it; refuses unknown parameters."""
    signature = op.signatures(op.params)[0]
    outputs = record.output_names(op, signature)
    names = list(inspect.signature(dispatcher.py_func).parameters)
    known = [*op.inputs, *outputs, *op.params]
    if strangers := [name for name in names if name not in known]:
        raise InputError(
            f"numba: kernel {function_name(dispatcher.py_func)} for {op.name} has parameters "
            f"{strangers}; it can ask for {known}"
        )
    writes = not outputs or any(name in names for name in outputs)
    if not writes and len(outputs) > 1:
        raise InputError(
            f"numba: kernel {function_name(dispatcher.py_func)} for {op.name} must write its "
            f"results to parameters called {list(outputs)}"
        )
    return not writes


def _fields(call: Call, *, sliced: bool) -> dict[str, Field]:
    """All arrays of a call with their own dimensions, then its parameters."""
    names = [*call.op.inputs, *record.output_names(call.op, call.signature)]
    arguments = [*call.signature.inputs, *call.signature.outputs]
    fields: dict[str, Field] = {}
    for name, argument in zip(names, arguments, strict=True):
        rank = len(sig.shape_of(argument, call.dims))
        dtype = argument.dtype(np.dtype(call.floating)).name
        dims = tuple(f"{name}.{axis}" for axis in range(rank))
        fields[name] = Field(name, "array", len(fields), dtype, dims, sliced and rank > 0)
    given = record.operands(call.op, call.signature, "", call.params).params
    for name, value in given.items():
        kind = "float" if isinstance(value, float) else "int"
        fields[name] = Field(name, kind, len(fields))  # type: ignore[arg-type]  # one of the two
    return fields


def _sizes(call: Call) -> dict[str, int]:
    names = [*call.op.inputs, *record.output_names(call.op, call.signature)]
    arguments = [*call.signature.inputs, *call.signature.outputs]
    return {
        f"{name}.{axis}": size
        for name, argument in zip(names, arguments, strict=True)
        for axis, size in enumerate(sig.shape_of(argument, call.dims))
    }


@dataclass(frozen=True)
class _Function(Part):
    """A function compiled by ``numba.njit`` as the whole of an operator."""

    dispatcher: Any
    returns: bool

    def steps(self, call: Call) -> list[Step]:
        """One step: on parts of the rows of an elementwise operator, else on everything."""
        sizes = _sizes(call)
        rows = sizes.get(f"{call.op.inputs[0]}.0") if call.signature.elementwise else None
        fields = _fields(call, sliced=rows is not None)
        names = list(inspect.signature(self.dispatcher.py_func).parameters)
        if self.returns:
            names = ["out", *names]
        chosen = tuple(fields[name] for name in names)
        cells = {label: len(fields) + i for i, label in enumerate(sizes)}
        over = "rows" if rows is not None else None
        layout = Layout(chosen, cells, len(fields) + len(sizes), over, call.floating)
        given = record.operands(call.op, call.signature, "", call.params).params

        def fill(addresses: Mapping[str, int]) -> list[int]:
            return record.fill(layout, addresses, given, sizes)

        accesses = tuple(Access(f.name, call.writes(f.name), f.sliced) for f in layout.arrays)
        entry = live_entry(self.dispatcher, layout, returns=self.returns)
        return [Step(entry, 1 if rows is None else rows, accesses, fill)]


def _address(function: Any) -> int:
    if isinstance(function, CFUNCTION):
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    address: int = function.address
    return address


@dataclass(frozen=True)
class _Pointer(Part):
    """A C function as the whole of an operator."""

    function: Any

    def steps(self, call: Call) -> list[Step]:
        """One step, of which the elements of an elementwise operator are divided."""
        elementwise = call.signature.elementwise
        fields = _fields(call, sliced=elementwise)
        given = record.operands(call.op, call.signature, "", call.params).params
        elements = math.prod(sig.shape_of(call.signature.inputs[0], call.dims))
        layout = Layout(tuple(fields.values()), {}, len(fields), None, call.floating)

        def fill(addresses: Mapping[str, int]) -> list[int]:
            return [*record.fill(layout, addresses, given, {}), elements]

        accesses = tuple(Access(f.name, call.writes(f.name), f.sliced) for f in layout.arrays)
        entry = pointer_entry(_address(self.function), self.function)
        return [Step(entry, elements if elementwise else 1, accesses, fill)]
