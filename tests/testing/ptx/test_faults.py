"""Each thing that a kernel may not do, and beside it what it may."""

import numpy as np
import pytest

from nnkernels.testing.ptx import Fault, Kind, Module

from .conftest import entry

HEAD = """.reg .b64 x, y, at; .reg .b32 t, s, v; .reg .f32 f; .reg .pred p, q;
          ld.param.u64 x, [k_param_0]; ld.param.u64 y, [k_param_1]; mov.u32 t, %tid.x;
          mad.wide.u32 at, t, 4, x;"""
OUT = "mad.wide.u32 at, t, 4, y; st.global.u32 [at], v; ret;"


def text(body, **options):
    return entry(f"{HEAD} {body}", "u64 u64", **options)


def faulted(kind, function, *arguments, **options):
    with pytest.raises(Fault) as caught:
        function(*arguments, **options)
    assert caught.value.kind is kind
    return str(caught.value)


@pytest.fixture
def buffers(device):
    return device.put(np.arange(32, dtype="u4")), device.empty(32, "u4")


# --- memory ------------------------------------------------------------------------------------


LOAD = f"ld.global.u32 v, [at+OFFSET]; {OUT}"


def test_out_of_bounds(device, buffers):
    message = faulted(Kind.OUT_OF_BOUNDS, device.run, text(LOAD.replace("OFFSET", "4")), buffers)
    assert "k pc 4 `ld.global.u32 v, [at+4]` block (0) thread (31)" in message
    assert "bytes 128 to 132 of an allocation of 128 bytes" in message
    faulted(Kind.OUT_OF_BOUNDS, device.run, text(LOAD.replace("OFFSET", "-4")), buffers)
    faulted(
        Kind.OUT_OF_BOUNDS,
        device.run,
        text(f"mov.u64 at, 0; ld.global.u32 v, [at]; {OUT}"),
        buffers,
    )
    store = f"mov.u32 v, 1; st.global.u32 [at+4096], v; {OUT}"
    faulted(Kind.OUT_OF_BOUNDS, device.run, text(store), buffers)
    device.run(text(LOAD.replace("+OFFSET", "")), buffers)


def test_a_vector_that_ends_outside(device):
    buffers = device.put(np.zeros(6, "u4")), device.empty(2, "u4")
    body = """.reg .b32 a<4>; mad.wide.u32 at, t, 16, x;
              ld.global.v4.u32 {a0, a1, a2, a3}, [at]; mov.u32 v, a0;"""
    faulted(Kind.OUT_OF_BOUNDS, device.run, text(body + OUT), buffers, 1, 2)
    device.run(text(body + OUT), buffers, 1, 1)


def test_freed_memory(device, buffers):
    device.run(text(LOAD.replace("OFFSET", "0")), buffers)
    device.memory.free(buffers[0])
    message = faulted(Kind.USE_AFTER_FREE, device.run, text(LOAD.replace("OFFSET", "0")), buffers)
    assert "freed" in message


def test_misaligned_accesses(device, buffers):
    message = faulted(Kind.MISALIGNED, device.run, text(LOAD.replace("OFFSET", "2")), buffers)
    assert "4 bytes at 0x" in message
    pair = f".reg .b32 a, b; ld.global.v2.u32 {{a, b}}, [x+OFFSET]; mov.u32 v, a; {OUT}"
    faulted(Kind.MISALIGNED, device.run, text(pair.replace("OFFSET", "4")), buffers)
    device.run(text(pair.replace("OFFSET", "8")), buffers)


def test_memory_that_nothing_wrote(device):
    fresh, y = device.empty(32, "u4"), device.empty(32, "u4")
    faulted(Kind.UNINITIALISED, device.run, text(LOAD.replace("OFFSET", "0")), (fresh, y))
    device.memory.mark_written(fresh, 128)
    device.run(text(LOAD.replace("OFFSET", "0")), (fresh, y))
    half = device.empty(32, "u4")
    device.memory.write(half, np.zeros(31, "u4"))
    message = faulted(Kind.UNINITIALISED, device.run, text(LOAD.replace("OFFSET", "0")), (half, y))
    assert "thread (31)" in message


def test_what_a_kernel_wrote_can_be_read(device, buffers):
    fresh = device.empty(32, "u4")
    device.run(text(f"st.global.u32 [at], t; ld.global.u32 v, [at]; {OUT}"), (fresh, buffers[1]))
    assert np.array_equal(device.get(buffers[1], 32, "u4"), np.arange(32))


SHARED = ".shared .align 4 .b8 cell[128]; mov.u32 s, cell; mad.lo.u32 s, t, 4, s;"


def test_shared_memory_that_nothing_wrote_or_that_does_not_exist(device, buffers):
    read = f"{SHARED} ld.shared.u32 v, [s]; {OUT}"
    message = faulted(Kind.UNINITIALISED, device.run, text(read), buffers)
    assert "shared memory" in message
    write = f"{SHARED} mov.u32 v, 0; st.shared.u32 [s+4], v; {OUT}"
    message = faulted(Kind.OUT_OF_BOUNDS, device.run, text(write), buffers)
    assert "bytes 128 to 132 of 128" in message
    device.run(text(f"{SHARED} st.shared.u32 [s], t; ld.shared.u32 v, [s]; {OUT}"), buffers)


