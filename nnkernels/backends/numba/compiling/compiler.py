"""From a Python function to relocatable object code, by Numba.

Numba types and lowers the function for the arrays of its :class:`Layout`; around it goes an entry
that takes a record (:mod:`nnkernels.backends._compiled.record`). The outcome is plain object
code: it can be kept in a file and linked again without Numba, and without unpickling anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu_options import FastMathOptions
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target
from numba.np import numpy_support
from numba.np.arrayobj import populate_array

from nnkernels.backend import function_name
from nnkernels.backends._compiled.record import CELL, Field, Layout
from nnkernels.errors import BackendError

FASTMATH = {"nsz", "contract", "afn", "reassoc"}
"""Freedoms that leave NaN and infinities as they are.

Not ``arcp``: with it ``1 / sqrt(x)`` becomes an estimate and a Newton step, which is NaN where x is
infinite, and another estimate in 512-bit registers than in the loop over the last elements.
"""

INT64 = ir.IntType(64)


@global_compiler_lock
def compile_entry(symbol: str, function: Callable[..., Any], layout: Layout) -> bytes:
    """Object code that exports ``symbol``, an entry around ``function``."""
    compiled = _compile(function, [_type_of(field) for field in layout.fields])
    return _object_code(_around(symbol, compiled, 3, lambda entry: entry.arguments(layout)))


@global_compiler_lock
def compile_plain(symbol: str, function: Callable[..., Any], count: int) -> bytes:
    """Object code that exports ``symbol``, a function of ``count`` int64."""
    compiled = _compile(function, [types.int64] * count)
    library = _around(symbol, compiled, count, lambda entry: list(entry.given), gives_result=True)
    return _object_code(library)


@global_compiler_lock
def compile_live(
    symbol: str, dispatcher: Any, layout: Layout, *, returns: bool
) -> tuple[int, object]:
    """Address of an entry around a user's compiled function, and what keeps it alive.

    ``returns`` says that the function returns what is to be stored in the first field. The entry
    gives the code of an exception that the function raises, and 0 if it raises none.
    """
    chosen = _storing(dispatcher, len(layout.fields) - 1) if returns else dispatcher
    arguments = tuple(_type_of(field) for field in layout.fields)
    try:
        chosen.compile(arguments)
    except NumbaError as error:
        raise BackendError(
            f"numba: {function_name(dispatcher.py_func)} cannot be compiled for "
            f"{', '.join(str(a) for a in arguments)} (a single number is an array of one element): "
            f"{error}"
        ) from error
    compiled = chosen.overloads[arguments]
    library = _around(symbol, compiled, 3, lambda entry: entry.arguments(layout))
    return int(library.get_pointer_to_function(symbol)), (library, chosen)


def _storing(function: Any, count: int) -> Any:
    """A compiled function that stores what ``function`` returns for ``count`` arguments."""

    def one(out: Any, a: Any) -> None:
        out[...] = function(a)

    def two(out: Any, a: Any, b: Any) -> None:
        out[...] = function(a, b)

    def three(out: Any, a: Any, b: Any, c: Any) -> None:
        out[...] = function(a, b, c)

    def four(out: Any, a: Any, b: Any, c: Any, d: Any) -> None:
        out[...] = function(a, b, c, d)

    return njit((one, two, three, four)[count - 1])


def _flags() -> Any:
    flags = Flags()
    flags.error_model = "numpy"
    flags.fastmath = FastMathOptions(FASTMATH)
    # Operators may write over an input, but then element by element: no store is ever read back
    # by another element, which is all that vectorising needs to know.
    flags.noalias = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    return flags


def _compile(function: Callable[..., Any], argument_types: Sequence[Any]) -> Any:
    """The function for these types."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
    return compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        function,
        tuple(argument_types),
        None,
        _flags(),
        {},
    )


def _around(
    symbol: str,
    compiled: Any,
    count: int,
    values: Callable[[_Entry], list[Any]],
    *,
    gives_result: bool = False,
) -> Any:
    """A library with a C function of ``count`` int64 around a compiled function.

    It gives what the function returns, an int64, or else the code of its exception.
    """
    library = compiled.target_context.codegen().create_library(symbol)
    library.enable_object_caching()
    library.add_linking_library(compiled.library)
    module = library.create_ir_module(symbol)
    entry = _Entry(module, symbol, count, compiled.target_context)
    callee = entry.context.declare_function(module, compiled.fndesc)
    returned = compiled.signature.return_type
    status, result = entry.context.call_conv.call_function(
        entry.builder, callee, returned, compiled.signature.args, values(entry)
    )
    code = entry.builder.select(status.is_error, entry.builder.sext(status.code, INT64), INT64(0))
    entry.builder.ret(result if gives_result and returned == types.int64 else code)
    library.add_ir_module(module)
    library.finalize()
    return library


def _object_code(library: Any) -> bytes:
    code: bytes = library.serialize_using_object_code()[2][0]
    return code


def _type_of(field: Field) -> Any:
    if field.kind == "array":
        element = numpy_support.from_dtype(np.dtype(field.dtype))
        return types.Array(element, max(len(field.dims), 1), "C")
    return types.float64 if field.kind == "float" else types.int64


class _Entry:
    """The entry under construction: a C function of int64 around a compiled one."""

    def __init__(self, module: Any, symbol: str, count: int, context: Any) -> None:
        self.context = context
        function = ir.Function(module, ir.FunctionType(INT64, [INT64] * count), symbol)
        self.given = function.args
        self.builder = ir.IRBuilder(function.append_basic_block())

    def arguments(self, layout: Layout) -> list[Any]:
        """What the function gets, loaded from the record."""
        return [self._argument(layout, field) for field in layout.fields]

    def _argument(self, layout: Layout, field: Field) -> Any:
        if field.kind == "array":
            return self._array(layout, field)
        if field.kind in ("first", "last"):
            return self.given[1 if field.kind == "first" else 2]
        value = self._cell(field.cell)
        return self.builder.bitcast(value, ir.DoubleType()) if field.kind == "float" else value

    def _cell(self, number: int) -> Any:
        address = self.builder.add(self.given[0], INT64(CELL * number))
        return self.builder.load(self.builder.inttoptr(address, INT64.as_pointer()))

    def _array(self, layout: Layout, field: Field) -> Any:
        kind = _type_of(field)
        build = self.builder
        array = self.context.make_array(kind)(self.context, build)
        item = self.context.get_abi_sizeof(self.context.get_data_type(kind.dtype))
        shape = [self._size(layout, label) for label in field.dims] or [INT64(1)]
        strides = [INT64(item)]
        for size in reversed(shape[1:]):
            strides.insert(0, build.mul(strides[0], size))
        address = self._cell(field.cell)
        if field.sliced:
            shape[0] = build.sub(self.given[2], self.given[1])
            address = build.add(address, build.mul(self.given[1], strides[0]))
        populate_array(
            array,
            data=build.inttoptr(address, array.data.type),
            shape=shape,
            strides=strides,
            itemsize=INT64(item),
            meminfo=None,
        )
        return array._getvalue()

    def _size(self, layout: Layout, label: str) -> Any:
        return INT64(int(label)) if label.isdigit() else self._cell(layout.sizes[label])
