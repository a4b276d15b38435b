"""Floating-point arithmetic as PTX defines it, on arrays: flushing, fused products, directions.

Fused products are rounded once. The float32 form adds the exact float64 product in float64, and
where the sum sits on a float32 rounding boundary makes it odd first (Boldo and Melquiond, 2008).
The float64 form adds the error terms of product and sum (Dekker, 1971; Knuth), accepts the result
where perturbing the correction by its own error does not change it (Ziv's test), and computes the
few others as fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from nnkernels.testing.ptx.dtypes import TINY, Array

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
TINY32 = np.array([TINY[F32]], np.float32)
BELOW_F32 = np.array([0x1FFF_FFFF])
"""The float64 significand bits that a float32 has not."""
HALF_F32 = np.array([0x1000_0000])
UP, DOWN, ZERO = "rp", "rm", "rz"
DIRECTIONS = (UP, DOWN, ZERO)


def flushed(x: Array) -> Array:
    """``x`` with subnormal numbers replaced by zeros of their sign; ``x`` itself if it has none."""
    small = np.abs(x) < TINY32
    if np.count_nonzero(small):
        return np.where(small, np.copysign(np.float32(0), x), x)
    return x


def flush(out: Array) -> None:
    """Replace subnormal numbers by zeros of their sign, in place."""
    small = np.abs(out) < TINY32
    if np.count_nonzero(small):
        np.multiply(out, 0, out=out, where=small)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum and its error (Knuth)."""
    total = a + b
    other = total - a
    error = (a - (total - other)) + (b - other)
    return total, error


def _split(x: Array) -> tuple[Array, Array]:
    """A float64 as the sum of two numbers of 26 bits."""
    high = ((x.view(np.int64) + 0x400_0000) & ~0x7FF_FFFF).view(np.float64)
    return high, x - high


def product_error(a: Array, b: Array, product: Array) -> Array:
    """``a * b - product`` in float64, exact unless it leaves the range (Dekker)."""
    a_high, a_low = _split(np.ascontiguousarray(a))
    b_high, b_low = _split(np.ascontiguousarray(b))
    error: Array = a_high * b_high
    error -= product
    error = error + a_high * b_low
    error += a_low * b_high
    error += a_low * b_low
    return error


# --- float32 -----------------------------------------------------------------------------------


def odd(total: Array, error: Array) -> Array:
    """``total + error`` rounded to odd: exact, or the neighbour whose last bit is set."""
    bits = total.view(np.int64)
    away = np.where(np.signbit(error) == np.signbit(total), 1, -1)
    change = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
    return (bits + np.where(change, away, 0)).view(np.float64)


def directed(exact: Array, mode: str, out: Array) -> None:
    """Round float64 values, exact or odd, to the type of ``out`` in a direction."""
    with_ties = exact.astype(out.dtype)
    wide = with_ties.astype(np.float64)
    if mode == DOWN:
        wrong, toward = wide > exact, -np.inf
    elif mode == UP:
        wrong, toward = wide < exact, np.inf
    else:
        wrong, toward = np.abs(wide) > np.abs(exact), 0.0
    wrong &= np.isfinite(exact)
    stepped = np.nextafter(with_ties, out.dtype.type(toward))
    np.copyto(out, np.where(wrong, stepped, with_ties))


def fma32(a: Array, b: Array, c: Array, out: Array) -> None:
    """``a * b + c`` rounded once to float32."""
    product = a.astype(np.float64) * b
    total = product + c
    small = np.abs(total) < TINY32
    if np.count_nonzero(small & (total != 0)) or _has_ties(total):
        total = odd(*two_sum(product, c.astype(np.float64)))
    np.copyto(out, total, casting="same_kind")


def fma32_flushed(a: Array, b: Array, c: Array, out: Array) -> None:
    """:func:`fma32` where subnormal results are flushed anyway and need not be exact."""
    product = a.astype(np.float64) * b
    total = product + c
    if _has_ties(total):
        total = odd(*two_sum(product, c.astype(np.float64)))
    np.copyto(out, total, casting="same_kind")


def _has_ties(total: Array) -> bool:
    """Whether some float64 lies half-way between two float32."""
    return bool(np.count_nonzero((total.view(np.int64) & BELOW_F32) == HALF_F32))


def directed32(name: str, mode: str) -> Callable[..., None]:
    """add, sub, mul or fma of float32 (or float16) rounded in a direction."""

    def function(*arguments: Array) -> None:
        *values, out = arguments
        wide = [np.broadcast_to(v, out.shape).astype(np.float64) for v in values]
        if name == "sub":
            wide[1] = -wide[1]
        if name in ("mul", "fma"):
            wide[:2] = [wide[0] * wide[1]]
        exact = odd(*two_sum(*wide)) if len(wide) == 2 else wide[0]
        directed(exact, mode, out)

    return function


# --- float64 -----------------------------------------------------------------------------------

RELATIVE_ERROR = 2.0**-52
SMALL_PRODUCT = 2.0**-960
"""Below this the error of a product may not be a float64."""


def fma64(a: Array, b: Array, c: Array, out: Array) -> None:
    """``a * b + c`` rounded once to float64."""
    product = a * b
    total, lost = two_sum(product, c)
    lost += product_error(a, b, product)
    result = total + lost * (1 + RELATIVE_ERROR)
    hard = result != total + lost * (1 - RELATIVE_ERROR)
    hard |= np.abs(product) < SMALL_PRODUCT
    if np.count_nonzero(hard):
        plain = product + c
        hard &= (a != 0) & (b != 0)
        result = np.where(hard | np.isnan(result), plain, result)
        _recompute(result, np.flatnonzero(hard), (a, b, c))
    np.copyto(out, result)


def _recompute(result: Array, at: Array, arguments: tuple[Array, Array, Array]) -> None:
    a, b, c = (np.broadcast_to(x, result.shape)[at].tolist() for x in arguments)
    for where, x, y, z in zip(at.tolist(), a, b, c, strict=True):
        if math.isfinite(x) and math.isfinite(y) and math.isfinite(z):
            exact = Fraction(x) * Fraction(y) + Fraction(z)
            if exact:
                result[where] = nearest(exact)


def nearest(exact: Fraction) -> float:
    """The float64 nearest to a fraction."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def directed64(name: str, mode: str) -> Callable[..., None]:
    """add, sub, mul or fma of float64 rounded in a direction."""

    def function(*arguments: Array) -> None:
        *values, out = arguments
        columns = [np.broadcast_to(v, out.shape).tolist() for v in values]
        rows = zip(*columns, strict=True)
        np.copyto(out, np.array([_directed_scalar(name, mode, *row) for row in rows]))

    return function


def _directed_scalar(name: str, mode: str, a: float, b: float, c: float = 0.0) -> float:
    plain = {"add": a + b, "sub": a - b, "mul": a * b, "fma": a * b + c}[name]
    if not all(map(math.isfinite, (a, b, c))):
        return plain
    x, y, z = Fraction(a), Fraction(b), Fraction(c)
    exact = {"add": x + y, "sub": x - y, "mul": x * y, "fma": x * y + z}[name]
    if not exact:
        return plain
    result = nearest(exact)
    toward = {UP: math.inf, DOWN: -math.inf, ZERO: 0.0}[mode]
    beyond = {UP: result < exact, DOWN: result > exact, ZERO: abs(result) > abs(exact)}[mode]
    return math.nextafter(result, toward) if beyond else result
