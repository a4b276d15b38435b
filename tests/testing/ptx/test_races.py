"""Races in shared and in global memory, and what orders accesses."""

import numpy as np
import pytest

from nnkernels.testing.ptx import Fault, Kind

from .conftest import entry

SHARED = """.shared .align 4 .b8 cell[1024]; .reg .b64 y, at; .reg .b32 t, s, o, v, z;
            .reg .pred p, q; ld.param.u64 y, [k_param_0]; mov.u32 t, %tid.x; mov.u32 z, cell;
            mad.lo.u32 s, t, 4, z; st.shared.u32 [s], t;"""
OUT = "mad.wide.u32 at, t, 4, y; st.global.u32 [at], v; ret;"


def shared(device, body, count=64):
    device.run(entry(f"{SHARED} {body} {OUT}", "u64"), (device.empty(count, "u4"),), 1, count)


def faulted(kind, function, *arguments, **options):
    with pytest.raises(Fault) as caught:
        function(*arguments, **options)
    assert caught.value.kind is kind
    return str(caught.value)


# --- shared memory -----------------------------------------------------------------------------

NEIGHBOUR = "xor.b32 o, t, 1; mad.lo.u32 o, o, 4, z; ld.shared.u32 v, [o];"


def test_a_read_of_what_another_thread_wrote_needs_a_barrier(device):
    message = faulted(Kind.SHARED_RACE, shared, device, NEIGHBOUR)
    assert "`ld.shared.u32 v, [o]`" in message and "`st.shared.u32 [s], t`" in message
    assert "of shared memory" in message and "thread (" in message
    shared(device, "bar.sync 0;" + NEIGHBOUR)


def test_a_write_over_what_another_thread_read_needs_a_barrier(device):
    body = "bar.sync 0;" + NEIGHBOUR + "{} st.shared.u32 [s], v;"
    faulted(Kind.SHARED_RACE, shared, device, body.format(""))
    shared(device, body.format("bar.sync 0;"))


def test_two_writes(device):
    body = "mov.u32 v, 0; bar.sync 0; and.b32 o, t, 62; mad.lo.u32 o, o, 4, z; {} [o], t;"
    faulted(Kind.SHARED_RACE, shared, device, body.format("st.shared.u32"))
    shared(device, body.format("red.shared.add.u32"))


def test_accesses_of_different_bytes_of_a_word(device):
    body = """mov.u32 v, 0; bar.sync 0; add.u32 o, z, t; {} [o], t;
              bar.sync 0; ld.shared.u8 v, [o];"""
    shared(device, body.format("st.shared.u8"))
    wide = "mov.u32 v, 0; bar.sync 0; mad.lo.u32 o, t, 4, z; st.shared.u8 [o], t;" + NEIGHBOUR
    faulted(Kind.SHARED_RACE, shared, device, wide)


def test_blocks_have_shared_memory_of_their_own(device):
    text = entry(f"{SHARED} bar.sync 0; {NEIGHBOUR} ret;", "u64")
    device.run(text, (0,), 8, 32)


def test_a_barrier_of_the_warp_orders_its_threads(device):
    shared(device, "bar.warp.sync -1;" + NEIGHBOUR)
    across = NEIGHBOUR.replace("t, 1;", "t, 32;")
    faulted(Kind.SHARED_RACE, shared, device, "bar.warp.sync -1;" + across)


def test_volatile_is_no_barrier(device):
    body = NEIGHBOUR.replace("ld.shared", "ld.volatile.shared")
    faulted(Kind.SHARED_RACE, shared, device, body)


def test_a_race_after_many_barriers(device):
    """A loop over a double buffer whose last read is not protected."""
    body = """mov.u32 v, 0; LOOP: bar.sync 0; {} add.u32 v, v, 1; bar.sync 0;
              setp.lt.u32 p, v, 5; @p bra LOOP; {}"""
    shared(device, body.format("st.shared.u32 [s], v;", ""))
    racy = body.format("st.shared.u32 [s], v;", "st.shared.u32 [s], t;" + NEIGHBOUR)
    faulted(Kind.SHARED_RACE, shared, device, racy)


def test_blocks_at_different_barriers_do_not_hide_a_race(device):
    head = SHARED + ".reg .b32 c, n; mov.u32 c, %ctaid.x; mov.u32 n, 0;"
    body = """LOOP: bar.sync 0; add.u32 n, n, 1; setp.lt.u32 p, n, c; @p bra LOOP;
              {} xor.b32 o, t, 1; mad.lo.u32 o, o, 4, z; st.shared.u32 [o], n; ret;"""
    device.run(entry(head + body.format(""), "u64"), (0,), 4, 32)
    racy = head + body.format("ld.shared.u32 v, [s];")
    faulted(Kind.SHARED_RACE, device.run, entry(racy, "u64"), (0,), 4, 32)


