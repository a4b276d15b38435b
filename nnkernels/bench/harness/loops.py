"""Compiled loops that do nothing but compute, or nothing but move memory, without the GIL.

Each repeats its work inside of compiled code, so that a call's price does not count where the
arrays are small. :func:`available` says whether they can be compiled here.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

CHAINS = 12
"""Independent vectors that the arithmetic loop keeps: more than latency times units anywhere."""

Loop = Callable[..., Any]


def available() -> bool:
    """Whether Numba is there and compiles."""
    disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    return not disabled and importlib.util.find_spec("numba") is not None


@functools.cache
def reading() -> Loop:
    """``(a, repeats)``: the sum of a float32 array, ``repeats`` times."""

    def read(a: Any, repeats: int) -> Any:
        total = a[0] - a[0]
        for _ in range(repeats):
            for i in range(a.size):
                total += a[i]
        return total

    return _compiled("float32(float32[::1], int64)", read)


@functools.cache
def triad() -> Loop:
    """``(a, b, c, repeats)``: ``a = b + s c`` on float32 arrays, with another s each time."""

    def add_scaled(a: Any, b: Any, c: Any, repeats: int) -> None:
        for s in range(repeats):
            scale = a.dtype.type(s)
            for i in range(a.size):
                a[i] = b[i] + scale * c[i]

    return _compiled("void(float32[::1], float32[::1], float32[::1], int64)", add_scaled)


@functools.cache
def copying() -> Loop:
    """``(a, b, repeats)``: the C library's ``memcpy`` of ``b`` to ``a``, ``repeats`` times."""
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    def copy_bytes(typing_context: Any, target: Any, source: Any, nbytes: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointers = [builder.inttoptr(v, cgutils.voidptr_t) for v in values[:2]]
            cgutils.raw_memcpy(builder, *pointers, values[2], 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    memcpy = intrinsic(copy_bytes)

    def copy(a: Any, b: Any, repeats: int) -> None:
        for _ in range(repeats):
            memcpy(a.ctypes.data, b.ctypes.data, a.nbytes)

    return _compiled("void(float32[::1], float32[::1], int64)", copy)


@functools.cache
def multiplying(dtype: str) -> tuple[Loop, int]:
    """``(start, scale, repeats)`` over :data:`CHAINS` vectors, and its flops a repeat."""
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    bits = int(dtype.removeprefix("float"))
    lanes = _vector_bits() // bits

    def chains(typing_context: Any, start: Any, scale: Any, repeats: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            vector = ir.VectorType(values[0].type, lanes)
            index = ir.IntType(32)

            def splat(value: Any) -> Any:
                """``value`` in every lane."""
                spread = ir.Constant(vector, ir.Undefined)
                for lane in range(lanes):
                    spread = builder.insert_element(spread, value, index(lane))
                return spread

            kind = ir.FunctionType(vector, [vector] * 3)
            name = f"llvm.fma.v{lanes}f{bits}"
            fma = cgutils.get_or_insert_function(builder.module, kind, name)
            factor, kept = splat(values[1]), []
            for chain in range(CHAINS):
                kept.append(cgutils.alloca_once_value(builder, splat(values[0])))
                offset = ir.Constant(values[0].type, float(chain))
                start = builder.fadd(builder.load(kept[-1]), splat(offset))
                builder.store(start, kept[-1])
            with cgutils.for_range(builder, values[2]):
                for place in kept:
                    product = builder.call(fma, [builder.load(place), factor, factor])
                    builder.store(product, place)
            total = functools.reduce(builder.fadd, [builder.load(place) for place in kept])
            return builder.extract_element(total, index(0))

        element = getattr(types, dtype)
        return element(element, element, types.int64), generate

    run = intrinsic(chains)

    def multiply(start: Any, scale: Any, repeats: int) -> Any:
        return run(start, scale, repeats)

    loop = _compiled(f"{dtype}({dtype}, {dtype}, int64)", multiply)
    return loop, 2 * CHAINS * lanes


def _vector_bits() -> int:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 512
    return 256 if features.get("avx2") else 128


def _compiled(signature: str, function: Callable[..., Any]) -> Loop:
    """``function`` for one signature; sums may be reordered, which vectors need."""
    from numba import njit

    loop: Loop = njit(signature, nogil=True, fastmath={"reassoc", "contract", "nsz"})(function)
    return loop
