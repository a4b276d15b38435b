"""Counts on patterns whose figures are known."""

import numpy as np
import pytest

from nnkernels.testing.ptx import SharedTraffic, Statistics, Traffic

from .conftest import entry

HEAD = """.reg .b64 x, y, at; .reg .b32 t, i, s; .reg .f32 v<4>; .reg .pred p; .reg .f64 w;
          ld.param.u64 x, [k_param_0]; ld.param.u64 y, [k_param_1]; mov.u32 t, %tid.x;"""


def counted(device, body, block=64, detailed=False, **options):
    x = device.put(np.ones(8192, "f4"))
    y = device.put(np.ones(8192, "f4"))
    seen = Statistics(detailed=detailed)
    text = entry(f"{HEAD} {body} ret;", "u64 u64")
    assert device.run(text, (x, y), 1, block, statistics=seen, **options) is seen
    return seen


@pytest.mark.parametrize(
    ("address", "sectors", "ideal"),
    [
        ("mad.wide.u32 at, t, 4, x;", 8, 8),
        ("mad.wide.u32 at, t, 4, x; add.u64 at, at, 4;", 10, 8),
        ("mad.wide.u32 at, t, 8, x;", 16, 8),
        ("mad.wide.u32 at, t, 128, x;", 64, 8),
        ("xor.b32 i, t, 5; mad.wide.u32 at, i, 4, x;", 8, 8),
        ("mov.u64 at, x;", 2, 2),
        ("and.b32 i, t, 12; mad.wide.u32 at, i, 4, x;", 4, 2),
    ],
    ids=["coalesced", "misaligned", "every other", "a line each", "permuted", "one", "four"],
)
def test_sectors_of_loads(device, address, sectors, ideal):
    seen = counted(device, f"{address} ld.global.f32 v0, [at];")
    assert seen.loads == Traffic(2, sectors, ideal, {4: 2}) and seen.stores.requests == 0


def test_vector_loads_and_stores(device):
    body = """mad.wide.u32 at, t, 16, x; ld.global.v4.f32 {v0, v1, v2, v3}, [at];
              mad.wide.u32 at, t, 16, y; st.global.v4.f32 [at], {v0, v1, v2, v3};"""
    seen = counted(device, body)
    assert seen.loads == seen.stores == Traffic(2, 32, 32, {16: 2})


def test_only_active_threads_count(device):
    body = """setp.lt.u32 p, t, 8; mad.wide.u32 at, t, 4, x; @p ld.global.f32 v0, [at];
              mov.b32 s, 0;"""
    assert counted(device, body).loads == Traffic(1, 1, 1, {4: 1})


SHARED = ".shared .align 16 .b8 cell[16384]; mov.u32 s, cell;"


@pytest.mark.parametrize(
    ("index", "wavefronts"),
    [
        ("mov.u32 i, t;", 2),
        ("mul.lo.u32 i, t, 2;", 4),
        ("mul.lo.u32 i, t, 32;", 64),
        ("mul.lo.u32 i, t, 33;", 2),
        ("mul.lo.u32 i, t, 4;", 8),
    ],
    ids=["neighbours", "two ways", "thirty-two ways", "padded", "four ways"],
)
def test_bank_conflicts(device, index, wavefronts):
    seen = counted(device, f"{SHARED} {index} mad.lo.u32 i, i, 4, s; st.shared.b32 [i], t;")
    assert seen.shared == SharedTraffic(2, wavefronts, 2)


def test_one_word_for_all_is_one_wavefront(device):
    body = f"""{SHARED} setp.eq.u32 p, t, 0; @p st.shared.b32 [cell], t; bar.sync 0;
               ld.shared.b32 i, [cell];"""
    assert counted(device, body).shared == SharedTraffic(3, 3, 3)


@pytest.mark.parametrize(
    ("form", "size", "ideal"), [("v2.f32", 8, 4), ("v4.f32", 16, 8), ("f64", 8, 4)]
)
def test_wide_accesses_take_several_wavefronts(device, form, size, ideal):
    values = {"v2.f32": "{v0, v1}", "v4.f32": "{v0, v1, v2, v3}", "f64": "w"}[form]
    set_up = (
        "mov.f32 v0, 0f3F800000; mov.f32 v1, v0; mov.f32 v2, v0; mov.f32 v3, v0;"
        "mov.f64 w, 0d3FF0000000000000;"
    )
    body = f"{SHARED} {set_up} mad.lo.u32 i, t, {size}, s; st.shared.{form} [i], {values};"
    assert counted(device, body).shared == SharedTraffic(2, ideal, ideal)


def test_instructions_are_counted_by_warp(device):
    body = """setp.lt.u32 p, t, 40; @!p bra END; cvt.rn.f64.u32 w, t; add.f64 w, w, w;
              shfl.sync.idx.b32 i, t, 0, 31, 1; END: bar.sync 0;
              setp.eq.u32 p, t, 0; @p red.global.add.u32 [x], 1;"""
    body = body.replace("shfl.sync.idx.b32 i, t, 0, 31, 1;", "")
    seen = counted(device, body, block=96)
    assert seen.warp_instructions == 3 * 3 + 3 * 2 + 2 * 2 + 3 * (1 + 2 + 1)
    assert seen.f64_instructions == 4 and seen.barriers == 1 and seen.atomics == 3
    assert seen.launches == 1 and seen.shuffles == 0
    seen = counted(device, "shfl.sync.bfly.b32 i, t, 1, 31, -1;", block=96)
    assert seen.shuffles == 3


def test_traffic_is_counted_only_where_it_is_asked_for(device):
    x = device.put(np.ones(64, "f4"))
    body = f"{HEAD} mad.wide.u32 at, t, 4, x; ld.global.f32 v0, [at]; ret;"
    seen = device.run(entry(body, "u64 u64"), (x, 0), 1, 64)
    assert seen.loads.requests == 0 and seen.warp_instructions == 12


def test_statistics_add_up(device):
    body = "mad.wide.u32 at, t, 4, x; ld.global.f32 v0, [at];"
    one = counted(device, body)
    both = one + counted(device, body + "st.global.f32 [at], v0;")
    assert both.loads == Traffic(4, 16, 16, {4: 4}) and both.stores == Traffic(2, 8, 8, {4: 2})
    assert both.launches == 2 and one.launches == 1
    assert both.warp_instructions == 2 * one.warp_instructions + 2


def test_details_by_instruction(device):
    body = """mad.wide.u32 at, t, 4, x; ld.global.f32 v0, [at]; mad.wide.u32 at, t, 128, x;
              ld.global.f32 v1, [at];"""
    seen = counted(device, body, detailed=True)
    assert seen.traffic == {("k", 4): Traffic(2, 8, 8, {4: 2}), ("k", 6): Traffic(2, 64, 8, {4: 2})}
    assert seen.executed == {("k", pc): 2 for pc in range(8)}
    assert counted(device, body).traffic == {}


def test_statistics_of_several_chunks_add_up(device):
    x = device.put(np.ones(20 * 1024, "f4"))
    body = f"""{HEAD} mov.u32 i, %ctaid.x; mad.lo.u32 i, i, 1024, t; mad.wide.u32 at, i, 4, x;
               ld.global.f32 v0, [at]; bar.sync 0; ret;"""
    seen = Statistics()
    device.run(entry(body, "u64 u64"), (x, 0), 20, 1024, statistics=seen)
    assert seen.loads == Traffic(640, 2560, 2560, {4: 640}) and seen.barriers == 20
