"""Floating-point arithmetic against fractions that are rounded once."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from .exact import rounded

INF, NAN = np.inf, np.nan
SETTINGS = settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
KINDS = {"f4": "f32", "f8": "f64", "f2": "f16"}
TINY = {"f4": 2.0**-126, "f8": 2.0**-1022}


def floats(dtype: str):
    width = 8 * int(dtype[1])
    wide = st.floats(width=width, allow_nan=False, allow_infinity=False)
    near = st.integers(-(2**10), 2**10).map(lambda n: n / 2.0**6)
    return st.one_of(wide, near)


def columns(dtype: str, count: int):
    return st.tuples(*(hnp.arrays(dtype, 32, elements=floats(dtype)) for _ in range(count)))


EXACT = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: a * b + c,
}


def expected(name, rows, dtype, mode, ftz=False):
    values = [EXACT[name](*map(Fraction, row)) for row in rows]
    return np.array([rounded(v, dtype, mode, ftz=ftz) for v in values], dtype)


def rows_of(arrays):
    return list(zip(*(a.tolist() for a in arrays), strict=True))


def flush(array):
    return np.where(np.abs(array) < TINY["f4"], np.copysign(np.float32(0), array), array)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", EXACT)
def test_arithmetic_is_rounded_once(device, name, dtype, mode):
    operands = "a, b, c" if name == "fma" else "a, b"

    @SETTINGS
    @given(columns(dtype, 3 if name == "fma" else 2))
    def check(arrays):
        code = f"{name}.{mode}.{KINDS[dtype]} d, {operands};"
        found = device.compute(code, *arrays, out=dtype)
        assert np.array_equal(found, expected(name, rows_of(arrays), dtype, mode))

    check()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_fused_product_at_a_tie_is_rounded_once(device, dtype):
    """Sums whose first rounding lands on a tie that the exact value misses."""
    digits = {"f4": 24, "f8": 53}[dtype]
    one = 1 + 2.0 ** (1 - digits)
    a = np.array([one, one, one, -one, 1.0, 2.0**-600 if dtype == "f8" else 2.0**-70], dtype)
    b = np.array([one, 1 - 2.0**-digits, one, one, 2.0**-digits, a[5]], dtype)
    c = np.array([2.0 ** -(digits - 1), 2.0**-digits, -1, 1, 1.0, 1.0], dtype)
    found = device.compute(f"fma.rn.{KINDS[dtype]} d, a, b, c;", a, b, c, out=dtype)
    assert np.array_equal(found, expected("fma", rows_of((a, b, c)), dtype, "rn"))


def test_a_double_rounding_that_float64_alone_gets_wrong(device):
    a, b, c = np.float32(1 + 2.0**-12), np.float32(1 + 2.0**-12), np.float32(2.0**-60)
    naive = np.float32(np.float64(a) * b + np.float64(c))
    exact = np.float32(rounded(Fraction(float(a)) ** 2 + Fraction(float(c)), "f4"))
    assert naive != exact
    assert device.compute("fma.rn.f32 d, a, b, c;", a, b, c, out="f4").tolist() == [exact]
    assert device.compute("fma.rn.ftz.f32 d, a, b, c;", a, b, c, out="f4").tolist() == [exact]


@pytest.mark.parametrize("name", EXACT)
def test_subnormal_numbers_are_flushed(device, name):
    operands = "a, b, c" if name == "fma" else "a, b"
    small = st.integers(-(2**24), 2**24).map(lambda n: np.float32(n * 2.0**-149))
    scale = st.sampled_from([1.0, -1.0, 0.5, 2.0**-20, 2.0**20])
    elements = st.one_of(small, scale)
    count = 3 if name == "fma" else 2
    arrays = st.tuples(*(hnp.arrays("f4", 16, elements=elements) for _ in range(count)))

    @SETTINGS
    @given(arrays)
    def check(arrays):
        found = device.compute(
            f"{name}.ftz.f32 d, {operands};" if name != "fma" else f"fma.rn.ftz.f32 d, {operands};",
            *arrays,
            out="f4",
        )
        rows = rows_of([flush(a) for a in arrays])
        assert np.array_equal(found, expected(name, rows, "f4", "rn", ftz=True))
        assert np.array_equal(
            np.signbit(found) & (found != 0), expected(name, rows, "f4", "rn", ftz=True) < 0
        )

    check()


def test_flushing_keeps_the_sign_and_only_where_it_is_asked_for(device):
    a = np.array([-1e-39, 1e-39, -1e-39], "f4")
    found = device.compute("mul.ftz.f32 d, a, 0f3F800000;", a, out="f4")
    assert found.tolist() == [0, 0, 0] and np.signbit(found).tolist() == [True, False, True]
    assert np.array_equal(device.compute("mul.f32 d, a, 0f3F800000;", a, out="f4"), a)
    half = np.array([1.5e-38, -1.5e-38, 1e-30], "f4")
    found = device.compute("mul.ftz.f32 d, a, 0f3F000000;", half, out="f4")
    assert found.tolist() == [0, 0, np.float32(5e-31)]
    assert np.signbit(found).tolist() == [False, True, False]


def test_a_value_that_went_through_a_move_is_flushed_too(device):
    """Flushing is skipped only where a register cannot hold a subnormal number."""
    code = """{.reg .f32 m; mov.b32 m, a; add.ftz.f32 d, m, 0f00000000;
              @p mov.b32 m, b;}"""
    bits = np.array([1, 0x8000_0001, 0x3F80_0000], "u4")
    code = "setp.eq.u32 p, a, 1; " + code
    found = device.compute(code, bits, bits, out="f4")
    assert found.tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_quotients_and_roots_are_rounded_correctly(device, dtype):
    kind = KINDS[dtype]

    @SETTINGS
    @given(columns(dtype, 2))
    def check(arrays):
        a, b = arrays
        b = np.where(b == 0, 1, b).astype(dtype)
        found = device.compute(f"div.rn.{kind} d, a, b;", a, b, out=dtype)
        rows = rows_of((a, b))
        want = [rounded(Fraction(x) / Fraction(y), dtype) for x, y in rows]
        assert np.array_equal(found, np.array(want, dtype))
        found = device.compute(f"rcp.rn.{kind} d, a;", b, out=dtype)
        want = [rounded(1 / Fraction(y), dtype) for y in b.tolist()]
        assert np.array_equal(found, np.array(want, dtype))

    check()
    a = np.array([2, 3, 1e-30, 7e30, 0.1], dtype)
    root = device.compute(f"sqrt.rn.{kind} d, a;", a, out=dtype).tolist()
    for x, y in zip(a.tolist(), root, strict=True):
        gap = Fraction(float(np.spacing(np.array(y, dtype)))) / 2
        assert (Fraction(y) - gap) ** 2 <= Fraction(x) <= (Fraction(y) + gap) ** 2


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_special_values(device, kind):
    dtype = {"f32": "f4", "f64": "f8"}[kind]
    a = np.array([INF, INF, 0.0, NAN, -INF, 0.0], dtype)
    b = np.array([-INF, INF, INF, 1.0, 1.0, 0.0], dtype)
    cases = {
        f"add.{kind}": [NAN, INF, INF, NAN, -INF, 0],
        f"mul.{kind}": [-INF, INF, NAN, NAN, -INF, 0],
        f"div.rn.{kind}": [NAN, NAN, 0, NAN, -INF, NAN],
    }
    for opcode, want in cases.items():
        found = device.compute(f"{opcode} d, a, b;", a, b, out=dtype)
        assert np.array_equal(found, np.array(want, dtype), equal_nan=True)
    found = device.compute(f"fma.rn.{kind} d, a, b, c;", a, b, a, out=dtype)
    assert np.array_equal(found, np.array([NAN, INF, NAN, NAN, -INF, 0], dtype), equal_nan=True)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_extremes_ignore_nan_and_order_zeros(device, dtype):
    kind = KINDS[dtype]
    a = np.array([1, NAN, 2, NAN, -0.0, 0.0, -INF], dtype)
    b = np.array([2, 3, NAN, NAN, 0.0, -0.0, INF], dtype)
    low = device.compute(f"min.{kind} d, a, b;", a, b, out=dtype)
    high = device.compute(f"max.{kind} d, a, b;", a, b, out=dtype)
    assert np.array_equal(low, [1, 3, 2, NAN, 0, 0, -INF], equal_nan=True)
    assert np.array_equal(high, [2, 3, 2, NAN, 0, 0, INF], equal_nan=True)
    assert np.signbit(low[4:6]).tolist() == [True, True]
    assert np.signbit(high[4:6]).tolist() == [False, False]
    if dtype == "f4":
        found = device.compute("max.NaN.f32 d, a, b;", a, b, out=dtype)
        assert np.isnan(found).tolist() == [False, True, True, True, False, False, False]


def test_saturation(device):
    a = np.array([-2, -0.0, 0.25, 1, 7, NAN, INF], "f4")
    found = device.compute("add.sat.f32 d, a, 0f00000000;", a, out="f4")
    assert found.tolist() == [0, 0, 0.25, 1, 1, 0, 1] and not np.signbit(found).any()


def test_signs(device):
    a = np.array([1.5, -0.0, -INF, 1e-40], "f4")
    assert device.compute("neg.f32 d, a;", a, out="f4").tolist() == (-a).tolist()
    assert device.compute("abs.ftz.f32 d, a;", a, out="f4").tolist() == [1.5, 0, INF, 0]
    sign = np.array([-1, 1, 1, -2], "f4")
    found = device.compute("copysign.f32 d, b, a;", a, sign, out="f4")
    assert np.array_equal(np.signbit(found), np.signbit(sign))
    assert np.array_equal(np.abs(found), np.abs(a))


def test_classes(device):
    a = np.array([1, 0, 1e-40, INF, NAN], "f4")
    want = {
        "finite": [1, 1, 1, 0, 0],
        "infinite": [0, 0, 0, 1, 0],
        "number": [1, 1, 1, 1, 0],
        "notanumber": [0, 0, 0, 0, 1],
        "normal": [1, 0, 0, 0, 0],
        "subnormal": [0, 0, 1, 0, 0],
    }
    for name, held in want.items():
        code = f"testp.{name}.f32 p, a; selp.u32 d, 1, 0, p;"
        assert device.compute(code, a, out="u4").tolist() == held


APPROXIMATE = {
    "rcp.approx.ftz.f32": lambda x: 1 / x,
    "sqrt.approx.ftz.f32": np.sqrt,
    "rsqrt.approx.ftz.f32": lambda x: 1 / np.sqrt(x),
    "ex2.approx.ftz.f32": np.exp2,
    "lg2.approx.ftz.f32": np.log2,
    "sin.approx.ftz.f32": np.sin,
    "cos.approx.ftz.f32": np.cos,
    "tanh.approx.f32": np.tanh,
}


@pytest.mark.parametrize("opcode", APPROXIMATE)
def test_approximations_are_near_and_noise_moves_them_a_little(device, opcode):
    a = np.linspace(0.1, 5, 500, dtype="f4")
    want = APPROXIMATE[opcode](a.astype("f8")).astype("f4")
    exact = device.compute(f"{opcode} d, a;", a, out="f4")
    assert np.array_equal(exact, want)
    moved = device.compute(f"{opcode} d, a;", a, out="f4", noise=np.random.default_rng(3))
    steps = moved.view("i4").astype("i8") - want.view("i4")
    assert set(steps.tolist()) == {-2, -1, 0, 1, 2}


def test_noise_leaves_exact_instructions_and_special_values_alone(device):
    a = np.array([0.0, INF, NAN, -0.0], "f4")
    generator = np.random.default_rng(0)
    found = device.compute("rcp.approx.f32 d, a;", a, out="f4", noise=generator)
    assert np.array_equal(found, [INF, 0, NAN, -INF], equal_nan=True)
    found = device.compute("div.rn.f32 d, a, 0f40400000;", np.float32(1), out="f4", noise=generator)
    assert found.tolist() == [np.float32(1) / np.float32(3)]


def test_coarse_reciprocals_of_float64(device):
    a = np.array([3, -0.7, 1e300, 5e-310, INF], "f8")
    found = device.compute("rcp.approx.ftz.f64 d, a;", a, out="f8")
    assert (found.view("u8") & 0xFFFF_FFFF == 0).all()
    np.testing.assert_allclose(found[:3], 1 / a[:3], rtol=2**-20)
    assert found[3:].tolist() == [INF, 0]
    found = device.compute("rsqrt.approx.ftz.f64 d, a;", np.array([3.0]), out="f8")
    np.testing.assert_allclose(found, 3**-0.5, rtol=2**-20)


def test_quick_quotients_lose_large_divisors(device):
    a, b = np.array([1e38, 1e38, 3], "f4"), np.array([1e38, 2, 7], "f4")
    found = device.compute("div.approx.f32 d, a, b;", a, b, out="f4")
    assert found.tolist() == [0, np.float32(5e37), np.float32(3 / 7)]
    found = device.compute("div.full.f32 d, a, b;", a, b, out="f4")
    assert found.tolist() == [1, np.float32(5e37), np.float32(3 / 7)]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_fused_products_of_numbers_that_nearly_cancel(device, dtype):
    generator = np.random.default_rng(11)
    a, b = generator.normal(size=(2, 900)).astype(dtype)
    digits = {"f4": 24, "f8": 53}[dtype]
    near = 2.0 ** generator.integers(-digits - 3, 3, 900)
    c = (-(a.astype("f8") * b) * (1 + generator.choice([0, 1, -1], 900) * near)).astype(dtype)
    found = device.compute(f"fma.rn.{KINDS[dtype]} d, a, b, c;", a, b, c, out=dtype)
    assert np.array_equal(found, expected("fma", rows_of((a, b, c)), dtype, "rn"))


HALVES = st.tuples(*(hnp.arrays("u2", 32, elements=st.integers(0, 0xFFFF)) for _ in range(3)))


@SETTINGS
@given(HALVES)
@example((np.full(32, 0x2E66, "u2"), np.full(32, 0x34CD, "u2"), np.full(32, 0x399A, "u2")))
def test_halves_are_rounded_once(device, bits):
    arrays = [np.where(np.isfinite(b.view("f2")), b.view("f2"), 1).astype("f2") for b in bits]
    for name in EXACT:
        used = arrays if name == "fma" else arrays[:2]
        operands = "a, b, c" if name == "fma" else "a, b"
        mode = ".rn" if name == "fma" else ""
        found = device.compute(f"{name}{mode}.f16 d, {operands};", *used, out="f2")
        assert np.array_equal(found, expected(name, rows_of(used), "f2", "rn"))
