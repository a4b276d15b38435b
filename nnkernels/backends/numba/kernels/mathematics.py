"""Elementary functions that LLVM turns into packed instructions inside a compiled loop.

``exp``, ``expm1``, ``log``, ``log1p``, ``tanh``, ``logistic`` and ``erfc`` take a float32 or a
float64 and return the same type. They are called from functions compiled by Numba, and only from
there. Each is straight-line arithmetic: no branch, no table, no call of a C library and no
instruction of one processor alone, so that the loop around it is vectorised for any target with
packed floating-point arithmetic, and well served by one with a fused multiply-add.

Accuracy. `ULPS` holds the bound of each function. Results that are subnormal may be flushed to
zero: the error is below one smallest normal number there. NaN stays NaN, infinities and zeros
give their limits, and ``expm1``, ``log1p`` and ``tanh`` keep a zero's sign.

Flags. The only licence given to LLVM is ``contract`` (a product and a sum may become one fused
operation). Reassociation would undo the range reductions, and the licence to neglect NaN or
infinity would undo the selections below; a caller may hold further licences for its own
instructions, but these functions' instructions keep their own after inlining. A function without
flags of its own would be compiled with those of its first caller: each one sets them.

Coefficients. Each polynomial is the minimax polynomial (Remez exchange in 200-bit arithmetic) of
the function, interval and degree written beside it, rounded to the type one coefficient after the
other with the remaining ones refitted. The error beside it is that of the rounded polynomial,
relative to the function it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

__all__ = ["ULPS", "erfc", "exp", "expm1", "log", "log1p", "logistic", "tanh"]

ULPS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "exp": (2.0, 2.0),
        "expm1": (2.0, 2.5),
        "log": (1.0, 1.5),
        "log1p": (1.5, 2.0),
        "tanh": (3.0, 3.0),
        "logistic": (3.0, 3.0),
        "erfc": (4.0, 4.0),
    }
)
"""Largest error of each function in units in the last place, for float32 and for float64.

