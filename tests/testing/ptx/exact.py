"""Rounding of fractions to floating-point types, bit by bit: what arithmetic is tested against."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

FORMATS = {"f2": (11, -14, 15), "f4": (24, -126, 127), "f8": (53, -1022, 1023)}
"""Bits of the significand, least and greatest exponent of normal numbers."""


def rounded(exact: Fraction, dtype: str, mode: str = "rn", *, ftz: bool = False) -> float:
    """``exact`` in a type; modes as in PTX. Zero loses its sign; the caller looks after that."""
    if not exact:
        return 0.0
    digits, least, greatest = FORMATS[dtype]
    sign, size = (-1 if exact < 0 else 1), abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - digits + 1)
    count = _whole(size / unit, mode, sign)
    value = count * unit
    if value >= Fraction(2) ** (greatest + 1):
        away = mode == "rn" or ((mode == "rp") == (sign > 0) and mode != "rz")
        return sign * (math.inf if away else float(np.finfo(dtype).max))
    if ftz and value < Fraction(2) ** least:
        return math.copysign(0.0, sign)
    return sign * float(value)


def _whole(ratio: Fraction, mode: str, sign: int) -> int:
    down = ratio.numerator // ratio.denominator
    rest = ratio - down
    if mode == "rn":
        return down + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down % 2 == 1))
    return down + (rest > 0 and mode == ("rp" if sign > 0 else "rm"))
