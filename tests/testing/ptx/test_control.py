"""Branches, loops, calls, barriers and the ends of threads."""

import numpy as np
import pytest

from nnkernels.testing.ptx import Statistics

from .conftest import entry

HEAD = (
    ".reg .b64 y, at; .reg .b32 t, i, n, s; .reg .pred p, q; ld.param.u64 y, [k_param_0];"
    "mov.u32 t, %tid.x;"
)
TAIL = "mad.wide.u32 at, t, 4, y; st.global.u32 [at], s; ret;"


def result(device, body, count=64, **options):
    y = device.empty(count, "u4")
    device.run(entry(f"{HEAD} {body} {TAIL}", "u64"), (y,), 1, count, **options)
    return device.get(y, count, "u4")


def test_threads_that_part_meet_again(device):
    body = """and.b32 i, t, 1; setp.eq.u32 p, i, 0; mov.u32 s, 0; @p bra EVEN;
              add.u32 s, s, 100; bra.uni JOIN;
              EVEN: add.u32 s, s, 200;
              JOIN: add.u32 s, s, t; activemask.b32 n; setp.ne.u32 q, n, -1; @q mov.u32 s, 0;"""
    t = np.arange(64)
    assert np.array_equal(result(device, body), np.where(t % 2 == 0, 200, 100) + t)


