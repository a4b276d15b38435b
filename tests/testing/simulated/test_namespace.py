"""The rest of the namespace: memory, devices, products, the log."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy.probe import probe
from nnkernels.testing.simulated.errors import CUDARuntimeError, OutOfMemoryError

# --- memory ------------------------------------------------------------------------------------


def test_memory_is_limited_and_comes_back(make):
    cp = make(memory_bytes=4096)
    assert cp.cuda.Device(0).mem_info == cp.cuda.runtime.memGetInfo() == (4096, 4096)
    first = cp.zeros((3000,), np.uint8)
    assert cp.cuda.Device(0).mem_info == (1024, 4096)
    with pytest.raises(OutOfMemoryError, match=r"2,048 bytes \(allocated so far: 3,072"):
        cp.zeros((1537,), np.uint8)
    assert issubclass(cp.cuda.memory.OutOfMemoryError, MemoryError)
    part = first[10:]
    del first
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        cp.zeros((3000,), np.uint8)
    del part
    cp.zeros((3000,), np.uint8)


def test_memory_that_waiting_work_may_use_is_not_given_away(make):
    cp = make(memory_bytes=2048)
    stream = cp.cuda.Stream(non_blocking=True)
    array, seen = cp.asarray(np.full(8, 3.0)), []
    cp.cuda.Device().synchronize()
    address = array.data.ptr
    cp.machine.enqueue(stream.ptr, "by address", lambda: seen.append(cp.machine.read(address, 8)))
    del array
    cp.zeros((1,))
    assert cp.machine.memory.used[0] == 2 * 512
    stream.synchronize()
    assert seen[0].view(np.float64) == 3
    cp.zeros((1,))
    assert cp.machine.memory.used[0] == 512


def test_a_full_device_finishes_its_work_to_find_room(make):
    cp = make(memory_bytes=1024)
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        cp.zeros((128,), np.uint8).fill(1)
    cp.zeros((1024,), np.uint8)


# --- devices -----------------------------------------------------------------------------------


def test_devices_are_numbered_and_current_within_a_context(make):
    cp = make(devices=3, sm=86)
    runtime = cp.cuda.runtime
    assert runtime.getDeviceCount() == 3 and cp.cuda.Device(2).compute_capability == "86"
    with cp.cuda.Device(2) as device:
        assert runtime.getDevice() == cp.cuda.Device().id == device.id == 2
        assert cp.zeros((1,)).device.id == 2
        with cp.cuda.Device(1):
            assert runtime.getDevice() == 1
        assert runtime.getDevice() == 2
    assert runtime.getDevice() == 0
    runtime.setDevice(1)
    assert cp.cuda.Device() == cp.cuda.Device(1) != cp.cuda.Device(0)
    runtime.deviceSynchronize()


@pytest.mark.parametrize("number", [1, -1])
def test_a_device_that_is_not_there(cp, number):
    device = cp.cuda.Device(number)
    for use in (
        device.use,
        device.synchronize,
        lambda: device.compute_capability,
        lambda: device.mem_info,
        lambda: device.attributes,
        lambda: cp.cuda.runtime.setDevice(number),
        lambda: cp.cuda.runtime.getDeviceProperties(number),
    ):
        with pytest.raises(CUDARuntimeError, match="InvalidDevice"):
            use()


def test_a_device_says_what_it_is(cp):
    properties = cp.cuda.runtime.getDeviceProperties(0)
    assert properties["name"] == b"Simulated GPU" and properties["major"] == 9
    assert cp.cuda.Device(0).attributes["WarpSize"] == 32


def test_the_probe_finds_nothing_wrong(cp, nvrtc):
    state = probe(cp)
    assert state.kind == "ok" and state.sentence.startswith("Simulated GPU (sm_90)")


def test_a_stream_that_is_not_there(cp):
    with pytest.raises(CUDARuntimeError, match="InvalidResourceHandle"):
        cp.cuda.runtime.streamSynchronize(12345)
    with pytest.raises(NotImplementedError):
        cp.cuda.Stream(ptds=True)


# --- products ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_of_views(cp, transposed, dtype):
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((5, 3)).astype(dtype), draw.standard_normal((3, 4)).astype(dtype)
    operands = [
        cp.asarray(np.ascontiguousarray(m.T)).T if flipped else cp.asarray(m)
        for m, flipped in zip((a, b), transposed, strict=True)
    ]
    out = cp.empty((5, 4), dtype)
    cp.log.reset()
    assert cp.matmul(*operands, out=out) is out
    assert (cp.log.matmuls, cp.log.allocations, cp.log.synchronisations) == (1, 0, 0)
    np.testing.assert_allclose(out.get(), a @ b, rtol=1e-5, atol=1e-6)
    assert cp.matmul(*operands).shape == (5, 4)


def test_a_product_over_nothing_is_zero(cp):
    out = cp.matmul(cp.zeros((2, 0)), cp.zeros((0, 3)))
    assert out.get().tolist() == [[0] * 3] * 2


def test_products_that_do_not_fit(cp):
    a = cp.zeros((2, 3))
    for arguments, out, error in (
        ((a, a), None, ValueError),
        ((a, a.T), cp.zeros((2, 2)).T[:, ::1][::-1], ValueError),
        ((a, a.T), cp.zeros((2, 2), np.float32), ValueError),
        ((a, np.zeros((3, 2))), None, TypeError),
        ((a, a[0]), None, TypeError),
    ):
        with pytest.raises(error):
            cp.matmul(*arguments, out=out)


# --- the log -----------------------------------------------------------------------------------


def test_the_log_counts_and_forgets(cp):
    array = cp.asarray(np.ones((2, 2), np.float32))
    cp.matmul(array, array).get()
    log = cp.log
    counts = log.allocations, log.matmuls, log.synchronisations, log.host_reads, log.copies
    assert counts == (2, 1, 1, 1, 2)
    assert [e.nbytes for e in log.entries if e.kind in ("allocation", "transfer")] == [16] * 4
    cp.machine.enqueue(0, "cublasLt DEFAULT", lambda: None)
    assert log.products == 1
    log.reset()
    assert not log.entries and not log.launches and not log.graphs
