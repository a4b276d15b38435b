"""Small pieces of LLVM that Numba has no spelling for: addresses, atomics, hints."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

INT64 = ir.IntType(64)
X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
ARM = platform.machine().lower() in ("aarch64", "arm64")

F = TypeVar("F", bound=Callable[..., Any])


def inlined(function: F) -> F:
    """Let kernels call ``function``, whose code is written into theirs, under their flags."""
    compiled: F = njit(inline="always")(function)
    return compiled


@njit(inline="always")
def wanted(array):  # compiled: Numba infers the types
    """Whether an output is wanted at all."""
    return array.ctypes.data != 0


@intrinsic
def call_entry(typing_context, entry, record, first, last):
    """Call a compiled kernel through its address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(INT64, [INT64] * 3)
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def load_word(typing_context, address):
    """The int64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], INT64.as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def store_word(typing_context, address, value):
    """Write an int64 to an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[1], builder.inttoptr(values[0], INT64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def atomic_add(typing_context, address, amount):
    """Add to the int64 at an address; returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], INT64.as_pointer())
        return builder.atomic_rmw("add", place, values[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_load(typing_context, address):
    """The int64 at an address, as other threads have written it."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(values[0], INT64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def atomic_swap(typing_context, address, value):
    """Write the int64 at an address; returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], INT64.as_pointer())
        return builder.atomic_rmw("xchg", place, values[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_replace(typing_context, address, expected, value):
    """Write the int64 at an address if it is ``expected``; returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], INT64.as_pointer())
        found = builder.cmpxchg(place, values[1], values[2], "seq_cst", "seq_cst")
        return builder.extract_value(found, 0)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def relax(typing_context):
    """Tell the processor that this thread is waiting in a loop."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if X86:
            name, arguments = "llvm.x86.sse2.pause", []
        elif ARM:
            name, arguments = "llvm.aarch64.hint", [ir.IntType(32)(1)]
        else:
            return context.get_dummy_value()
        kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def yield_processor(typing_context):
    """Let another thread run on this processor."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def view(typing_context, address, count, like):
    """The ``count`` elements of the type of ``like`` at an address, as an array."""
    kind = types.Array(like, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(kind)(context, builder)
        size = INT64(context.get_abi_sizeof(context.get_data_type(like)))
        populate_array(
            array,
            data=builder.inttoptr(values[0], array.data.type),
            shape=[values[1]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return array._getvalue()

    return kind(types.int64, types.int64, like), generate


@intrinsic(prefer_literal=True)
def local_bytes(typing_context, count):
    """An array of ``count`` bytes, a constant, on the stack: gone when the kernel returns."""
    kind = types.Array(types.uint8, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        size = signature.args[0].literal_value
        # By a count: alloca_once clears what it makes, and would clear a large array type by one
        # store, over which LLVM takes minutes.
        place = cgutils.alloca_once(builder, ir.IntType(8), size=INT64(size))
        place.align = 64
        array = context.make_array(kind)(context, builder)
        populate_array(
            array,
            data=builder.bitcast(place, array.data.type),
            shape=[INT64(size)],
            strides=[INT64(1)],
            itemsize=INT64(1),
            meminfo=None,
        )
        return array._getvalue()

    return kind(count), generate


@intrinsic
def fma(typing_context, a, b, c):
    """``a b + c`` of one dtype, rounded once where the processor can.

    For formulas of which LLVM must make nothing else: ``a x + (1 - a) y``, left to it, becomes
    ``a (x - y) + y``, which cancels.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = values[0].type
        name = "llvm.fmuladd.f32" if isinstance(kind, ir.FloatType) else "llvm.fmuladd.f64"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), name
        )
        return builder.call(function, values)

    if a == b == c and isinstance(a, types.Float):
        return a(a, b, c), generate
    return None


@intrinsic
def size_of(typing_context, like):
    """Bytes of a number of the type of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return INT64(like.bitwidth // 8)

    return types.int64(like), generate


CLOCK = int(time.CLOCK_MONOTONIC)


@intrinsic
def now_ns(typing_context):
    """Nanoseconds on the system's monotonic clock."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pair = ir.ArrayType(INT64, 2)
        place = cgutils.alloca_once(builder, pair)
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), pair.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(function, [ir.IntType(32)(CLOCK), place])
        seconds, rest = cgutils.unpack_tuple(builder, builder.load(place), 2)
        return builder.add(builder.mul(seconds, INT64(1_000_000_000)), rest)

    return types.int64(), generate
