"""Moves, loads and stores in every space and width."""

import numpy as np
import pytest

from .conftest import entry

POINTERS = (
    ".reg .b64 x, y, at; .reg .b32 t; .reg .pred p; ld.param.u64 x, [k_param_0];"
    "ld.param.u64 y, [k_param_1]; mov.u32 t, %tid.x;"
)


@pytest.mark.parametrize(
    ("kind", "dtype", "register"),
    [
        ("u8", "u1", "b16"),
        ("s8", "i1", "b16"),
        ("u8", "u1", "b32"),
        ("u16", "u2", "b16"),
        ("s16", "i2", "b32"),
        ("f32", "f4", "f32"),
        ("b64", "u8", "b64"),
        ("s8", "i1", "b64"),
    ],
)
def test_loads_extend_and_stores_truncate(device, kind, dtype, register):
    values = np.arange(-8, 24).astype(dtype)
    size, wide = values.itemsize, {"b16": 2, "b32": 4, "b64": 8, "f32": 4}[register]
    x, y = device.put(values), device.empty(32, dtype)
    z = device.empty(32, f"u{wide}")
    text = entry(
        f"""{POINTERS} .reg .{register} v; .reg .b64 z; ld.param.u64 z, [k_param_2];
        mad.wide.u32 at, t, {size}, x; ld.global.{kind} v, [at];
        mad.wide.u32 at, t, {size}, y; st.global.{kind} [at], v;
        mad.wide.u32 at, t, {wide}, z; st.global.b{8 * wide} [at], v; ret;""",
        "u64 u64 u64",
    )
    device.run(text, (x, y, z))
    assert np.array_equal(device.get(y, 32, dtype), values)
    extended = values.astype(f"{values.dtype.kind}{wide}") if kind != "f32" else values
    assert np.array_equal(device.get(z, 32, extended.dtype), extended)


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("v4.f32", "f4"),
        ("v2.f32", "f4"),
        ("v2.f64", "f8"),
        ("v4.u16", "u2"),
        ("v4.u8", "u1"),
        ("v2.b64", "u8"),
    ],
)
@pytest.mark.parametrize("space", ["global", "shared"])
def test_vectors(device, form, dtype, space):
    parts, kind = int(form[1]), form.split(".")[1]
    bits = max(int(kind[1:]), 16)
    register = kind if kind[0] == "f" else f"b{bits}"
    values = np.arange(32 * parts).astype(dtype)
    names = ", ".join(f"v{n}" for n in range(parts))
    swapped = ", ".join(f"v{n}" for n in reversed(range(parts)))
    size = parts * values.itemsize
    through = ""
    if space == "shared":
        through = f"""mov.u32 s, buffer; mad.lo.u32 s, t, {size}, s;
        st.shared.{form} [s], {{{names}}}; ld.shared.{form} {{{names}}}, [s];"""
    text = entry(
        f"""{POINTERS} .reg .{register} {names}; .shared .align 16 .b8 buffer[{32 * size}];
        .reg .b32 s; mad.wide.u32 at, t, {size}, x; ld.global.nc.{form} {{{names}}}, [at];
        {through} mad.wide.u32 at, t, {size}, y; st.global.{form} [at], {{{swapped}}}; ret;""",
        "u64 u64",
    )
    x, y = device.put(values), device.empty(values.size, dtype)
    device.run(text, (x, y))
    found = device.get(y, values.size, dtype).reshape(32, parts)
    assert np.array_equal(found, values.reshape(32, parts)[:, ::-1])


def test_registers_are_packed_and_unpacked(device):
    a = np.array([0x0123_4567_89AB_CDEF, 2**63 + 5], "u8")
    code = "{.reg .b32 l, h; mov.b64 {l, h}, a; mov.b64 d, {h, l};}"
    swapped = a >> np.uint64(32) | a << np.uint64(32)
    assert np.array_equal(device.compute(code, a, out="u8"), swapped)
    code = "{.reg .b32 h; mov.b64 {_, h}, a; mov.b32 d, h;}"
    assert device.compute(code, a, out="u4").tolist() == (a >> np.uint64(32)).tolist()
    code = "{.reg .b16 w, x, y, z; mov.b64 {w, x, y, z}, a; mov.b32 d, {z, w};}"
    want = (a >> np.uint64(48)) | (a & np.uint64(0xFFFF)) << np.uint64(16)
    assert device.compute(code, a, out="u4").tolist() == want.tolist()


