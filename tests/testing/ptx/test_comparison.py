"""Comparisons and selections."""

import operator

import numpy as np
import pytest

NAN = np.nan
ORDER = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
VALUES = [-1.5, -0.0, 0.0, 2.0, NAN, np.inf, -np.inf]


def compared(device, opcode, a, b):
    return device.compute(f"{opcode} p, a, b; selp.u32 d, 1, 0, p;", a, b, out="u4").tolist()


@pytest.mark.parametrize(("kind", "dtype"), [("f32", "f4"), ("f64", "f8")])
@pytest.mark.parametrize("name", ORDER)
def test_floating_point_order(device, name, kind, dtype):
    a, b = (x.ravel() for x in np.meshgrid(np.array(VALUES, dtype), np.array(VALUES, dtype)))
    rows = list(zip(a.tolist(), b.tolist(), strict=True))
    unordered = [x != x or y != y for x, y in rows]
    held = [ORDER[name](x, y) for x, y in rows]
    want = [h and not u for h, u in zip(held, unordered, strict=True)]
    assert compared(device, f"setp.{name}.{kind}", a, b) == want
    want = [h or u for h, u in zip(held, unordered, strict=True)]
    assert compared(device, f"setp.{name}u.{kind}", a, b) == want


def test_nan_is_recognised(device):
    a, b = np.array([1, NAN, 1], "f4"), np.array([2, 2, NAN], "f4")
    assert compared(device, "setp.num.f32", a, b) == [1, 0, 0]
    assert compared(device, "setp.nan.f32", a, b) == [0, 1, 1]


def test_flushed_values_are_compared(device):
    a, b = np.array([1e-40, 1e-40], "f4"), np.array([0, -1e-41], "f4")
    assert compared(device, "setp.eq.ftz.f32", a, b) == [1, 1]
    assert compared(device, "setp.eq.f32", a, b) == [0, 0]


@pytest.mark.parametrize("name", ORDER)
def test_integer_order_depends_on_the_sign(device, name):
    a, b = np.array([2**31, 1, 5, 0], "u4"), np.array([1, 2**31, 5, 1], "u4")
    for kind, view in (("u32", "u4"), ("s32", "i4")):
        want = [
            ORDER[name](x, y)
            for x, y in zip(a.view(view).tolist(), b.view(view).tolist(), strict=True)
        ]
        assert compared(device, f"setp.{name}.{kind}", a, b) == want


def test_unsigned_names(device):
    a, b = np.array([2**31, 1, 5], "u4"), np.array([1, 2**31, 5], "u4")
    assert compared(device, "setp.lo.b32", a, b) == [0, 1, 0]
    assert compared(device, "setp.hs.b32", a, b) == [1, 0, 1]


@pytest.mark.parametrize(
    ("combination", "want"), [("and", [0, 0, 0, 1]), ("or", [0, 1, 1, 1]), ("xor", [0, 1, 1, 0])]
)
def test_results_are_combined(device, combination, want):
    a, b = np.array([0, 0, 1, 1], "u4"), np.array([0, 1, 0, 1], "u4")
    code = f"setp.ne.u32 q, b, 0; setp.eq.{combination}.u32 p, a, 1, q; selp.u32 d, 1, 0, p;"
    assert device.compute(code, a, b, out="u4").tolist() == want
    negated = code.replace("setp.ne.u32 q", "setp.eq.u32 q").replace("1, q;", "1, !q;")
    assert device.compute(negated, a, b, out="u4").tolist() == want


def test_comparisons_as_numbers(device):
    a, b = np.array([1, 2], "f4"), np.array([2, 1], "f4")
    assert device.compute("set.lt.f32.f32 d, a, b;", a, b, out="f4").tolist() == [1, 0]
    assert device.compute("set.lt.u32.f32 d, a, b;", a, b, out="u4").tolist() == [2**32 - 1, 0]


def test_selections(device):
    a, b = np.array([1, 2, 3], "f8"), np.array([4, 5, 6], "f8")
    c = np.array([-1, 0, 1], "i4")
    code = "setp.ge.s32 p, c, 0; selp.f64 d, a, b, p;"
    assert device.compute(code, a, b, c, out="f8").tolist() == [4, 2, 3]
    assert device.compute("slct.f64.s32 d, a, b, c;", a, b, c, out="f8").tolist() == [4, 2, 3]


def test_a_selection_may_overwrite_its_source(device):
    a, b = np.array([1, 2], "u4"), np.array([4, 5], "u4")
    code = "setp.gt.u32 p, a, 1; selp.b32 a, b, a, p; mov.b32 d, a;"
    assert device.compute(code, a, b, out="u4").tolist() == [1, 5]