# --- global memory -----------------------------------------------------------------------------

GLOBAL = """.reg .b64 x, y, at, by; .reg .b32 t, c, n, i, o, v; .reg .pred p, q;
            ld.param.u64 x, [k_param_0]; ld.param.u64 y, [k_param_1]; mov.u32 t, %tid.x;
            mov.u32 c, %ctaid.x; mov.u32 n, %ntid.x; mad.lo.u32 i, c, n, t;
            mad.wide.u32 at, i, 4, x;"""


def globally(device, body, grid=2, block=32, **options):
    count = grid * block
    x, y = device.put(np.zeros(count, "u4")), device.put(np.zeros(count, "u4"))
    device.run(entry(f"{GLOBAL} {body} ret;", "u64 u64"), (x, y), grid, block, **options)
    return x, y


def test_own_elements_may_be_read_and_written(device):
    body = "ld.global.u32 v, [at]; add.u32 v, v, 1; st.global.u32 [at], v; ld.global.u32 o, [at];"
    x, _ = globally(device, body)
    assert device.get(x, 64, "u4").tolist() == [1] * 64


def test_all_may_read_the_same(device):
    globally(device, "ld.global.u32 v, [x]; mad.wide.u32 by, i, 4, y; st.global.u32 [by], v;")


def test_two_threads_write_the_same(device):
    message = faulted(Kind.GLOBAL_RACE, globally, device, "st.global.u32 [x], i;", 1)
    assert "block (0) thread (" in message and "bytes 0 to 1 of an allocation" in message
    globally(device, "setp.eq.u32 p, i, 5; @p st.global.u32 [x], i;")


def test_a_race_of_very_many_threads_is_found_without_comparing_all_pairs(device):
    faulted(Kind.GLOBAL_RACE, globally, device, "st.global.u32 [x], i;", 100, 1024)


def test_one_thread_reads_what_another_writes(device):
    body = """st.global.u32 [at], t; {} xor.b32 o, i, {}; mad.wide.u32 by, o, 4, x;
              ld.global.u32 v, [by];"""
    faulted(Kind.GLOBAL_RACE, globally, device, body.format("", 1))
    globally(device, body.format("bar.sync 0;", 1))
    message = faulted(Kind.GLOBAL_RACE, globally, device, body.format("bar.sync 0;", 32))
    assert "block (0) thread" in message and "block (1) thread" in message


def test_races_between_chunks_of_blocks(device):
    """Blocks that the interpreter runs one after the other are concurrent all the same."""
    body = "and.b32 o, i, 0xFFFFF; rem.u32 o, o, 20000; mad.wide.u32 at, o, 4, x; {} [at], t;"
    globally(device, body.format("st.global.u32"), 20, 1000)
    faulted(Kind.GLOBAL_RACE, globally, device, body.format("st.global.u32"), 21, 1000)
    globally(device, body.format("red.global.add.u32"), 21, 1000)


def test_bytes_and_vectors(device):
    byte = "mad.wide.u32 at, i, 1, x; st.global.u8 [at], t;"
    globally(device, byte)
    faulted(Kind.GLOBAL_RACE, globally, device, byte + "ld.global.u32 v, [x];")
    vector = """and.b32 o, i, 7; mad.wide.u32 at, o, 16, x; setp.lt.u32 p, i, {};
                @p st.global.v4.u32 [at], {{t, t, t, t}};"""
    globally(device, vector.format(8))
    faulted(Kind.GLOBAL_RACE, globally, device, vector.format(9))


def test_atomic_and_plain_accesses(device):
    atomic = "red.global.add.u32 [x], 1;"
    x, _ = globally(device, atomic)
    assert device.get(x, 1, "u4")[0] == 64
    faulted(Kind.GLOBAL_RACE, globally, device, atomic + "ld.global.u32 v, [x];")
    globally(device, atomic + "ld.volatile.global.u32 v, [x];")
    narrow = atomic.replace("global", "global.cta")
    globally(device, narrow, 1)
    faulted(Kind.GLOBAL_RACE, globally, device, narrow, 2)


def test_memory_loaded_as_read_only_is_not_written(device):
    body = "ld.global.nc.u32 v, [at]; {} st.global.u32 [by], v;"
    globally(device, body.format("mad.wide.u32 by, i, 4, y;"))
    message = faulted(Kind.READ_ONLY, globally, device, body.format("mov.u64 by, at;"))
    assert "ld.global.nc" in message and "st.global" in message


# --- the last block to finish ------------------------------------------------------------------

