"""Conversions between types."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, Array, DType, is_float
from nnkernels.testing.ptx.opcodes.floating import saturate
from nnkernels.testing.ptx.parsing import Instruction
from nnkernels.testing.ptx.registry import (
    Function,
    Request,
    Signature,
    elementwise,
    unknown,
)
from nnkernels.testing.ptx.rounding import DIRECTIONS, directed, flush, flushed

INTEGRAL: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}
"""Rounding to an integer by modifier."""


def kinds(instruction: Instruction) -> tuple[str, str]:
    """Types of result and source."""
    found = [m for m in instruction.modifiers if m in DTYPES]
    if len(found) != 2:
        raise unknown(instruction)
    return found[0], found[1]


def cvt_signature(instruction: Instruction) -> Signature:
    """Result and source."""
    result, source = kinds(instruction)
    return Signature(result, (source,))


@elementwise("cvt", f"rn {' '.join([*DIRECTIONS, *INTEGRAL])} ftz sat", cvt_signature)
def cvt(request: Request) -> Function:
    """A conversion with the rounding and saturation of the opcode."""
    result, source = kinds(request.instruction)
    if is_float(source) and not is_float(result):
        return _to_integer(request, source, result)
    if is_float(result) and not is_float(source):
        return _to_float(request, result)
    return (
        _between_floats(request, source, result)
        if is_float(result)
        else _between_integers(request, result)
    )


def _between_integers(request: Request, result: str) -> Function:
    limits = np.iinfo(DTYPES[result])
    if "sat" not in request.modifiers:
        return lambda a, out: np.copyto(out, a, casting="unsafe")

    def saturating(a: Array, out: Array) -> None:
        low = max(int(limits.min), int(np.iinfo(a.dtype).min))
        high = min(int(limits.max), int(np.iinfo(a.dtype).max))
        np.copyto(out, np.clip(a, low, high), casting="unsafe")

    return saturating


# --- from floating-point numbers to integers ---------------------------------------------------


def _to_integer(request: Request, source: str, result: str) -> Function:
    """Rounded, clamped to the range of the result.

    NaN becomes 0; with 64-bit numbers on either side it becomes the sign bit alone.
    """
    name = next((m for m in request.modifiers if m in INTEGRAL), None)
    if name is None:
        raise unknown(request.instruction, "a rounding mode is missing")
    integral, dtype = INTEGRAL[name], DTYPES[result]
    wide = source == "f64" or dtype.itemsize == 8
    lost = np.array([1 << (8 * dtype.itemsize - 1)], f"u{dtype.itemsize}").view(dtype)
    of_nan = lost if wide else np.zeros(1, dtype)
    prepare = _widening(source, request.ftz)

    def function(a: Array, out: Array) -> None:
        value = integral(prepare(a))
        np.copyto(out, np.where(np.isnan(value), of_nan, clamped(value, dtype)))

    return function


def _widening(source: str, ftz: bool) -> Callable[[Array], Array]:
    """To float64, flushed where asked for."""
    if source == "bf16":
        return lambda a: bfloat_to_float(a).astype(np.float64)
    if source == "f32" and ftz:
        return lambda a: flushed(a).astype(np.float64)
    return lambda a: a.astype(np.float64)


def clamped(value: Array, dtype: DType) -> Array:
    """Integral float64 numbers as integers, clamped to their range."""
    limits = np.iinfo(dtype)
    above = value >= float(int(limits.max) + 1)
    below = value <= float(limits.min)
    inside = np.where(above | below | np.isnan(value), 0, value).astype(dtype)
    return np.where(above, limits.max, np.where(below, limits.min, inside)).astype(dtype)


# --- to floating-point numbers -----------------------------------------------------------------


def _to_float(request: Request, result: str) -> Function:
    if any(m in DIRECTIONS for m in request.modifiers):
        raise unknown(request.instruction, "only rounding to nearest is supported")
    if result == "bf16":
        raise unknown(request.instruction, "integers to bfloat16 are not supported")
    if result == "f16":
        return lambda a, out: np.copyto(out, a.astype(np.float64), casting="same_kind")
    saturating = "sat" in request.modifiers

    def function(a: Array, out: Array) -> None:
        np.copyto(out, a, casting="unsafe")
        if saturating:
            saturate(out)

    return function


def _between_floats(request: Request, source: str, result: str) -> Function:
    convert = _float_conversion(request, source, result)
    flush_in = request.ftz and source == "f32" and not request.clean[0]
    flush_out = request.ftz and result == "f32"
    saturating = "sat" in request.modifiers

    def function(a: Array, out: Array) -> None:
        convert(flushed(a) if flush_in else a, out)
        if flush_out:
            flush(out)
        if saturating:
            saturate(out)

    return function


def _float_conversion(request: Request, source: str, result: str) -> Function:
    integral = next((INTEGRAL[m] for m in request.modifiers if m in INTEGRAL), None)
    mode = next((m for m in request.modifiers if m in DIRECTIONS), None)
    if integral is not None and source == result:
        return lambda a, out: np.copyto(out, integral(a))
    if "bf16" in (source, result):
        return _with_bfloat(request, source, result, mode)
    if mode is not None and DTYPES[result].itemsize < DTYPES[source].itemsize:
        return lambda a, out: directed(a.astype(np.float64), mode, out)
    return lambda a, out: np.copyto(out, a, casting="same_kind")


# --- bfloat16 ----------------------------------------------------------------------------------


def bfloat_to_float(bits: Array) -> Array:
    """The float32 numbers whose upper halves are ``bits``."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float_to_bfloat(value: Array) -> Array:
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(value).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(value), 0x7FFF, rounded).astype(np.uint16)


def _with_bfloat(request: Request, source: str, result: str, mode: str | None) -> Function:
    if mode is not None or {source, result} != {"bf16", "f32"}:
        raise unknown(request.instruction, "bfloat16 converts from and to float32, to nearest")
    if source == "bf16":
        return lambda a, out: np.copyto(out, bfloat_to_float(a))
    return lambda a, out: np.copyto(out, float_to_bfloat(a))
