"""Conversions between types, against Python's numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest

from .exact import rounded

NAN, INF = np.nan, np.inf
DTYPES = {
    "f16": "f2",
    "f32": "f4",
    "f64": "f8",
    "s8": "i1",
    "u8": "u1",
    "s16": "i2",
    "u16": "u2",
    "s32": "i4",
    "u32": "u4",
    "s64": "i8",
    "u64": "u8",
}
FLOATS = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -1.5,
    -2.5,
    0.49999997,
    3.7,
    -3.7,
    127.5,
    255.5,
    3e4,
    2147483647.0,
    -2147483648.0,
    4294967296.0,
    9.3e18,
    -9.3e18,
    1.9e19,
    1e30,
    -1e30,
    INF,
    -INF,
    NAN,
]
TO_INTEGER = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


def to_integer(value: float, mode: str, source: str, result: str) -> int:
    limits = np.iinfo(DTYPES[result])
    if math.isnan(value):
        wide = source == "f64" or result in ("s64", "u64")
        bits = 1 << (int(result[1:]) - 1)
        return 0 if not wide else (-bits if result[0] == "s" else bits)
    if math.isinf(value):
        return int(limits.max if value > 0 else limits.min)
    return min(max(TO_INTEGER[mode](value), int(limits.min)), int(limits.max))


@pytest.mark.parametrize("mode", TO_INTEGER)
@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("result", ["s32", "u32", "s64", "u64", "s16", "u8"])
def test_to_integers(device, source, result, mode):
    with np.errstate(over="ignore"):
        a = np.array(FLOATS, DTYPES[source])
    wide = "i4" if result in ("s16", "u8") else DTYPES[result]
    found = device.compute(f"cvt.{mode}.{result}.{source} d, a;", a, out=wide)
    assert found.tolist() == [to_integer(x, mode, source, result) for x in a.tolist()]


def test_subnormal_numbers_are_flushed_before_they_are_rounded(device):
    a = np.array([1e-40, 2e-38], "f4")
    assert device.compute("cvt.rpi.ftz.s32.f32 d, a;", a, out="i4").tolist() == [0, 1]
    assert device.compute("cvt.rpi.s32.f32 d, a;", a, out="i4").tolist() == [1, 1]
    assert device.compute("cvt.ftz.f64.f32 d, a;", a, out="f8").tolist() == [0, float(a[1])]


@pytest.mark.parametrize("result", ["f32", "f64", "f16"])
@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64"])
def test_from_integers(device, source, result):
    limits = np.iinfo(DTYPES[source])
    values = [0, 1, 2**24 + 1, 2**24 + 3, limits.max, limits.min, limits.max - 1, 65504, 65520]
    values += [2**53 + 1, 2**63 + 2**10, 2**63 - 513, 2**39 + 2**15 + 1, -3]
    values = [v for v in values if limits.min <= v <= limits.max]
    found = device.compute(
        f"cvt.rn.{result}.{source} d, a;", np.array(values, DTYPES[source]), out=DTYPES[result]
    )
    want = [rounded(Fraction(v), DTYPES[result]) for v in values]
    assert found.tolist() == want


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_narrower_floating_point_numbers(device, mode):
    generator = np.random.default_rng(5)
    a = generator.normal(size=200) * 10.0 ** generator.integers(-9, 9, 200)
    a[:4] = [1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-24 * 1.5, -65519.99]
    for source, result in (("f64", "f32"), ("f64", "f16"), ("f32", "f16")):
        values = a.astype(DTYPES[source])
        found = device.compute(f"cvt.{mode}.{result}.{source} d, a;", values, out=DTYPES[result])
        want = [rounded(Fraction(x), DTYPES[result], mode) for x in values.tolist()]
        assert found.tolist() == want


def test_halves_to_single_precision_and_back(device):
    bits = np.arange(0, 2**16, 67, dtype="u2")
    for at in range(0, bits.size, 1000):
        halves = bits[at : at + 1000]
        wide = device.compute("cvt.f32.f16 d, a;", halves.view("f2"), out="f4")
        assert np.array_equal(wide, halves.view("f2").astype("f4"), equal_nan=True)
        back = device.compute("cvt.rn.f16.f32 d, a;", wide, out="f2")
        assert np.array_equal(back, halves.view("f2"), equal_nan=True)


def test_bfloat16(device):
    a = np.array([1, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3e38, 3.4e38, 1e-40, -2.5, INF], "f4")
    found = device.compute("cvt.rn.bf16.f32 d, a;", a, out="u2")
    wide = (found.astype("u4") << 16).view("f4")
    want = []
    for x in a.tolist():
        unit = math.ldexp(1, max(math.frexp(x)[1] - 8, -133)) if math.isfinite(x) else 0
        value = round(Fraction(x) / Fraction(unit)) * Fraction(unit) if unit else x
        want.append(INF if value >= 2**128 else float(value))
    assert wide.tolist() == want
    assert np.isnan(
        (
            device.compute("cvt.rn.bf16.f32 d, a;", np.float32(NAN), out="u2").astype("u4") << 16
        ).view("f4")
    )[0]
    back = device.compute("cvt.f32.bf16 d, a;", found, out="f4")
    assert np.array_equal(back, wide)


def test_rounding_to_integral_floats(device):
    a = np.array([0.5, 1.5, -0.5, -1.2, 2.7, INF, NAN], "f4")
    for mode, function in (
        ("rni", np.rint),
        ("rzi", np.trunc),
        ("rmi", np.floor),
        ("rpi", np.ceil),
    ):
        found = device.compute(f"cvt.{mode}.f32.f32 d, a;", a, out="f4")
        assert np.array_equal(found, function(a), equal_nan=True)
        assert np.array_equal(np.signbit(found), np.signbit(function(a)))


def test_saturated_floats(device):
    a = np.array([-1, 0.5, 2, NAN], "f4")
    assert device.compute("cvt.sat.f32.f32 d, a;", a, out="f4").tolist() == [0, 0.5, 1, 0]
    assert device.compute("cvt.ftz.sat.f32.f32 d, a;", a, out="f4").tolist() == [0, 0.5, 1, 0]


def test_integers_of_other_widths(device):
    a = np.array([-1, 300, 127, -129], "i4")
    assert device.compute("cvt.s64.s32 d, a;", a, out="i8").tolist() == a.tolist()
    assert device.compute("cvt.u64.u32 d, a;", a, out="u8").tolist() == [
        2**32 - 1,
        300,
        127,
        2**32 - 129,
    ]
    assert device.compute("cvt.s8.s32 d, a;", a, out="i4").tolist() == [-1, 44, 127, 127]
    assert device.compute("cvt.u8.u32 d, a;", a, out="u4").tolist() == [255, 44, 127, 127]
    assert device.compute("cvt.sat.s8.s32 d, a;", a, out="i4").tolist() == [-1, 127, 127, -128]
    assert device.compute("cvt.sat.u8.s32 d, a;", a, out="u4").tolist() == [0, 255, 127, 0]
    assert device.compute("cvt.u16.s32 d, a;", a, out="u2").tolist() == [
        65535,
        300,
        127,
        65536 - 129,
    ]