def test_shared_memory_is_fresh_in_each_block_and_launch(device, buffers):
    body = f"{SHARED} setp.ne.u32 p, t, 99; @p st.shared.u32 [s], t; ld.shared.u32 v, [s]; {OUT}"
    device.run(text(body), buffers)
    faulted(Kind.UNINITIALISED, device.run, text(body.replace("t, 99", "t, 5")), buffers)


def test_local_memory_that_nothing_wrote(device, buffers):
    body = ".local .align 4 .b8 depot[8]; mov.u64 at, depot; {} ld.local.u32 v, [at];" + OUT
    faulted(Kind.UNINITIALISED, device.run, text(body.format("")), buffers)
    device.run(text(body.format("st.local.u32 [at], 3;")), buffers)
    message = faulted(
        Kind.OUT_OF_BOUNDS, device.run, text(body.format("st.local.u32 [at+8], 3;")), buffers
    )
    assert "local memory" in message


# --- registers ---------------------------------------------------------------------------------


def test_registers_that_nothing_wrote(device, buffers):
    body = "setp.lt.u32 p, t, 30; @!p bra END; mov.u32 v, 1; END: add.u32 v, v, 1;"
    message = faulted(Kind.UNINITIALISED_REGISTER, device.run, text(body + OUT), buffers)
    assert "thread (30)" in message and "register" in message
    device.run(text("mov.u32 v, 0;" + body + OUT), buffers)
    device.run(text(body.replace("t, 30", "t, 99") + OUT), buffers)


def test_a_guarded_write_is_no_write_where_the_guard_fails(device, buffers):
    body = "setp.lt.u32 p, t, 30; @p mov.u32 v, 1;"
    faulted(Kind.UNINITIALISED_REGISTER, device.run, text(body + OUT), buffers)
    device.run(text(body + "@!p mov.u32 v, 2;" + OUT), buffers)


def test_an_unwritten_register_may_be_copied_but_not_used(device, buffers):
    body = "setp.lt.u32 p, t, 30; .reg .b32 w; @p mov.u32 w, 1; mov.u32 v, w;"
    faulted(Kind.UNINITIALISED_REGISTER, device.run, text(body + OUT), buffers)
    device.run(text(body + "@!p mov.u32 v, 3;" + OUT), buffers)


def test_an_unwritten_predicate_in_a_branch(device, buffers):
    body = "setp.lt.u32 p, t, 8; @p setp.eq.u32 q, t, 1; mov.u32 v, 0; @q bra END; END:"
    faulted(Kind.UNINITIALISED_REGISTER, device.run, text(body + OUT), buffers)


def test_what_a_former_launch_wrote_does_not_count(device, buffers):
    body = """ld.global.u32 s, [x]; setp.eq.u32 p, s, 0; @p mov.u32 v, 1;""" + OUT
    device.run(text(body), buffers)
    device.memory.write(buffers[0], np.ones(32, "u4"))
    faulted(Kind.UNINITIALISED_REGISTER, device.run, text(body), buffers)


# --- control -----------------------------------------------------------------------------------


def test_barriers_that_some_threads_miss(device, buffers):
    body = "mov.u32 v, 0; setp.lt.u32 p, t, 20; @!p bra END; bar.sync 0; END: mov.u32 v, 1;"
    message = faulted(Kind.BARRIER_DIVERGENCE, device.run, text(body + OUT), buffers)
    assert "12 of 32 threads of the block have ended" in message
    device.run(text(body.replace("t, 20", "t, 32") + OUT), buffers)
    faulted(
        Kind.BARRIER_DIVERGENCE,
        device.run,
        text("setp.lt.u32 p, t, 20; @!p ret;" + "bar.sync 0; ret;"),
        buffers,
    )


def test_threads_at_different_barriers(device, buffers):
    body = """mov.u32 v, 0; setp.lt.u32 p, t, 20; @p bra OTHER; bar.sync 0; bra END;
              OTHER: bar.sync 0; END: mov.u32 v, 1;"""
    message = faulted(Kind.DIFFERENT_BARRIERS, device.run, text(body + OUT), buffers)
    assert "pc 7, pc 9" in message
    device.run(text(body.replace("t, 20", "t, 32") + OUT), buffers)


