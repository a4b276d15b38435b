"""Instructions among the threads of a warp."""

import numpy as np
import pytest

FULL = 0xFFFF_FFFF
T = np.arange(64, dtype="u4")


def shuffled(device, form, by, limits):
    code = f"shfl.sync.{form}.b32 d, a, {by}, {limits}, -1;"
    return device.compute(code, T, out="u4").tolist()


@pytest.mark.parametrize("width", [32, 16, 8])
@pytest.mark.parametrize("by", [1, 3, 16])
def test_shuffles(device, by, width):
    """What CUDA's __shfl_*_sync say: within segments of ``width`` lanes, else the own value."""
    top = 31 | (32 - width) << 8
    base, lane = T // width * width, T % width
    want = np.where(lane + by < width, T + by, T)
    assert shuffled(device, "down", by, top) == want.tolist()
    want = np.where(lane >= by, T - np.minimum(by, T), T)
    assert shuffled(device, "up", by, (32 - width) << 8) == want.tolist()
    want = np.where(
        (T % 32 ^ by) <= (T % 32 // width * width + width - 1), T // 32 * 32 + (T % 32 ^ by), T
    )
    assert shuffled(device, "bfly", by, top) == want.tolist()
    assert shuffled(device, "idx", by, top) == (base + by % width).tolist()


def test_shuffles_by_registers_and_their_predicate(device):
    by = (T % 5).astype("u4")
    found = device.compute("shfl.sync.down.b32 d, a, b, 31, -1;", T, by, out="u4")
    inside = T % 32 + by < 32
    assert found.tolist() == np.where(inside, T + by, T).tolist()
    code = "{.reg .b32 s; shfl.sync.down.b32 s|p, a, b, 31, -1; selp.u32 d, 1, 0, p;}"
    found = device.compute(code, T, by, out="u4")
    assert found.tolist() == inside.tolist()


def test_part_of_a_warp_may_shuffle(device):
    code = """{.reg .b32 s; mov.b32 d, 99; and.b32 s, a, 31; setp.lt.u32 p, s, 8;
              @!p bra END; shfl.sync.bfly.b32 d, a, 4, 31, 0xFF; END: mov.b32 d, d;}"""
    want = np.where(T % 32 < 8, T ^ 4, 99)
    assert device.compute(code, T, out="u4").tolist() == want.tolist()
    guarded = (
        "{.reg .b32 s; mov.b32 d, 99; and.b32 s, a, 31; setp.lt.u32 p, s, 8;"
        "@p shfl.sync.bfly.b32 d, a, 4, 31, 0xFF;}"
    )
    assert device.compute(guarded, T, out="u4").tolist() == want.tolist()


def test_votes(device):
    a = np.where(T < 32, T % 3 == 0, 1).astype("u4")
    bits = [sum(int(v) << n for n, v in enumerate(a[w : w + 32])) for w in (0, 32)]
    code = "setp.ne.u32 p, a, 0; vote.sync.{} {}, p, -1; {}"
    found = device.compute(code.format("ballot.b32", "d", ""), a, out="u4")
    assert found.tolist() == np.repeat(bits, 32).tolist()
    take = "selp.u32 d, 1, 0, q;"
    for name, want in (("any.pred", [1, 1]), ("all.pred", [0, 1]), ("uni.pred", [0, 1])):
        found = device.compute(code.format(name, "q", take), a, out="u4")
        assert found.tolist() == np.repeat(want, 32).tolist()
    found = device.compute(
        code.format("all.pred", "q", take).replace(", p, -1", ", !p, -1"), a, out="u4"
    )
    assert found.tolist() == [0] * 64


def test_the_active_mask(device):
    code = """setp.lt.u32 p, a, 40; mov.b32 d, 0; @!p bra END; activemask.b32 d;
              END: mov.b32 d, d;"""
    found = device.compute(code, T, out="u4")
    assert found.tolist() == [FULL] * 32 + [0xFF] * 8 + [0] * 24


def test_matches(device):
    a = np.where(T < 32, T % 4, 7).astype("u4")
    found = device.compute("match.any.sync.b32 d, a, -1;", a, out="u4")
    fours = sum(1 << n for n in range(0, 32, 4))
    want = [fours << n % 4 & FULL for n in range(32)] + [FULL] * 32
    assert found.tolist() == want
    code = "{.reg .b32 s; match.all.sync.b32 s|p, a, -1; selp.u32 d, s, 5, p;}"
    assert device.compute(code, a, out="u4").tolist() == [5] * 32 + [FULL] * 32


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add.s32", np.sum),
        ("min.s32", np.min),
        ("max.s32", np.max),
        ("and.b32", np.bitwise_and.reduce),
        ("or.b32", np.bitwise_or.reduce),
        ("xor.b32", np.bitwise_xor.reduce),
    ],
)
def test_reductions(device, name, function):
    a = np.random.default_rng(2).integers(-1000, 1000, 64).astype("i4")
    found = device.compute(f"redux.sync.{name} d, a, -1;", a, out="i4")
    want = [int(function(a[:32])), int(function(a[32:]))]
    assert found.tolist() == np.repeat(want, 32).tolist()
