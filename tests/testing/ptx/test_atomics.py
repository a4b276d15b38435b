"""Atomic operations, in the order of the threads."""

import numpy as np
import pytest

from .conftest import entry

HEAD = """.reg .b64 x, y, at; .reg .b32 t; ld.param.u64 x, [k_param_0];
          ld.param.u64 y, [k_param_1]; mov.u32 t, %tid.x;"""
OPERATIONS = {
    "add.u32": (5, lambda old, t: old + t),
    "add.s32": (-5, lambda old, t: old + t),
    "min.s32": (10, lambda old, t: min(old, t)),
    "max.u32": (10, max),
    "and.b32": (0xFF, lambda old, t: old & t),
    "or.b32": (0x100, lambda old, t: old | t),
    "xor.b32": (3, lambda old, t: old ^ t),
    "exch.b32": (77, lambda old, t: t),
    "inc.u32": (0, lambda old, t: 0 if old >= t else old + 1),
    "dec.u32": (9, lambda old, t: t if old == 0 or old > t else old - 1),
    "add.u64": (2**40, lambda old, t: old + t),
    "add.f32": (0.5, lambda old, t: old + t),
    "add.f64": (0.25, lambda old, t: old + t),
}
DTYPES = {"u32": "u4", "s32": "i4", "b32": "u4", "u64": "u8", "f32": "f4", "f64": "f8"}


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(device, name, space):
    kind = name.split(".")[1]
    dtype = DTYPES[kind]
    size = np.dtype(dtype).itemsize
    start, function = OPERATIONS[name]
    convert = {
        "u64": "cvt.u64.u32 v, t;",
        "f32": "cvt.rn.f32.u32 v, t;",
        "f64": "cvt.rn.f64.u32 v, t;",
    }.get(kind, "mov.b32 v, t;")
    register = kind.replace("s", "b").replace("u", "b")
    load = f"""setp.eq.u32 p, t, 0; @p ld.global.{kind} w, [x]; @p st.shared.{kind} [cell], w;
               bar.sync 0;"""
    where = "x" if space == "global" else "cell"
    text = entry(
        f"""{HEAD} .shared .align 8 .b8 cell[8]; .reg .{register} v, w; .reg .pred p; {convert}
        {load if space == "shared" else ""}
        atom.{space}.{name.split(".")[0]}.{kind} v, [{where}], v;
        mad.wide.u32 at, t, {size}, y; st.global.{kind} [at], v; ret;""",
        "u64 u64",
    )
    cell, olds = device.put(np.array([start], dtype)), device.empty(40, dtype)
    device.run(text, (cell, olds), 1, 40)
    value, want = start, []
    for t in range(40):
        want.append(value)
        value = function(value, t)
    assert device.get(olds, 40, dtype).tolist() == want
    if space == "global":
        assert device.get(cell, 1, dtype)[0] == value


def test_compare_and_swap(device):
    text = entry(
        f"""{HEAD} .reg .b32 v, n; add.u32 n, t, 1; atom.global.cas.b32 v, [x], t, n;
        mad.wide.u32 at, t, 4, y; st.global.u32 [at], v; ret;""",
        "u64 u64",
    )
    cell, olds = device.put(np.zeros(1, "u4")), device.empty(8, "u4")
    device.run(text, (cell, olds), 1, 8)
    assert device.get(olds, 8, "u4").tolist() == list(range(8))
    assert device.get(cell, 1, "u4")[0] == 8


def test_different_addresses_and_no_result(device):
    text = entry(
        f"""{HEAD} .reg .b32 v; and.b32 v, t, 3; mad.wide.u32 at, v, 4, x;
        red.global.add.u32 [at], t; ret;""",
        "u64 u64",
    )
    cells = device.put(np.zeros(4, "u4"))
    device.run(text, (cells, 0), 1, 32)
    assert device.get(cells, 4, "u4").tolist() == [112, 120, 128, 136]


def test_the_order_of_blocks_shows(device):
    text = entry(
        f"""{HEAD} .reg .b32 b, v; mov.u32 b, %ctaid.x; atom.global.exch.b32 v, [x], b;
        ret;""",
        "u64 u64",
    )
    cell = device.put(np.full(1, 99, "u4"))
    last = set()
    for seed in range(8):
        device.run(text, (cell, 0), 16, 1, order=seed)
        last.add(int(device.get(cell, 1, "u4")[0]))
    assert len(last) > 2