def test_masks_that_name_absent_lanes(device, buffers):
    body = "mov.u32 v, 0; setp.lt.u32 p, t, 20; @!p bra END; {} END: mov.u32 s, 0;" + OUT
    shuffle = "shfl.sync.down.b32 v, t, 1, 31, {};"
    message = faulted(Kind.SHUFFLE_MASK, device.run, text(body.format(shuffle.format(-1))), buffers)
    assert "mask ffffffff, present 000fffff" in message
    without = shuffle.format("0xFFFFE")
    assert "leaves out" in faulted(
        Kind.SHUFFLE_MASK, device.run, text(body.format(without)), buffers
    )
    outside = shuffle.format("0xFFFFF")
    assert "reads from a lane" in faulted(
        Kind.SHUFFLE_MASK, device.run, text(body.format(outside)), buffers
    )
    within = "shfl.sync.bfly.b32 v, t, 1, 31, 0xFFFFF;"
    device.run(text(body.format(within)), buffers)
    vote = "vote.sync.ballot.b32 v, p, -1;"
    faulted(Kind.SHUFFLE_MASK, device.run, text(body.format(vote)), buffers)


def test_lanes_that_have_ended_need_not_come_but_cannot_be_read(device, buffers):
    body = "setp.ge.u32 p, t, 20; @p ret; {} " + OUT
    device.run(text(body.format("vote.sync.ballot.b32 v, p, -1;")), buffers)
    assert device.get(buffers[1], 20, "u4").tolist() == [0] * 20
    down = "shfl.sync.down.b32 v, t, 1, 31, -1;"
    faulted(Kind.SHUFFLE_MASK, device.run, text(body.format(down)), buffers)


def test_endless_loops(device, buffers):
    body = "LOOP: add.u32 t, t, 1; bra LOOP;"
    message = faulted(Kind.ENDLESS, device.run, text(body), buffers, budget=1000)
    assert "budget" in message
    finite = "mov.u32 v, 0; LOOP: add.u32 v, v, 1; setp.lt.u32 p, v, 100; @p bra LOOP;" + OUT
    device.run(text(finite), buffers, budget=1000)


def test_traps(device, buffers):
    body = "setp.eq.u32 p, t, 7; @p trap; mov.u32 v, 0;" + OUT
    assert "thread (7)" in faulted(Kind.TRAP, device.run, text(body), buffers)
    device.run(text(body.replace("t, 7", "t, 70")), buffers)


# --- launches and text -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.u32 v, t;",
        "add.sat.s32 v, t, t;",
        "add.f16x2 v, t, t;",
        "ld.acquire.gpu.global.u32 v, [at];",
        "cvt.rna.tf32.f32 v, f;",
        "shfl.down.b32 v, t, 1, 31;",
        "bar.sync 0, 16;",
        "call other, (t);",
        "mov.u32 v, %clock;",
        "mov.u32 v, nowhere;",
    ],
)
def test_unknown_instructions(device, buffers, instruction):
    body = f"mov.f32 f, 0f00000000; mov.u32 v, 0; {instruction} {OUT}"
    message = faulted(Kind.UNKNOWN_OPCODE, device.run, text(body), buffers)
    assert message.startswith("k") and instruction.split(";")[0].split()[0].split(".")[0] in message


def test_what_is_not_reached_need_not_be_known(device, buffers):
    body = f"mov.u32 v, 0; bra END; frobnicate.u32 v, t; END: {OUT}"
    device.run(text(body), buffers)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "takes 2 arguments, not 1"),
        ((0, 1.5), "k_param_1 is u64, not float"),
        ((0, 2**64), "does not fit u64"),
        ((0, "x"), "not str"),
    ],
)
def test_wrong_arguments(device, arguments, words):
    assert words in faulted(Kind.ARGUMENTS, device.run, text("ret;"), arguments)


def test_arguments_by_type(device):
    pair = entry("ret;", "f32 s32 u8")
    device.run(pair, (np.float64(2), np.int16(-5), np.uint8(200)))
    device.run(pair, (2, -(2**31), 0))
    assert "f32" in faulted(Kind.ARGUMENTS, device.run, pair, ("2", 0, 0))
    assert "u8" in faulted(Kind.ARGUMENTS, device.run, pair, (2, 0, 256))


def test_launch_limits(device):
    bounded = entry("ret;", attributes=".maxntid 64, 1, 1")
    device.run(bounded, (), 1, 64)
    faulted(Kind.LAUNCH, device.run, bounded, (), 1, 65)
    faulted(Kind.LAUNCH, device.run, entry("ret;"), (), 1, 1025)
    faulted(Kind.LAUNCH, device.run, entry("ret;"), (), 0, 32)
    faulted(Kind.LAUNCH, device.run, entry("ret;"), (), (1, 65536), 32)
    faulted(Kind.LAUNCH, device.run, entry("ret;"), (), 1, 32, shared_bytes=300_000)


@pytest.mark.parametrize(
    "body",
    [
        "mov.u32 v v;",
        "add.u32 v, t;",
        "bra NOWHERE;",
        "ld.global.u32 v, at;",
        "cvt.f64.u32 f, t;",
        "this is no PTX",
    ],
)
def test_malformed_text(device, buffers, body):
    with pytest.raises(Fault) as caught:
        device.run(text(body + OUT), buffers)
    assert caught.value.kind in (Kind.MALFORMED, Kind.UNKNOWN_OPCODE)


def test_braces_that_do_not_match():
    faulted(Kind.MALFORMED, Module, ".visible .entry k() { ret;")