It holds wherever the exact result is a normal number and multiply-adds are fused. Measured maxima
over all float32 and a sample of float64 arguments: exp 1.49 and 1.60, expm1 1.56 and 1.90, log 0.83
and 0.76, log1p 1.40 and 1.27, tanh 2.83 and 2.83, logistic 2.56 and 2.37, erfc 3.65 and 3.0. Where
they are not fused, exp reaches 1.83, expm1 1.92 and the erfc of float32 4.65.
"""

Scalar = Any
"""A value of a compiled function: float32 or float64, the same for every value of one call."""

_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True}
)
"""Set on each function: whatever is unset would be taken over from the first caller."""

# Numba's own types know neither an intrinsic's arguments, less the first, nor these options.
_Decorator = Callable[[Callable[..., Any]], Callable[..., Scalar]]
_compiled: _Decorator = cast(Any, njit)(**_OPTIONS)
_intrinsic: _Decorator = cast(Any, intrinsic)
_overload: Callable[..., _Decorator] = cast(Any, overload)


@dataclass(frozen=True, eq=False)
class _Format:
    """A floating-point type and the constants of its elementary functions.

    Attributes:
        number: NumPy's type.
        width: Bits of the type.
        mantissa: Bits of the stored mantissa, which is also where the exponent begins.
        bias: What the stored exponent is above the true one.
        exp_tail: Coefficients of (exp(r) - 1) / r on [0, log(2)].
        expm1_tail: Coefficients of (expm1(r) - r) / r**2 on [-log(2)/2, log(2)/2].
        log_tail: Coefficients of (log((1 + s) / (1 - s)) / s - 2) / s**2 in s**2 where
            (1 + s) / (1 - s) lies in [sqrt(1/2), sqrt(2)].
        erfc_scaled: Coefficients of (x + 3) * exp(x**2) * erfc(x) in (x - 3) / (x + 3), for
            x from 0 to where exp(-x**2) is no longer normal.
        ln2_high: log(2) to so few bits that its product with any exponent is exact.
        ln2_low: The rest of log(2).
    """

    number: type[np.floating[Any]]
    width: int
    mantissa: int
    bias: int
    exp_tail: tuple[float, ...]
    expm1_tail: tuple[float, ...]
    log_tail: tuple[float, ...]
    erfc_scaled: tuple[float, ...]
    ln2_high: float
    ln2_low: float

    @property
    def shifter(self) -> float:
        """A number whose last bit is worth 1 and whose last bits hold the exponent's bias.

        Adding it rounds to an integer, and leaves that integer's stored exponent in the last bits.
        """
        return 1.5 * 2.0**self.mantissa + self.bias

    def constants(self, values: tuple[float, ...]) -> tuple[Any, ...]:
        """Return ``values`` as constants of the type."""
        return tuple(self.number(value) for value in values)

    def bits_of(self, value: float) -> int:
        """Return the bits of ``value``."""
        return int(self.number(value).view(f"i{self.width // 8}"))


_FORMATS: Mapping[int, _Format] = MappingProxyType(
    {
        32: _Format(
            number=np.float32,
            width=32,
            mantissa=23,
            bias=127,
            # Degree 5, error 2.1e-9.
            exp_tail=(
                0.9999998211860657,
                0.5000055432319641,
                0.16661173105239868,
                0.04191083461046219,
                0.007797313388437033,
                0.0019464560318738222,
            ),
            # Degree 4, error 1.4e-8.
            expm1_tail=(
                0.4999999701976776,
                0.1666654348373413,
                0.041667498648166656,
                0.008366533555090427,
                0.0013864872744306922,
            ),
            # Degree 2, error 8.1e-10.
            log_tail=(0.6666677594184875, 0.39977577328681946, 0.2987106740474701),
            # Degree 9 for x up to 9.4, error 7.8e-9.
            erfc_scaled=(
                1.0740069150924683,
                -0.8833945393562317,
                0.5902281403541565,
                -0.3104662597179413,
                0.11952981352806091,
                -0.026837730780243874,
                -0.0012259570648893714,
                0.0030761624220758677,
                -0.0004889010451734066,
                -0.000327680550981313,
            ),
            ln2_high=0.693145751953125,
            ln2_low=1.428606765330187e-06,
        ),
        64: _Format(
            number=np.float64,
            width=64,
            mantissa=52,
            bias=1023,
            # Degree 10, error 3.3e-18.
            exp_tail=(
                1.0000000000000009,
                0.4999999999999224,
                0.16666666666900576,
                0.041666666631724296,
                0.00833333363499357,
                0.001388887259400844,
                0.0001984184359088526,
                2.4788229649780218e-05,
                2.776069377064937e-06,
                2.562244803484074e-07,
                3.529645069657283e-08,
            ),
            # Degree 9, error 2.0e-17.
            expm1_tail=(
                0.5000000000000006,
                0.16666666666666594,
                0.04166666666657377,
                0.008333333333386206,
                0.0013888888932311444,
                0.00019841269727242445,
                2.4801504535703528e-05,
                2.755739949354042e-06,
                2.7626289644868795e-07,
                2.5056498115671864e-08,
            ),
            # Degree 6, error 1.3e-18.
            log_tail=(
                0.6666666666666734,
                0.39999999999416275,
                0.2857142874217303,
                0.22222198584780242,
                0.18183564149012577,
                0.1531404606345049,
                0.14796072196432467,
            ),
            # Degree 22 for x up to 26.63, error 8.3e-17.
            erfc_scaled=(
                1.0740069070883398,
                -0.8833944531698836,
                0.5902283571040912,
                -0.3104672619005678,
                0.11952776128768167,
                -0.026827234624451444,
                -0.0012124166339741627,
                0.0030340620004601377,
                -0.000548309625922212,
                -0.0002767778362148758,
                0.00010756109333391805,
                3.0398082089942763e-05,
                -1.746906080622995e-05,
                -4.748819923509753e-06,
                2.76164514863887e-06,
                9.976027455840526e-07,
                -4.019777112392348e-07,
                -2.3089149470931004e-07,
                4.02079799016266e-08,
                4.725830619661845e-08,
                2.051964953947826e-09,
                -5.932833678545768e-09,
                -1.4118939450465102e-09,
            ),
            ln2_high=0.6931471803691238,
            ln2_low=1.9082149292705877e-10,
        ),
    }
)


# Operations on one number that Numba's language lacks.


@_intrinsic
def _select(_: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Return ``yes`` where the condition holds and else ``no``, both having been computed."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return yes(types.boolean, yes, yes), generate


@_intrinsic
def _copysign(_: Any, magnitude: Any, sign: Any) -> Any:
    """Return ``magnitude`` with the sign of ``sign``."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        number = arguments[0].type
        signature = ir.FunctionType(number, [number, number])
        function = builder.module.declare_intrinsic("llvm.copysign", [number], signature)
        return builder.call(function, arguments)

    return magnitude(magnitude, magnitude), generate