def test_loops_of_different_lengths(device):
    body = """mov.u32 s, 0; mov.u32 i, 0;
              LOOP: setp.ge.u32 p, i, t; @p bra DONE; add.u32 s, s, i; add.u32 i, i, 1; bra LOOP;
              DONE: add.u32 s, s, 1;"""
    t = np.arange(64)
    assert np.array_equal(result(device, body), t * (t - 1) // 2 + 1)


def test_nested_loops_with_a_way_out(device):
    body = """mov.u32 s, 0; mov.u32 i, 0;
              OUTER: mov.u32 n, 0;
              INNER: add.u32 s, s, 1; setp.gt.u32 q, s, 50; @q bra END; add.u32 n, n, 1;
              setp.lt.u32 p, n, t; @p bra INNER;
              add.u32 i, i, 1; setp.lt.u32 p, i, 3; @p bra OUTER;
              END: mov.u32 i, 0;"""
    t = np.arange(64)
    assert np.array_equal(result(device, body), np.minimum(3 * np.maximum(t, 1), 51))


def test_guards_write_only_where_they_hold(device):
    body = """setp.lt.u32 p, t, 10; mov.u32 s, 1; @p mov.u32 s, 2; @!p add.u32 s, s, 4;
              setp.lt.u32 q, t, 5; @q bra SKIP; @p add.u32 s, s, 100; SKIP: add.u32 s, s, 0;"""
    t = np.arange(64)
    want = np.where(t < 10, 2, 5) + np.where((t < 10) & (t >= 5), 100, 0)
    assert np.array_equal(result(device, body), want)


def test_branch_tables(device):
    body = """and.b32 i, t, 3; TABLE: .branchtargets A, B, C, A; brx.idx i, TABLE;
              A: mov.u32 s, 10; bra END; B: mov.u32 s, 11; bra END; C: mov.u32 s, 12;
              END: mov.u32 i, 0;"""
    want = np.array([10, 11, 12, 10])[np.arange(64) % 4]
    assert np.array_equal(result(device, body), want)


def test_threads_end_early(device):
    y = device.put(np.full(64, 9, "u4"))
    body = f"{HEAD} setp.ge.u32 p, t, 40; @p ret; setp.lt.u32 q, t, 3; @q exit; mov.u32 s, 1;{TAIL}"
    device.run(entry(body, "u64"), (y,), 1, 64)
    t = np.arange(64)
    assert np.array_equal(device.get(y, 64, "u4"), np.where((t >= 3) & (t < 40), 1, 9))


FUNCTIONS = """
.func (.param .b32 r) twice(.param .b32 x)
{ .reg .b32 %r<3>; .reg .pred %p<2>; ld.param.u32 %r1, [x]; setp.gt.u32 %p1, %r1, 50;
  @%p1 bra BIG; add.u32 %r2, %r1, %r1; st.param.b32 [r+0], %r2; ret;
  BIG: st.param.b32 [r+0], %r1; ret; }
.func (.param .align 8 .b8 r[16]) both(.param .b32 x, .param .b64 z)
{ .reg .b32 %r<4>; .reg .b64 %rd<2>; ld.param.u32 %r1, [x]; ld.param.u64 %rd1, [z];
  { .param .b32 p0; st.param.b32 [p0+0], %r1; .param .b32 q0;
    call.uni (q0), twice, (p0); ld.param.b32 %r2, [q0+0]; }
  st.param.b64 [r+0], %rd1; st.param.b32 [r+8], %r2; ret; }"""


def test_functions_are_called(device):
    body = """.reg .b64 w; cvt.u64.u32 w, t;
      { .param .b32 p0; st.param.b32 [p0+0], t; .param .b64 p1; st.param.b64 [p1+0], w;
        .param .align 8 .b8 r0[16]; call.uni (r0), both, (p0, p1);
        ld.param.b64 w, [r0+0]; ld.param.b32 s, [r0+8]; }
      { .param .b32 p0; st.param.b32 [p0+0], s; .param .b32 q0;
        call.uni (q0), twice, (p0); ld.param.b32 s, [q0+0]; }
      cvt.u32.u64 i, w; add.u32 s, s, i;"""
    y = device.empty(64, "u4")
    device.run(entry(f"{HEAD} {body} {TAIL}", "u64", before=FUNCTIONS), (y,), 1, 64)
    t = np.arange(64)
    once = np.where(t > 50, t, 2 * t)
    assert np.array_equal(device.get(y, 64, "u4"), np.where(once > 50, once, 2 * once) + t)


SHARED = ".shared .align 4 .b8 buffer[256]; .reg .b32 b; mov.u32 b, buffer;"


def test_barriers_order_shared_memory(device):
    body = f"""{SHARED} mad.lo.u32 i, t, 4, b; st.shared.u32 [i], t; bar.sync 0;
              xor.b32 n, t, 63; mad.lo.u32 i, n, 4, b; ld.shared.u32 s, [i];"""
    assert np.array_equal(result(device, body), np.arange(64)[::-1])


def test_blocks_meet_at_a_barrier_after_parting(device):
    """Each block has its own barrier: the blocks of a chunk arrive at different times."""
    body = f"""{HEAD} {SHARED} .reg .b32 c; mov.u32 c, %ctaid.x; mov.u32 n, 0;
      LOOP: add.u32 n, n, 1; mad.lo.u32 i, t, 4, b; st.shared.u32 [i], n; barrier.sync 0;
      xor.b32 s, t, 1; mad.lo.u32 i, s, 4, b; ld.shared.u32 s, [i]; bar.sync 0;
      setp.le.u32 p, n, c; @p bra LOOP; mad.lo.u32 t, c, 64, t; {TAIL}"""
    y = device.empty(5 * 64, "u4")
    seen = device.run(entry(body, "u64"), (y,), 5, 64, statistics=Statistics())
    assert np.array_equal(device.get(y, 320, "u4"), np.repeat(np.arange(5) + 1, 64))
    assert seen.barriers == 2 * (1 + 2 + 3 + 4 + 5)


@pytest.mark.parametrize(
    ("form", "want"), [("popc.u32 s, 0, p;", 10), ("or.pred q, 0, p;", 1), ("and.pred q, 0, p;", 0)]
)
def test_barriers_that_reduce(device, form, want):
    choose = "" if "popc" in form else "selp.u32 s, 1, 0, q;"
    body = f"setp.lt.u32 p, t, 10; barrier.cta.red.{form} {choose}"
    assert (result(device, body) == want).all()


def test_blocks_that_are_no_whole_warps(device):
    body = """setp.lt.u32 p, t, 20; bar.red.popc.u32 s, 0, p;"""
    assert (result(device, body, count=40) == 20).all()
