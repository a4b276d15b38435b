"""Arithmetic instructions: the opcodes that have integer and floating-point forms, and the rest.

Approximate instructions are computed in float64 and rounded; with a generator of noise each is
moved by up to 2 units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnkernels.testing.ptx.dtypes import TINY, Array, is_float
from nnkernels.testing.ptx.opcodes.integer import integer_form, product_signature
from nnkernels.testing.ptx.parsing import Instruction
from nnkernels.testing.ptx.registry import (
    Approximation,
    Function,
    Request,
    Signature,
    alike,
    elementwise,
    unknown,
)
from nnkernels.testing.ptx.rounding import (
    DIRECTIONS,
    directed32,
    directed64,
    flush,
    flushed,
    fma32,
    fma32_flushed,
    fma64,
)

ROUNDED = "rn rz rm rp ftz sat"


# --- around a function: flushing and saturation ------------------------------------------------


def around(request: Request, function: Function, *, subnormal: bool = True) -> Function:
    """``function`` with its inputs and results flushed and saturated as the opcode says.

    ``subnormal`` tells whether normal inputs can give a subnormal result.
    """
    if request.ftz and request.type == "f32":
        dirty = [not clean for clean in request.clean]
        if any(dirty):
            function = _with_flushed_inputs(function, dirty)
        if subnormal:
            function = _then(function, flush)
    return _then(function, saturate) if "sat" in request.modifiers else function


def _with_flushed_inputs(function: Function, dirty: list[bool]) -> Function:
    def flushing(*arguments: Array) -> None:
        *values, out = arguments
        function(*(flushed(v) if d else v for v, d in zip(values, dirty, strict=True)), out)

    return flushing


def _then(function: Function, finish: Callable[[Array], None]) -> Function:
    def both(*arguments: Array) -> None:
        function(*arguments)
        finish(arguments[-1])

    return both


def saturate(out: Array) -> None:
    """Clamp to [0, 1] in place; NaN becomes 0."""
    np.fmax(out, 0, out)
    np.fmin(out, 1, out)
    out += 0


# --- sums and products -------------------------------------------------------------------------


def fma16(a: Array, b: Array, c: Array, out: Array) -> None:
    """``a * b + c`` of float16; the sum in float64 is exact or far from a tie."""
    np.copyto(out, a.astype(np.float64) * b + c, casting="same_kind")


def _multiply_add(request: Request) -> Function:
    single = fma32_flushed if request.ftz else fma32
    return {"f16": fma16, "f32": single, "f64": fma64}[request.type]


NEAREST = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def _rounded(request: Request, name: str) -> Function:
    """add, sub, mul or fma in the rounding mode of the opcode."""
    if request.type == "bf16":
        raise unknown(request.instruction, "arithmetic on bfloat16 is not supported")
    mode = next((m for m in request.modifiers if m in DIRECTIONS), None)
    if mode is not None:
        return (directed64 if request.type == "f64" else directed32)(name, mode)
    return NEAREST[name] if name != "fma" else _multiply_add(request)


def _sum_or_product(name: str) -> None:
    @elementwise(name, f"{ROUNDED} lo hi wide", product_signature)
    def build(request: Request) -> Function:
        if not is_float(request.type):
            return integer_form(request)
        return around(request, _rounded(request, name))


for _name in ("add", "sub", "mul"):
    _sum_or_product(_name)


@elementwise("fma", ROUNDED, alike(3))
def fma(request: Request) -> Function:
    """The product plus a third value, rounded once."""
    return around(request, _rounded(request, "fma"))


@elementwise("mad", f"{ROUNDED} lo hi wide", product_signature)
def mad(request: Request) -> Function:
    """fma for floating-point numbers, product and sum for integers."""
    return fma(request) if is_float(request.type) else integer_form(request)


# --- extremes and signs ------------------------------------------------------------------------


def _numeric(extreme: Function, sign: int) -> Function:
    """The extreme that ignores NaN, where -0 is less than +0."""

    def function(a: Array, b: Array, out: Array) -> None:
        both = (a == 0) & (b == 0)
        zeros = sign * (sign * a + sign * b) if np.count_nonzero(both) else None
        extreme(a, b, out)
        if zeros is not None:
            np.copyto(out, zeros, where=both)

    return function


def _propagating(extreme: Function) -> Function:
    """The extreme that is NaN where one of the values is."""

    def function(a: Array, b: Array, out: Array) -> None:
        lost = np.isnan(a) | np.isnan(b)
        extreme(a, b, out)
        np.copyto(out, np.nan, where=lost)

    return function


def _extreme(name: str, extreme: Function, sign: int) -> None:
    @elementwise(name, "ftz NaN", alike(2))
    def build(request: Request) -> Function:
        if not is_float(request.type):
            return integer_form(request)
        function = _numeric(extreme, sign)
        if "NaN" in request.modifiers:
            function = _propagating(function)
        return around(request, function, subnormal=False)


_extreme("min", np.fmin, -1)
_extreme("max", np.fmax, 1)


def _sign(name: str, function: Function) -> None:
    @elementwise(name, "ftz", alike(1))
    def build(request: Request) -> Function:
        if not is_float(request.type):
            return integer_form(request)
        return around(request, function, subnormal=False)


_sign("neg", np.negative)
_sign("abs", np.abs)


@elementwise("copysign", "", alike(2))
def copysign(request: Request) -> Function:
    """The magnitude of the second source with the sign of the first."""
    return lambda sign, magnitude, out: np.copysign(magnitude, sign, out)


def test_signature(instruction: Instruction) -> Signature:
    """The result is a predicate."""
    return Signature("pred", (instruction.type,))


@elementwise("testp", "finite infinite number notanumber normal subnormal", test_signature)
def testp(request: Request) -> Function:
    """Whether a floating-point number is of some class."""
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= TINY[a.dtype]),
        "subnormal": lambda a: (a != 0) & (np.abs(a) < TINY[a.dtype]),
    }
    test = next(tests[m] for m in request.modifiers if m in tests)
    return lambda a, out: np.copyto(out, test(a))


# --- quotients, roots, transcendental functions ------------------------------------------------


def perturb(out: Array, generator: np.random.Generator) -> None:
    """Move normal numbers by up to 2 units in the last place, in place."""
    bits = out.view(f"i{out.dtype.itemsize}")
    moved = (bits + generator.integers(-2, 3, bits.shape)).astype(bits.dtype)
    finite = np.isfinite(out) & (np.abs(out) > 2 * TINY[out.dtype])
    np.copyto(bits, moved, where=finite & np.isfinite(moved.view(out.dtype)))


def _approximate(function: Function, approximation: Approximation) -> Function:
    """``function`` evaluated in float64, rounded, and moved if there is noise."""

    def approximate(*arguments: Array) -> None:
        *values, out = arguments
        wide = function(*(v.astype(np.float64) for v in values))
        np.copyto(out, wide, casting="same_kind")
        if approximation.generator is not None:
            perturb(out, approximation.generator)

    return approximate


def _high_word(function: Function, approximation: Approximation) -> Function:
    """The coarse float64 form: subnormals are flushed, the low 32 bits are zero."""

    def coarse(a: Array, out: Array) -> None:
        value = function(_flushed64(a))
        bits = _flushed64(value).view(np.int64) >> 32
        if approximation.generator is not None:
            bits = bits + np.where(
                value == 0, 0, approximation.generator.integers(-2, 3, bits.shape)
            )
            bits = np.where(np.isfinite(value), bits, value.view(np.int64) >> 32)
        np.copyto(out, (bits << 32).view(np.float64))

    return coarse


def _flushed64(a: Array) -> Array:
    return np.where(np.abs(a) < TINY[np.dtype(np.float64)], np.copysign(0.0, a), a)


def reciprocal(a: Array, out: Array | None = None) -> Array:
    """``1 / a``."""
    result: Array = np.divide(1, a, out=out, dtype=a.dtype)
    return result


def reciprocal_root(a: Array) -> Array:
    """``1 / sqrt(a)``."""
    result: Array = 1 / np.sqrt(a)
    return result


def quick_quotient(a: Array, b: Array) -> Array:
    """``div.approx``: 0 where ``|b|`` exceeds 2**126, since the reciprocal would be flushed."""
    flushed_away = (np.abs(b) > 2.0**126) & np.isfinite(b)
    return np.where(flushed_away, a * 0.0, a / b)


EXACT: dict[str, Function] = {"div": np.divide, "rcp": reciprocal, "sqrt": np.sqrt}
APPROXIMATE: dict[str, Function] = {
    "div": quick_quotient,
    "rcp": lambda a: 1 / a,
    "sqrt": np.sqrt,
    "rsqrt": reciprocal_root,
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


def _quotient_or_root(name: str) -> None:
    @elementwise(name, "rn approx full ftz", alike(2 if name == "div" else 1))
    def build(request: Request) -> Function:
        if not is_float(request.type):
            return integer_form(request)
        if "rn" in request.modifiers and name in EXACT:
            return around(request, EXACT[name])
        if request.type == "f64" and request.ftz:
            return _high_word(APPROXIMATE[name], request.approximation)
        function = np.divide if "full" in request.modifiers else APPROXIMATE[name]
        return around(request, _approximate(function, request.approximation))


for _name in APPROXIMATE:
    _quotient_or_root(_name)