@_intrinsic
def _polynomial(_: Any, x: Any, coefficients: Any) -> Any:
    """Return the polynomial with these coefficients, the constant one first, by Horner's rule."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        x, coefficients = arguments
        signature = ir.FunctionType(x.type, [x.type] * 3)
        multiply_add = builder.module.declare_intrinsic("llvm.fmuladd", [x.type], signature)
        terms = [builder.extract_value(coefficients, i) for i in range(coefficients.type.count)]
        total = terms.pop()
        while terms:
            total = builder.call(multiply_add, [total, x, terms.pop()])
        return total

    return x(x, coefficients), generate


_BitOperation = Callable[[Any, Any, _Format], Any]


def _on_bits(operation: _BitOperation) -> Callable[[Scalar], Scalar]:
    """Return the compiled function that applies ``operation`` to the bits of a number."""

    def typed(_: Any, x: Any) -> Any:
        def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            bits = builder.bitcast(arguments[0], ir.IntType(x.bitwidth))
            changed = operation(builder, bits, _FORMATS[x.bitwidth])
            return builder.bitcast(changed, arguments[0].type)

        return x(x), generate

    return _intrinsic(typed)


@_on_bits
def _power_of_two(builder: Any, bits: Any, f: _Format) -> Any:
    """Return 2**k of a number k + ``shifter``, 0 for the k just below the normal numbers'."""
    return builder.shl(bits, bits.type(f.mantissa))