LAST_BLOCK = """
.shared .align 4 .b8 last[4]; .reg .b64 partial, count, out; .reg .b32 t, c, g, k, v, s, n;
.reg .b64 at; .reg .pred p, q;
ld.param.u64 partial, [k_param_0]; ld.param.u64 count, [k_param_1]; ld.param.u64 out, [k_param_2];
mov.u32 t, %tid.x; mov.u32 c, %ctaid.x; mov.u32 g, %nctaid.x;
setp.ne.u32 p, t, 0; @p bra WAIT;
mad.wide.u32 at, c, 4, partial; add.u32 v, c, 1; st.global.u32 [at], v;
membar.gl;
atom.global.add.u32 k, [count], 1;
add.u32 k, k, 1; setp.eq.u32 q, k, g; selp.u32 v, 1, 0, q; st.shared.u32 [last], v;
WAIT: bar.sync 0; ld.shared.u32 v, [last]; setp.eq.u32 q, v, 0; @q ret;
setp.ne.u32 p, t, THREAD; @p ret; mov.u32 n, 0; mov.u32 s, 0;
LOOP: mad.wide.u32 at, n, 4, partial; ld.global.u32 v, [at]; add.u32 s, s, v; add.u32 n, n, 1;
setp.lt.u32 q, n, g; @q bra LOOP;
st.global.u32 [out], s; st.global.u32 [count], 0; ret;
"""


def last_block(device, body, grid=7, block=32, order=None):
    partial, out = device.empty(grid, "u4"), device.empty(1, "u4")
    count = device.put(np.zeros(1, "u4"))
    text = entry(body.replace("THREAD", "0"), "u64 u64 u64")
    device.run(text, (partial, count, out), grid, block, order=order)
    return device.get(out, 1, "u4")[0], device.get(count, 1, "u4")[0]


@pytest.mark.parametrize("order", [None, 1, 2])
@pytest.mark.parametrize("thread", ["0", "5"])
@pytest.mark.parametrize("grid", [1, 7, 2500])
def test_the_last_block_reads_what_the_others_wrote(device, thread, order, grid):
    body = LAST_BLOCK.replace("THREAD", thread)
    assert last_block(device, body, grid, order=order) == (grid * (grid + 1) // 2, 0)


def test_the_fence_may_follow_a_barrier(device):
    """All threads write, then one fences and counts for all."""
    body = LAST_BLOCK.replace(
        "setp.ne.u32 p, t, 0; @p bra WAIT;\nmad.wide",
        "setp.eq.u32 p, t, 3; mad.wide.u32 at, c, 4, partial; add.u32 v, c, 1;"
        "@p st.global.u32 [at], v; bar.sync 0; setp.ne.u32 p, t, 0; @p bra WAIT;\nmad.wide",
    ).replace("add.u32 v, c, 1; st.global.u32 [at], v;\nmembar", "\nmembar")
    assert last_block(device, body) == (28, 0)
    late = body.replace("@p st.global.u32 [at], v; bar.sync 0;", "@p st.global.u32 [at], v;")
    faulted(Kind.GLOBAL_RACE, last_block, device, late)


@pytest.mark.parametrize(
    ("intact", "broken"),
    [
        ("membar.gl;", ""),
        ("membar.gl;", "membar.cta;"),
        (
            "atom.global.add.u32 k, [count], 1;",
            "ld.global.u32 k, [count]; add.u32 n, k, 1; st.global.u32 [count], n;",
        ),
        (
            "membar.gl;\natom.global.add.u32 k, [count], 1;",
            "atom.global.add.u32 k, [count], 1; membar.gl;",
        ),
        (
            "atom.global.add.u32 k, [count], 1;",
            "mad.wide.u32 at, c, 0, out; atom.global.cta.add.u32 k, [count], 1;",
        ),
        ("bar.sync 0; ld.shared.u32 v, [last];", "mov.u32 v, 1;"),
    ],
    ids=[
        "no fence",
        "fence of the block",
        "no atomic",
        "fence too late",
        "atomic of the block",
        "no counter read",
    ],
)
def test_a_broken_last_block(device, intact, broken):
    assert intact in LAST_BLOCK
    faulted(Kind.GLOBAL_RACE, last_block, device, LAST_BLOCK.replace(intact, broken))


def test_other_fences_do_too(device):
    for fence in ("fence.acq_rel.gpu;", "fence.sc.sys;", "membar.sys;"):
        assert last_block(device, LAST_BLOCK.replace("membar.gl;", fence)) == (28, 0)
    ordered = LAST_BLOCK.replace("membar.gl;", "").replace("atom.global", "atom.acq_rel.gpu.global")
    assert last_block(device, ordered) == (28, 0)
