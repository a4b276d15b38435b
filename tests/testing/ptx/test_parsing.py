"""From text to kernels."""

import numpy as np
import pytest

from nnkernels.testing.ptx import Fault, Kind, Module
from nnkernels.testing.ptx.parsing import (
    Address,
    Immediate,
    Instruction,
    Register,
    Symbol,
    Vector,
    literal,
)

from .conftest import entry

TWO = """// a comment with { a brace
.version 8.0
.target sm_80
.visible .global .align 4 .u32 counter = 7;
/* .visible .entry hidden() { } */
.visible .entry first(.param .u64 a, .param .align 8 .b8 b[24], .param .f32 c)
.maxntid 64, 2, 1
.minnctapersm 2
{ .shared .align 16 .b8 x[40]; .shared .f64 y; ret; }
.func helper() { ret; }
.visible .entry second() { frobnicate; }
"""


def test_a_module_lists_its_kernels():
    module = Module(TWO)
    assert module.kernels == ("first", "second") == tuple(module) and len(module) == 2
    first = module["first"]
    assert [(p.name, p.type, p.offset, p.size) for p in first.params] == [
        ("a", "u64", 0, 8),
        ("b", "b8", 8, 24),
        ("c", "f32", 32, 4),
    ]
    assert first.maxntid == 128 and first.shared_size == 48
    assert module["second"].maxntid == 1024 and module["second"].params == ()
    with pytest.raises(KeyError, match="first, second"):
        module["third"]


def test_a_body_is_read_when_it_is_needed():
    module = Module(entry("ret; mov.u32 a, b"))
    kernel = module["k"]
    with pytest.raises(Fault) as caught:
        _ = kernel.code
    assert caught.value.kind is Kind.MALFORMED


BODY = """
        .reg .pred %p<3>; .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .f32 %f<9>;
    $L: @!%p1 ld.global.v2.f32 {%f1, _}, [%rd1+-8];
        shfl.sync.idx.b32 %r1|%p2, %r2, 0x1F, %r3, -1;
        { .reg .b32 %r1; mov.b32 %r1, 0f3F800000; }
        @%p2 bra $L; st.shared.u32 [%r1], %r2; ret;"""


def test_instructions():
    code = Module(entry(BODY))["k"].code
    load, shuffle, inner, branch, store, end = code.instructions
    assert load == Instruction(
        load.text,
        "ld",
        ("global", "v2", "f32"),
        (Vector((Register("%f1"), None)), Address(Register("%rd1"), -8)),
        Register("%p1", negated=True),
    )
    assert load.type == "f32" and load.text.startswith("@!%p1 ld.global")
    assert shuffle.operands == (
        Vector((Register("%r1"), Register("%p2"))),
        Register("%r2"),
        Immediate("0x1F"),
        Register("%r3"),
        Immediate("-1"),
    )
    assert inner.operands[0] != Register("%r1")
    assert inner.operands[1] == Immediate("0f3F800000")
    assert branch.operands == (Symbol("$L"),) and branch.guard == Register("%p2")
    assert store.operands[0] == Address(Register("%r1"), 0)
    assert end.operands == () and code.labels == {"$L": 0}


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("12", "i4", 12),
        ("-1", "u4", 2**32 - 1),
        ("0x1F", "u8", 31),
        ("017", "i4", 15),
        ("0f3FC00000", "f4", 1.5),
        ("0dBFF8000000000000", "f8", -1.5),
        ("0f3F800000", "u4", 0x3F800000),
        ("0b101", "i2", 5),
        ("7U", "u4", 7),
        ("1", "?", True),
        ("0", "?", False),
        ("2.5", "f8", 2.5),
        ("0f3FC00000", "f8", 1.5),
    ],
)
def test_literals(text, dtype, value):
    found = literal(text, np.dtype(dtype))
    assert found.tolist() == [value] and found.dtype == dtype


def test_recursion_is_refused():
    text = entry("call.uni f; ret;", before=".func f() { call.uni f; ret; }")
    with pytest.raises(Fault, match="recursive"):
        _ = Module(text)["k"].code