def test_bits_pass_between_types(device):
    a = np.array([1.5, -0.0, np.inf], "f4")
    assert device.compute("mov.b32 d, a;", a, out="u4").tolist() == a.view("u4").tolist()


def test_special_registers(device):
    y = device.empty(3 * 96, "u4")
    text = entry(
        """.reg .b64 x, at; .reg .b32 t, b, n, l, w, v, g; ld.param.u64 x, [k_param_0];
        mov.u32 t, %tid.x; mov.u32 b, %ctaid.x; mov.u32 n, %ntid.x; mov.u32 l, %laneid;
        mov.u32 w, %warpid; mov.u32 g, %nctaid.x; mad.lo.u32 v, b, n, t;
        mad.wide.u32 at, v, 4, x; shl.b32 l, l, 8; shl.b32 w, w, 16; shl.b32 g, g, 24;
        or.b32 v, t, l; or.b32 v, v, w; or.b32 v, v, g; st.global.u32 [at], v; ret;""",
        "u64",
    )
    device.run(text, (y,), 3, 96)
    t = np.tile(np.arange(96), 3)
    assert np.array_equal(device.get(y, 288, "u4"), t | t % 32 << 8 | t // 32 << 16 | 3 << 24)


def test_blocks_and_grids_of_three_dimensions(device):
    names = ["tid.x", "tid.y", "tid.z", "ctaid.x", "ctaid.y", "ctaid.z"]
    reads = " ".join(f"mov.u32 r{n}, %{name};" for n, name in enumerate(names))
    sizes = [4, 3, 2, 3, 2, 2]
    index = "mov.u32 i, 0;" + " ".join(
        f"mad.lo.u32 i, i, {size}, r{n};" for n, size in reversed(list(enumerate(sizes)))
    )
    text = entry(
        f""".reg .b64 x, at; .reg .b32 i, r<6>; {reads} {index} ld.param.u64 x, [k_param_0];
        mad.wide.u32 at, i, 4, x; st.global.u32 [at], i; ret;""",
        "u64",
    )
    count = int(np.prod(sizes))
    y = device.empty(count, "u4")
    device.run(text, (y,), (3, 2, 2), (4, 3, 2), order=5)
    assert np.array_equal(device.get(y, count, "u4"), np.arange(count))


def test_parameters_of_all_types_and_structures(device):
    y = device.empty(4, "f8")
    text = """.version 8.0
    .visible .entry k(.param .u64 p0, .param .f32 p1, .param .u8 p2, .param .align 8 .b8 p3[16])
    { .reg .b64 y; .reg .f64 d; .reg .f32 f; .reg .b16 c; .reg .b32 i;
      ld.param.u64 y, [p0]; ld.param.f32 f, [p1]; cvt.f64.f32 d, f; st.global.f64 [y], d;
      ld.param.u8 c, [p2]; cvt.rn.f64.u16 d, c; st.global.f64 [y+8], d;
      ld.param.s32 i, [p3]; cvt.rn.f64.s32 d, i; st.global.f64 [y+16], d;
      ld.param.f64 d, [p3+8]; st.global.f64 [y+24], d; ret; }"""
    structure = np.array([(-7, 2.25)], np.dtype([("i", "i4"), ("d", "f8")], align=True))
    device.run(text, (y, 1.5, 200, structure.tobytes()), 1, 1)
    assert device.get(y, 4, "f8").tolist() == [1.5, 200, -7, 2.25]


CONSTANTS = """.const .align 4 .b8 table[16] = {0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64};
.global .align 4 .f32 scale = 0f40000000;
.visible .global .align 8 .u32 cells[2] = {7, 0x10};"""


def test_variables_of_the_module(device):
    text = entry(
        f"""{POINTERS} .reg .f32 v, s; .reg .b32 u; mov.u64 at, table; cvta.const.u64 at, at;
        mad.wide.u32 at, t, 4, at; ld.const.f32 v, [at]; ld.global.f32 s, [scale];
        ld.global.u32 u, [cells+4]; add.u32 u, u, 1; mul.f32 v, v, s;
        mad.wide.u32 at, t, 4, x; st.global.f32 [at], v; mad.wide.u32 at, t, 4, y;
        st.global.u32 [at], u; ret;""",
        "u64 u64",
        before=CONSTANTS,
    )
    x, y = device.empty(4, "f4"), device.empty(4, "u4")
    device.run(text, (x, y), 1, 4)
    assert device.get(x, 4, "f4").tolist() == [2, 4, 6, 0]
    assert device.get(y, 4, "u4").tolist() == [17] * 4


def test_a_variable_keeps_its_value_between_launches(device):
    text = entry(
        """.reg .b32 v; .reg .b64 x; ld.param.u64 x, [k_param_0]; ld.global.u32 v, [counter];
        add.u32 v, v, 1; st.global.u32 [counter], v; st.global.u32 [x], v; ret;""",
        "u64",
        before=".global .align 4 .u32 counter;",
    )
    x = device.empty(1, "u4")
    for turn in (1, 2, 3):
        device.run(text, (x,), 1, 1)
        assert device.get(x, 1, "u4")[0] == turn


def test_local_memory_belongs_to_the_thread(device):
    text = entry(
        f""".local .align 16 .b8 depot[32]; .reg .b64 s, g; {POINTERS} .reg .b32 v, k;
        mov.u64 s, depot; cvta.local.u64 g, s; st.local.v2.u32 [s+8], {{t, t}};
        and.b32 k, t, 1; mad.wide.u32 at, k, 4, g; st.u32 [at+8], 77; ld.local.u32 v, [s+8];
        mad.wide.u32 at, t, 4, y; st.global.u32 [at], v; ret;""",
        "u64 u64",
    )
    y = device.empty(64, "u4")
    device.run(text, (0, y), 1, 64)
    t = np.arange(64)
    assert np.array_equal(device.get(y, 64, "u4"), np.where(t % 2 == 0, 77, t))


def test_generic_addresses_reach_shared_and_global_memory(device):
    text = entry(
        f""".shared .align 4 .b8 buffer[256]; {POINTERS} .reg .b64 g; .reg .b32 v;
        mov.u64 g, buffer; cvta.shared.u64 g, g; mad.wide.u32 at, t, 4, g; st.u32 [at], t;
        ld.u32 v, [at]; cvta.to.shared.u64 at, at; ld.shared.u32 v, [at];
        mad.wide.u32 at, t, 4, y; cvta.to.global.u64 at, at; cvta.global.u64 at, at;
        st.u32 [at], v; ret;""",
        "u64 u64",
    )
    y = device.empty(32, "u4")
    device.run(text, (0, y), 1, 32)
    assert np.array_equal(device.get(y, 32, "u4"), np.arange(32))


def test_dynamic_shared_memory_follows_the_static(device):
    text = entry(
        f""".shared .align 4 .b8 own[20]; {POINTERS} .reg .b32 s, v; mov.u32 s, dyn;
        mad.lo.u32 s, t, 4, s; st.shared.u32 [s], t; setp.eq.u32 p, t, 0;
        @p st.shared.u32 [own], 1000; bar.sync 0; ld.shared.u32 v, [s];
        mov.u32 s, %dynamic_smem_size; add.u32 v, v, s; ld.shared.u32 s, [own];
        add.u32 v, v, s; mad.wide.u32 at, t, 4, y; st.global.u32 [at], v; ret;""",
        "u64 u64",
        before=".extern .shared .align 16 .b8 dyn[];",
    )
    y = device.empty(8, "u4")
    for size in (32, 64):
        device.run(text, (0, y), 1, 8, shared_bytes=size)
        assert np.array_equal(device.get(y, 8, "u4"), np.arange(8) + size + 1000)


def test_many_blocks_run_in_chunks(device):
    text = entry(
        """.reg .b64 y, at; .reg .b32 t, b, n, i; ld.param.u64 y, [k_param_0];
        mov.u32 t, %tid.x; mov.u32 b, %ctaid.x; mov.u32 n, %ntid.x; mad.lo.u32 i, b, n, t;
        mad.wide.u32 at, i, 4, y; st.global.u32 [at], i; ret;""",
        "u64",
    )
    y = device.empty(100 * 256, "u4")
    device.run(text, (y,), 100, 256, order=1)
    assert np.array_equal(device.get(y, 25600, "u4"), np.arange(25600))