@_on_bits
def _leading_half(builder: Any, bits: Any, f: _Format) -> Any:
    """Return the number cut to so few bits that its square is exact."""
    return builder.and_(bits, bits.type(-(1 << (f.mantissa // 2 + 1))))


def _above_sqrt_half(builder: Any, bits: Any, f: _Format) -> Any:
    """Return bits whose exponent field counts from sqrt(1/2) instead of 1."""
    return builder.add(bits, bits.type(f.bits_of(1.0) - f.bits_of(0.5**0.5)))


@_on_bits
def _shifted_exponent(builder: Any, bits: Any, f: _Format) -> Any:
    """Return k + ``shifter`` for a positive normal m * 2**k, m from sqrt(1/2) to sqrt(2)."""
    exponent = builder.lshr(_above_sqrt_half(builder, bits, f), bits.type(f.mantissa))
    return builder.add(exponent, bits.type(f.bits_of(1.5 * 2.0**f.mantissa)))


@_on_bits
def _reduced(builder: Any, bits: Any, f: _Format) -> Any:
    """Return m of a positive normal m * 2**k, m from sqrt(1/2) to sqrt(2)."""
    fraction = builder.and_(_above_sqrt_half(builder, bits, f), bits.type((1 << f.mantissa) - 1))
    return builder.add(fraction, bits.type(f.bits_of(0.5**0.5)))


# Parts that several functions share, one of each for each type.


def _expm1_halves(f: _Format) -> Callable[[Scalar, Scalar], tuple[Scalar, Scalar]]:
    """Return h * expm1(r) and h, where x - low = k * log(2) + r and h = 2**k / 2.

    expm1(x - low) / 2 is the first plus h - 1/2, for a ``low`` that x is too short to hold. The
    half keeps h finite wherever the result is; k is rounded to nearest.
    """
    log2_e, shifter = f.constants((float(np.log2(np.e)), f.shifter - 1))
    ln2_high, ln2_low = f.constants((f.ln2_high, f.ln2_low))
    coefficients = f.constants(f.expm1_tail)

    @_compiled
    def expm1_halves(x: Scalar, low: Scalar) -> tuple[Scalar, Scalar]:
        shifted = (x - low) * log2_e + shifter
        k = shifted - shifter
        r = ((x - k * ln2_high) - low) - k * ln2_low
        h = _power_of_two(shifted)
        return h * (r + r * (r * _polynomial(r, coefficients))), h

    return expm1_halves


def _log_of_parts(f: _Format) -> Callable[[Scalar, Scalar], Scalar]:
    """Return log((1 + u) * 2**k) for 1 + u from sqrt(1/2) to sqrt(2).

    With s = u / (2 + u), log(1 + u) = log((1 + s) / (1 - s)) is an odd function of s, and
    u - u**2 / 2 is the part of it that has to be exact where k = 0.
    """
    half, two, ln2_high, ln2_low = f.constants((0.5, 2.0, f.ln2_high, f.ln2_low))
    coefficients = f.constants(f.log_tail)

    @_compiled
    def log_of_parts(u: Scalar, k: Scalar) -> Scalar:
        s = u / (u + two)
        z = s * s
        square = half * u * u
        tail = s * (square + z * _polynomial(z, coefficients)) + k * ln2_low
        return k * ln2_high + (u - (square - tail))

    return log_of_parts


# The functions: each builder returns the one for its type.


def _build_exp(f: _Format) -> Callable[[Scalar], Scalar]:
    """Build exp(x) = 2**k * exp(r) for x = k * log(2) + r.

    k is rounded down, so that 2**k is a normal number wherever the result is one, and one product
    does. For the k below the normal numbers' the scale is 0, for that above it is infinite. Half
    an ulp of 1/2 is missing from the offset lest 0 be a tie.
    """
    log2_e, offset = f.number(np.log2(np.e)), np.nextafter(f.number(-0.5), f.number(0))
    shifter, ln2_high, ln2_low = f.constants((f.shifter, f.ln2_high, f.ln2_low))
    coefficients = f.constants((1.0, *f.exp_tail))
    lowest, highest = _exp_range(f)

    def exp(x: Scalar) -> Scalar:
        x = _select(x < lowest, lowest, x)
        x = _select(x > highest, highest, x)
        shifted = (x * log2_e + offset) + shifter
        k = shifted - shifter
        r = (x - k * ln2_high) - k * ln2_low
        return _polynomial(r, coefficients) * _power_of_two(shifted)

    return exp


def _exp_range(f: _Format) -> tuple[Any, Any]:
    """Return an argument whose exp is flushed to zero and one whose exp is infinite."""
    ln2 = float(np.log(2.0))
    return f.number((0.5 - f.bias) * ln2), f.number((f.bias + 1.25) * ln2)


def _build_expm1(f: _Format) -> Callable[[Scalar], Scalar]:
    zero, half, two = f.constants((0.0, 0.5, 2.0))
    lowest = f.number(-(f.mantissa + 3) * float(np.log(2.0)))
    _, highest = _exp_range(f)
    expm1_halves = _expm1_halves(f)

    def expm1(x: Scalar) -> Scalar:
        bounded = _select(x < lowest, lowest, x)
        bounded = _select(x > highest, highest, bounded)
        growth, h = expm1_halves(bounded, zero)
        return _copysign(two * (growth + (h - half)), x)

    return expm1


def _build_tanh(f: _Format) -> Callable[[Scalar], Scalar]:
    zero, half, two = f.constants((0.0, 0.5, 2.0))
    highest = f.number((f.mantissa + 6) * float(np.log(2.0)))
    expm1_halves = _expm1_halves(f)

    def tanh(x: Scalar) -> Scalar:
        doubled = two * abs(x)
        growth, h = expm1_halves(_select(doubled > highest, highest, doubled), zero)
        return _copysign((growth + (h - half)) / (growth + (h + half)), x)

    return tanh


def _build_logistic(f: _Format) -> Callable[[Scalar], Scalar]:
    one, exponential = f.number(1), _compiled(_build_exp(f))

    def logistic(x: Scalar) -> Scalar:
        return one / (one + exponential(-x))

    return logistic


def _build_log(f: _Format) -> Callable[[Scalar], Scalar]:
    zero, one, infinity, nan = f.constants((0.0, 1.0, np.inf, np.nan))
    smallest, lift = np.finfo(f.number).tiny, f.number(2.0 ** (f.mantissa + 1))
    shifter, lifted_shifter = f.constants((f.shifter, f.shifter + f.mantissa + 1))
    log_of_parts = _log_of_parts(f)

    def log(x: Scalar) -> Scalar:
        subnormal = x < smallest
        normal = _select(subnormal, x * lift, x)
        k = _shifted_exponent(normal) - _select(subnormal, lifted_shifter, shifter)
        value = log_of_parts(_reduced(normal) - one, k)
        value = _select(x > zero, value, _select(x == zero, -infinity, nan))
        return _select(x == infinity, infinity, value)

    return log


def _build_log1p(f: _Format) -> Callable[[Scalar], Scalar]:
    one, quarter, infinity, nan = f.constants((1.0, 0.25, np.inf, np.nan))
    shifter, scale_shifter = f.constants((f.shifter, f.shifter + 2))
    log_of_parts = _log_of_parts(f)

    def log1p(x: Scalar) -> Scalar:
        k = _shifted_exponent(one + x) - shifter
        scale = _power_of_two(scale_shifter - k)  # 4 / 2**k: without the 4 it may be subnormal
        u = (x * scale) * quarter + (scale * quarter - one)
        value = log_of_parts(u, k)
        value = _select(x > -one, value, _select(x == -one, -infinity, nan))
        return _copysign(_select(x == infinity, infinity, value), x)

    return log1p


def _build_erfc(f: _Format) -> Callable[[Scalar], Scalar]:
    """Build erfc(a) = exp(-a**2) * factor / (a + 3) for a = abs(x), and 2 less that for x < 0.

    Both a**2 and 1 / (a + 3) are split into a part with few bits, whose products are exact, and a
    correction: their rounding errors would otherwise be multiplied by a**2 and by about 3. From
    ``farthest`` on the exponential is flushed to 0.
    """
    zero, one, two, three, six = f.constants((0.0, 1.0, 2.0, 3.0, 6.0))
    farthest = f.number(((f.bias - 1) * float(np.log(2.0))) ** 0.5)
    coefficients = f.constants(f.erfc_scaled)
    expm1_halves = _expm1_halves(f)

    def erfc(x: Scalar) -> Scalar:
        a = abs(x)
        a = _select(a > farthest, farthest, a)
        leading = _leading_half(a)
        growth, h = expm1_halves(-(leading * leading), (a - leading) * (a + leading))
        divisor = a + three
        leading = _leading_half(divisor)
        rest = (divisor - leading) + (a - (divisor - three))
        quotient = one / divisor
        short = _leading_half(quotient)
        correction = quotient * ((one - short * leading) - short * rest)
        factor = _polynomial((one - six * short) - six * correction, coefficients)
        scaled = two * (factor * short + factor * correction)
        tail = growth * scaled + h * scaled
        return _select(x < zero, two - tail, tail)

    return erfc


def _implemented_by(
    build: Callable[[_Format], Callable[[Scalar], Scalar]],
) -> Callable[[Callable[[Scalar], Scalar]], Callable[[Scalar], Scalar]]:
    """Let compiled callers of a function have what ``build`` returns for the argument's type."""

    def register(function: Callable[[Scalar], Scalar]) -> Callable[[Scalar], Scalar]:
        @_overload(function, jit_options=dict(_OPTIONS))
        def choose(x: Scalar) -> Callable[[Scalar], Scalar] | None:
            return build(_FORMATS[x.bitwidth]) if x in (types.float32, types.float64) else None

        return function

    return register


def _interpreted() -> TypeError:
    return TypeError("This function is called from functions compiled by Numba only.")


@_implemented_by(_build_exp)
def exp(x: Scalar) -> Scalar:
    """Return e**x: infinite above the largest number, 0 below the smallest normal one."""
    raise _interpreted()


@_implemented_by(_build_expm1)
def expm1(x: Scalar) -> Scalar:
    """Return e**x - 1, without cancellation around 0."""
    raise _interpreted()


@_implemented_by(_build_log)
def log(x: Scalar) -> Scalar:
    """Return the natural logarithm: -infinity at 0, NaN below."""
    raise _interpreted()


@_implemented_by(_build_log1p)
def log1p(x: Scalar) -> Scalar:
    """Return log(1 + x), without cancellation around 0: -infinity at -1, NaN below."""
    raise _interpreted()


@_implemented_by(_build_tanh)
def tanh(x: Scalar) -> Scalar:
    """Return the hyperbolic tangent."""
    raise _interpreted()


@_implemented_by(_build_logistic)
def logistic(x: Scalar) -> Scalar:
    """Return 1 / (1 + e**-x), to the same relative accuracy in both tails."""
    raise _interpreted()


@_implemented_by(_build_erfc)
def erfc(x: Scalar) -> Scalar:
    """Return the complementary error function, to the same relative accuracy in both tails."""
    raise _interpreted()
