"""Integer and bitwise instructions against Python's integers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

TYPES = {"s32": "i4", "u32": "u4", "s64": "i8", "u64": "u8"}
CORNERS = [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
CORNERS += [2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 0x0123_4567_89AB_CDEF]


def wrapped(value: int, kind: str) -> int:
    bits = int(kind[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def corners(kind: str):
    values = sorted({wrapped(v, kind) for v in CORNERS})
    return np.array(values, TYPES[kind])


def pairs(kind: str):
    a, b = np.meshgrid(corners(kind), corners(kind))
    return a.ravel()[:1024], b.ravel()[:1024]


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


TWO = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", TWO)
def test_two_values(device, name, kind):
    a, b = pairs(kind)
    found = device.compute(f"{name}.{kind} d, a, b;", a, b, out=TYPES[kind])
    want = [wrapped(TWO[name](x, y), kind) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert found.tolist() == want


@pytest.mark.parametrize("kind", TYPES)
def test_quotient_and_remainder_round_towards_zero(device, kind):
    a, b = pairs(kind)
    a, b = a[b != 0], b[b != 0]
    rows = list(zip(a.tolist(), b.tolist(), strict=True))
    found = device.compute(f"div.{kind} d, a, b;", a, b, out=TYPES[kind])
    assert found.tolist() == [wrapped(truncated(x, y), kind) for x, y in rows]
    found = device.compute(f"rem.{kind} d, a, b;", a, b, out=TYPES[kind])
    assert found.tolist() == [wrapped(x - y * truncated(x, y), kind) for x, y in rows]


@pytest.mark.parametrize("kind", TYPES)
def test_upper_half_of_a_product(device, kind):
    a, b = pairs(kind)
    found = device.compute(f"mul.hi.{kind} d, a, b;", a, b, out=TYPES[kind])
    bits = int(kind[1:])
    want = [wrapped(x * y >> bits, kind) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert found.tolist() == want


@pytest.mark.parametrize(("kind", "wide"), [("s32", "i8"), ("u32", "u8"), ("s16", "i4")])
def test_wide_products(device, kind, wide):
    dtype = {"s16": "i2"}.get(kind) or TYPES[kind]
    limits = np.iinfo(dtype)
    a = np.array([limits.min, limits.max, 3, limits.max], dtype)
    b = np.array([limits.max, limits.max, 5, limits.min], dtype)
    found = device.compute(f"mul.wide.{kind} d, a, b;", a, b, out=wide)
    assert found.tolist() == [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    c = np.array([1, -1, 7, 9]).astype(wide)
    found = device.compute(f"mad.wide.{kind} d, a, b, c;", a, b, c, out=wide)
    want = [int(x) * int(y) + int(z) for x, y, z in zip(a, b, c, strict=True)]
    assert found.tolist() == [wrapped(v, f"{kind[0]}{8 * np.dtype(wide).itemsize}") for v in want]


@pytest.mark.parametrize("kind", TYPES)
def test_product_and_sum(device, kind):
    a, b = pairs(kind)
    c = np.resize(corners(kind)[::-1], a.size)
    for half, shift in (("lo", 0), ("hi", int(kind[1:]))):
        found = device.compute(f"mad.{half}.{kind} d, a, b, c;", a, b, c, out=TYPES[kind])
        rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
        assert found.tolist() == [wrapped((x * y >> shift) + z, kind) for x, y, z in rows]


@pytest.mark.parametrize("kind", ["s32", "s64"])
def test_signs(device, kind):
    a = corners(kind)
    found = device.compute(f"neg.{kind} d, a;", a, out=TYPES[kind])
    assert found.tolist() == [wrapped(-x, kind) for x in a.tolist()]
    found = device.compute(f"abs.{kind} d, a;", a, out=TYPES[kind])
    assert found.tolist() == [wrapped(abs(x), kind) for x in a.tolist()]


@pytest.mark.parametrize("kind", TYPES)
def test_bits(device, kind):
    a, b = pairs(kind)
    name = kind.replace("s", "b").replace("u", "b")
    for opcode, function in (
        ("and", np.bitwise_and),
        ("or", np.bitwise_or),
        ("xor", np.bitwise_xor),
    ):
        found = device.compute(f"{opcode}.{name} d, a, b;", a, b, out=TYPES[kind])
        assert np.array_equal(found, function(a, b))
    found = device.compute(f"not.{name} d, a;", a, out=TYPES[kind])
    assert found.tolist() == [~x if kind[0] == "s" else wrapped(~x, kind) for x in a.tolist()]


@pytest.mark.parametrize("kind", TYPES)
def test_shifts_clamp_the_amount(device, kind):
    bits = int(kind[1:])
    a, by = np.meshgrid(corners(kind), np.array([0, 1, 5, 31, 32, 33, 63, 64, 65, 2**31], "u4"))
    a, by = a.ravel(), by.ravel()
    found = device.compute(f"shl.b{bits} d, a, b;", a, by, out=TYPES[kind])
    rows = list(zip(a.tolist(), np.minimum(by, bits).tolist(), strict=True))
    assert found.tolist() == [wrapped(x << n, kind) for x, n in rows]
    found = device.compute(f"shr.{kind} d, a, b;", a, by, out=TYPES[kind])
    assert found.tolist() == [x >> n for x, n in rows]


def test_sixteen_bit_shifts(device):
    a = np.array([0x8001, 0x7FFF, 3], "u2")
    assert device.compute("shl.b16 d, a, 4;", a, out="u2").tolist() == [0x10, 0xFFF0, 0x30]
    by = np.array([20, 65536, 1], "u4")
    assert device.compute("shr.u16 d, a, b;", a, by, out="u2").tolist() == [0, 0, 1]
    assert device.compute("shr.s16 d, a, 15;", a, out="i2").tolist() == [-1, 0, 0]


@pytest.mark.parametrize("side", ["l", "r"])
@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts(device, side, mode):
    by = np.array([0, 1, 8, 31, 32, 33, 200], "u4")
    low, high = np.uint32(0x89AB_CDEF), np.uint32(0x0123_4567)
    found = device.compute(f"shf.{side}.{mode}.b32 d, a, b, c;", low, high, by, out="u4")
    both = int(high) << 32 | int(low)
    amounts = [n & 31 if mode == "wrap" else min(n, 32) for n in by.tolist()]
    want = [both << n >> 32 if side == "l" else both >> n for n in amounts]
    assert found.tolist() == [v & 0xFFFF_FFFF for v in want]


@pytest.mark.parametrize(("bits", "dtype"), [(32, "u4"), (64, "u8")])
def test_fields_are_inserted(device, bits, dtype):
    position, length = np.meshgrid(
        np.array([0, 3, 31, 32, 63, 70], "u4"), np.array([0, 1, 8, 32, 64, 255], "u4")
    )
    a, b = 0xDEAD_BEEF_1234_5678 & (2**bits - 1), 0x0F0F_F0F0_5555_AAAA & (2**bits - 1)
    found = device.compute(
        f"bfi.b{bits} d, a, b, c, e;",
        np.array(a, dtype),
        np.array(b, dtype),
        position.ravel(),
        length.ravel(),
        out=dtype,
    )
    want = []
    for at, size in zip(position.ravel().tolist(), length.ravel().tolist(), strict=True):
        result = b
        for n in range(size):
            if at + n < bits and n < bits:
                result = result & ~(1 << (at + n)) | ((a >> n & 1) << (at + n))
        want.append(result)
    assert found.tolist() == want


@pytest.mark.parametrize("kind", TYPES)
def test_fields_are_extracted(device, kind):
    bits = int(kind[1:])
    position, length = np.meshgrid(
        np.array([0, 3, 17, 31, 32, 63, 70], "u4"), np.array([0, 1, 8, 31, 32, 64, 255], "u4")
    )
    value = wrapped(0xDEAD_BEEF_9234_5678, kind)
    found = device.compute(
        f"bfe.{kind} d, a, b, c;",
        np.array(value, TYPES[kind]),
        position.ravel(),
        length.ravel(),
        out=TYPES[kind],
    )
    want = []
    for at, size in zip(position.ravel().tolist(), length.ravel().tolist(), strict=True):
        top = min(at + size - 1, bits - 1)
        sign = 0 if kind[0] == "u" or not size else value >> top & 1
        raw = value & (2**bits - 1)
        field = [(raw >> (at + n) & 1) if n < size and at + n < bits else sign for n in range(bits)]
        want.append(wrapped(sum(bit << n for n, bit in enumerate(field)), kind))
    assert found.tolist() == want


@pytest.mark.parametrize(("bits", "dtype"), [(32, "u4"), (64, "u8")])
def test_counts_and_positions_of_bits(device, bits, dtype):
    a = corners(f"u{bits}")
    values = a.tolist()
    assert device.compute(f"popc.b{bits} d, a;", a, out="u4").tolist() == [
        v.bit_count() for v in values
    ]
    assert device.compute(f"clz.b{bits} d, a;", a, out="u4").tolist() == [
        bits - v.bit_length() for v in values
    ]
    reverse = [int(f"{v:0{bits}b}"[::-1], 2) for v in values]
    assert device.compute(f"brev.b{bits} d, a;", a, out=dtype).tolist() == reverse
    assert device.compute(f"bfind.u{bits} d, a;", a, out="i4").tolist() == [
        v.bit_length() - 1 for v in values
    ]
    assert device.compute(f"bfind.shiftamt.u{bits} d, a;", a, out="i4").tolist() == [
        bits - v.bit_length() if v else -1 for v in values
    ]


def test_highest_bit_that_is_no_sign(device):
    a = np.array([0, -1, 1, -2, -256, 2**30, -(2**31)], "i4")
    found = device.compute("bfind.s32 d, a;", a, out="i4")
    assert found.tolist() == [-1, -1, 0, 0, 7, 30, 30]


def test_bytes_are_permuted(device):
    selector = np.array([0x3210, 0x7654, 0x0123, 0xFFFF, 0x8888, 0x4040], "u4")
    a, b = 0x8899_AABB, 0x1122_3344
    octets = [(b << 32 | a) >> 8 * n & 255 for n in range(8)]
    want = []
    for pick in selector.tolist():
        parts = [pick >> 4 * n & 15 for n in range(4)]
        values = [octets[p & 7] if p < 8 else (255 if octets[p & 7] >> 7 else 0) for p in parts]
        want.append(sum(v << 8 * n for n, v in enumerate(values)))
    found = device.compute("prmt.b32 d, a, b, c;", np.uint32(a), np.uint32(b), selector, out="u4")
    assert found.tolist() == want


@pytest.mark.parametrize("table", [0x80, 0xFE, 0x96, 0xCA, 0x00, 0xFF])
def test_any_function_of_three_bits(device, table):
    a, b, c = np.uint32(0xF0F0_F0F0), np.uint32(0xCCCC_CCCC), np.uint32(0xAAAA_AAAA)
    found = device.compute(f"lop3.b32 d, a, b, c, 0x{table:02X};", a, b, c, out="u4")
    assert found.tolist() == [table * 0x0101_0101]


def test_sum_of_absolute_differences(device):
    a, b = np.array([5, -3, -(2**31)], "i4"), np.array([7, 4, 2**31 - 1], "i4")
    found = device.compute("sad.s32 d, a, b, c;", a, b, np.uint32(10), out="u4")
    assert found.tolist() == [12, 17, (2**32 - 1 + 10) % 2**32]


def test_products_of_24_bits(device):
    a, b = np.array([0xFF00_0003, 0x00FF_FFFF], "u4"), np.array([5, 2], "u4")
    assert device.compute("mul24.lo.u32 d, a, b;", a, b, out="u4").tolist() == [15, 0x1FF_FFFE]
    assert device.compute("mul24.lo.s32 d, a, b;", a, b, out="i4").tolist() == [15, -2]
    found = device.compute("mad24.lo.s32 d, a, b, 100;", a, b, out="i4")
    assert found.tolist() == [115, 98]


WORDS = hnp.arrays(np.uint32, 8, elements=st.integers(0, 2**32 - 1))


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, WORDS)
def test_sums_with_a_carry_make_longer_sums(device, a, b):
    wide_a, wide_b = a.view("u8"), b.view("u8")
    code = """{.reg .b32 x0, x1, y0, y1; mov.b64 {x0, x1}, a; mov.b64 {y0, y1}, b;
              OP.cc.u32 x0, x0, y0; OPc.u32 x1, x1, y1; mov.b64 d, {x0, x1};}"""
    for name, want in (("add", wide_a + wide_b), ("sub", wide_a - wide_b)):
        found = device.compute(code.replace("OP", name), wide_a, wide_b, out="u8")
        assert np.array_equal(found, want)


def test_products_with_a_carry(device):
    a = np.array([0xFFFF_FFFF, 0x1234_5678, 0], "u4")
    c = np.array([0xFFFF_FFFF_FFFF_FFFF, 0x9876_5432_10FE_DCBA, 5], "u8")
    code = """{.reg .b32 c0, c1; mov.b64 {c0, c1}, b;
              mad.lo.cc.u32 c0, a, a, c0; madc.hi.u32 c1, a, a, c1; mov.b64 d, {c0, c1};}"""
    found = device.compute(code, a, c, out="u8")
    want = [(int(x) ** 2 + int(z)) % 2**64 for x, z in zip(a, c, strict=True)]
    assert found.tolist() == want


def test_predicates_combine(device):
    a = np.arange(4, dtype="u4")
    code = """{{.reg .b32 s; setp.ge.u32 p, a, 2; and.b32 s, a, 1; setp.ne.u32 q, s, 0;
              {} selp.u32 d, 1, 0, r;}}"""
    for line, want in (
        ("and.pred r, p, q;", [0, 0, 0, 1]),
        ("or.pred r, p, q;", [0, 1, 1, 1]),
        ("xor.pred r, p, q;", [0, 1, 1, 0]),
        ("not.pred r, p;", [1, 1, 0, 0]),
        ("and.pred r, p, !q;", [0, 0, 1, 0]),
        ("mov.pred r, q;", [0, 1, 0, 1]),
    ):
        assert device.compute(code.format(line), a, out="u4").tolist() == want
