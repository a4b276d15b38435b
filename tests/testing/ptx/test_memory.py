"""The device's address space, as the host sees it."""

import numpy as np
import pytest

from nnkernels.testing.ptx import Extent, Fault, Kind, Memory
from nnkernels.testing.ptx.memory import QUARANTINE, SEGMENT

from .conftest import entry


@pytest.fixture
def memory():
    return Memory()


def test_allocations_are_aligned_and_lie_apart(memory):
    sizes = [0, 1, 511, 512, 513, 100_000]
    addresses = [memory.allocate(n) for n in sizes]
    assert all(a % 512 == 0 for a in addresses)
    for low, size, high in zip(addresses, sizes, addresses[1:], strict=False):
        assert high - (low + size) >= 512


def test_values_come_back(memory):
    address = memory.allocate(12)
    memory.write(address, np.arange(3, dtype="f4"))
    assert np.frombuffer(memory.read(address, 12), "f4").tolist() == [0, 1, 2]
    memory.write(address + 4, b"\0\0\x80\x3f")
    memory.write(address + 8, np.float32(9))
    assert np.frombuffer(memory.read(address, 12), "f4").tolist() == [0, 1, 9]
    memory.write(address, np.arange(6, dtype="u2")[::2])
    assert np.frombuffer(memory.read(address, 6), "u2").tolist() == [0, 2, 4]


def test_fresh_memory_shows_and_zeroed_memory_does_not(memory):
    assert np.isnan(np.frombuffer(memory.read(memory.allocate(8), 8), "f4")).all()
    assert memory.read(memory.allocate(8, zeroed=True), 8) == bytes(8)


def test_views_share_the_bytes(memory):
    address = memory.allocate(24, zeroed=True)
    view = memory.view(address, (2, 3), "f4")
    view[1, 2] = 5
    assert np.frombuffer(memory.read(address, 24), "f4").tolist() == [0, 0, 0, 0, 0, 5]
    assert memory.view(address, (3, 2), "f4", (4, 12))[2, 1] == 5
    assert memory.view(address + 20, (6,), "f4", (-4,))[0] == 5
    assert memory.view(address + 20, (), "f4") == 5
    assert memory.view(address, (0, 7), "f4").shape == (0, 7)


@pytest.mark.parametrize(
    "access",
    [
        lambda m, a: m.read(a, 13),
        lambda m, a: m.read(a - 1, 1),
        lambda m, a: m.write(a + 8, bytes(5)),
        lambda m, a: m.view(a, (4,), "f4"),
        lambda m, a: m.view(a, (2,), "f4", (12,)),
        lambda m, a: m.view(a, (2,), "f4", (-4,)),
        lambda m, a: m.mark_written(a, 13),
        lambda m, a: m.extent(a + 12),
        lambda m, a: m.free(a + 4),
        lambda m, a: m.allocate(-1),
    ],
)
def test_the_host_may_not_leave_an_allocation(memory, access):
    memory.allocate(12)
    address = memory.allocate(12)
    with pytest.raises(ValueError, match=r"alloc"):
        access(memory, address)


def test_extents(memory):
    first, second = memory.allocate(100), memory.allocate(8)
    assert memory.extent(first + 99) == Extent(first, 100)
    assert memory.extent(second) == (second, 8)
    memory.free(first)
    with pytest.raises(ValueError, match="no allocation"):
        memory.extent(first)
    with pytest.raises(ValueError, match="no allocation"):
        memory.read(first, 1)


def test_freed_memory_is_used_again_after_a_while(memory):
    first = memory.allocate(100)
    memory.free(first)
    later = []
    for _ in range(QUARANTINE):
        address = memory.allocate(100)
        later.append(address)
        memory.free(address)
    assert first not in later
    again = [memory.allocate(100) for _ in range(3)]
    assert first in again
    assert memory.read(first, 100) == b"\xff" * 100


def test_a_smaller_allocation_in_used_memory_ends_where_it_ends(device):
    for _ in range(QUARANTINE + 1):
        device.memory.free(device.put(np.zeros(100, "u4")))
    again = device.put(np.zeros(98, "u4"))
    load = """.reg .b64 x; .reg .b32 v; ld.param.u64 x, [k_param_0];
              ld.global.u32 v, [x+392]; ret;"""
    with pytest.raises(Fault) as caught:
        device.run(entry(load, "u64"), (again,), 1, 1)
    assert caught.value.kind is Kind.OUT_OF_BOUNDS


def test_memory_of_several_segments(device):
    """More than one segment holds, with threads that reach into two at once."""
    far = device.memory.allocate(SEGMENT)
    near = device.put(np.arange(32, dtype="u4"))
    more = device.memory.allocate(SEGMENT)
    assert len(device.memory.segments) > 1
    device.memory.write(more, np.arange(100, 132, dtype="u4"))
    text = entry(
        """.reg .b64 x, y, z, at, by; .reg .b32 t, v; .reg .pred p; ld.param.u64 x, [k_param_0];
        ld.param.u64 y, [k_param_1]; ld.param.u64 z, [k_param_2]; mov.u32 t, %tid.x;
        setp.lt.u32 p, t, 16; selp.b64 at, x, y, p; mad.wide.u32 at, t, 4, at;
        ld.global.u32 v, [at]; selp.b64 by, z, y, p; mad.wide.u32 by, t, 4, by;
        add.u32 v, v, 1; st.global.u32 [by], v; ret;""",
        "u64 u64 u64",
    )
    device.run(text, (near, more, far))
    assert device.get(far, 16, "u4").tolist() == list(range(1, 17))
    assert device.get(more, 32, "u4").tolist() == [*range(100, 116), *range(117, 133)]


def test_one_value_for_all_threads_goes_to_several_segments(device):
    far = device.memory.allocate(SEGMENT)
    near = device.put(np.zeros(32, "u4"))
    text = entry(
        """.reg .b64 x, y, at; .reg .b32 t; .reg .pred p; ld.param.u64 x, [k_param_0];
        ld.param.u64 y, [k_param_1]; mov.u32 t, %tid.x; setp.lt.u32 p, t, 16;
        selp.b64 at, x, y, p; mad.wide.u32 at, t, 4, at; st.global.u32 [at], 7; ret;""",
        "u64 u64",
    )
    device.run(text, (near, far))
    assert device.get(near, 32, "u4").tolist() == [7] * 16 + [0] * 16
