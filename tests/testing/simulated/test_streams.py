"""Streams, events and graphs: what waits for what, and what a missing wait shows."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nnkernels.testing.ptx import Fault
from nnkernels.testing.simulated.errors import CUDARuntimeError


@pytest.fixture
def one(cp):
    """A stream that does not wait for the default one."""
    return cp.cuda.Stream(non_blocking=True)


@pytest.fixture
def two(cp):
    return cp.cuda.Stream(non_blocking=True)


def zeros(cp):
    array = cp.zeros((4,), np.float32)
    cp.cuda.Device().synchronize()
    return array


# --- order -------------------------------------------------------------------------------------


def test_work_waits_until_something_waits_for_it(cp, one):
    array = zeros(cp)
    with one:
        array.fill(1)
        array[:2] = 2
    assert array.get().tolist() == [0, 0, 0, 0]  # the default stream does not wait for that one
    one.synchronize()
    assert array.get().tolist() == [2, 2, 1, 1]


def test_a_missing_event_shows_and_an_event_orders(cp, one, two):
    source, target = zeros(cp), zeros(cp)
    with one:
        source.fill(3)
        event = one.record()
    with two:
        target[...] = source
    two.synchronize()
    assert target.get().tolist() == [0] * 4
    two.wait_event(event)
    with two:
        target[...] = source
    two.synchronize()
    assert target.get().tolist() == [3] * 4


def test_an_event_is_waited_for_by_the_host(cp, one):
    array = zeros(cp)
    event = cp.cuda.Event()
    event.synchronize()  # never recorded
    with one:
        array.fill(1)
        event.record()
        array.fill(2)
    event.synchronize()
    assert array.get().tolist() == [1] * 4


def test_the_default_stream_and_blocking_streams_wait_for_each_other(cp):
    array, other = zeros(cp), zeros(cp)
    blocking = cp.cuda.Stream()
    with blocking:
        array.fill(1)
    assert array.get().tolist() == [1] * 4
    other.fill(5)
    with blocking:
        array[...] = other
    blocking.synchronize()
    assert array.get().tolist() == [5] * 4


def test_done_makes_progress_without_waiting(cp, one):
    array = zeros(cp)
    assert one.done
    with one:
        array.fill(1)
        event = one.record()
    cp.log.reset()
    assert not one.done
    assert one.done and event.done
    assert cp.log.synchronisations == 0
    assert array.get().tolist() == [1] * 4


def test_a_seed_does_work_early_so_that_a_missing_wait_shows_the_other_way_round(make):
    """A buffer that is filled again before its reader was waited for."""
    seen = set()
    for seed in range(12):
        cp = make(order=seed)
        buffer, result = zeros(cp), zeros(cp)
        reading, filling = (cp.cuda.Stream(non_blocking=True) for _ in range(2))
        with reading:
            result[...] = buffer
        with filling:
            buffer.fill(9)
        reading.synchronize()
        seen.add(result.get()[0].item())
    assert seen == {0.0, 9.0}


def test_a_seed_never_breaks_what_is_ordered(make):
    for seed in range(12):
        cp = make(order=seed)
        array, copy = zeros(cp), zeros(cp)
        first, second = (cp.cuda.Stream(non_blocking=True) for _ in range(2))
        for value in range(3):
            with first:
                array.fill(value)
            second.wait_event(first.record())
            with second:
                copy[...] = array
            first.wait_event(second.record())
        second.synchronize()
        assert copy.get().tolist() == [2] * 4


def test_a_fault_shows_where_it_is_waited_for_and_drops_what_follows(cp, one):
    unwritten, array = cp.empty((4,), np.float32), zeros(cp)
    with one:
        array[...] = unwritten
        array.fill(1)
    with pytest.raises(Fault, match="nothing wrote"):
        one.synchronize()
    one.synchronize()
    assert array.get().tolist() == [0] * 4


def test_the_current_stream_and_device_belong_to_the_thread(cp, one):
    found = []
    with one:
        assert cp.cuda.get_current_stream() == one
        thread = threading.Thread(target=lambda: found.append(cp.cuda.get_current_stream().ptr))
        thread.start()
        thread.join()
    assert found == [0]
    assert cp.cuda.get_current_stream() == cp.cuda.Stream.null
    one.use()
    assert cp.cuda.get_current_stream().ptr == one.ptr


def test_elapsed_time_counts_marks(cp, one):
    start, stop, late = cp.cuda.Event(), cp.cuda.Event(), cp.cuda.Event()
    start.record(one)
    stop.record(one)
    with pytest.raises(CUDARuntimeError, match="NotReady"):
        cp.cuda.get_elapsed_time(start, stop)
    one.synchronize()
    assert cp.cuda.get_elapsed_time(start, stop) > 0
    with pytest.raises(CUDARuntimeError, match="NotReady"):
        cp.cuda.get_elapsed_time(start, late)
    untimed = cp.cuda.Event(disable_timing=True)
    untimed.record(one)
    one.synchronize()
    with pytest.raises(CUDARuntimeError, match="InvalidResourceHandle"):
        cp.cuda.get_elapsed_time(start, untimed)


def test_elapsed_time_counts_work(cp, one):
    x = cp.zeros(4)
    with one:
        start = one.record()
        for _ in range(5):
            x.fill(1)
        stop = one.record()
    one.synchronize()
    assert cp.cuda.get_elapsed_time(start, stop) == pytest.approx(6e-3)


# --- the host's memory -------------------------------------------------------------------------


def pinned(cp, count=4):
    memory = cp.cuda.alloc_pinned_memory(count * 4)
    return np.frombuffer(memory, np.float32, count)


def test_pinned_memory_is_larger_than_asked_for_and_holds_nothing_yet(cp):
    sizes = [cp.cuda.alloc_pinned_memory(n).size() for n in (0, 1, 512, 513, 1600)]
    assert sizes == [512, 512, 512, 1024, 2048]
    assert np.isnan(pinned(cp)).all()


def test_pinned_memory_is_read_when_the_copy_is_done(cp, one):
    array, host = zeros(cp), pinned(cp)
    host[:] = 1
    array.set(host, stream=one)
    host[:] = 2  # too early, and it shows
    one.synchronize()
    assert array.get().tolist() == [2] * 4


def test_other_memory_is_read_when_the_copy_is_queued(cp, one):
    array, host = zeros(cp), np.ones(4, np.float32)
    array.set(host, stream=one)
    host[:] = 2
    one.synchronize()
    assert array.get().tolist() == [1] * 4


def test_a_copy_to_pinned_memory_is_there_after_waiting_for_it(cp, one):
    array, host = zeros(cp), pinned(cp)
    host[:] = -1
    with one:
        array.fill(1)
    cp.log.reset()
    array.get(stream=one, out=host, blocking=False)
    assert host.tolist() == [-1] * 4 and cp.log.synchronisations == 0
    one.synchronize()
    assert host.tolist() == [1] * 4
    pageable = array.get(stream=one, out=np.empty(4, np.float32), blocking=False)
    assert pageable.tolist() == [1] * 4


def test_copies_by_address(cp, one):
    array, host = zeros(cp), pinned(cp)
    host[:] = range(4)
    runtime = cp.cuda.runtime
    to_device, to_host = runtime.memcpyHostToDevice, runtime.memcpyDeviceToHost
    runtime.memcpyAsync(array.data.ptr, host.ctypes.data, 16, to_device, one.ptr)
    array[2:].data.copy_to_host_async(host.ctypes.data, 8, one)
    runtime.streamSynchronize(one.ptr)
    assert host.tolist() == [2, 3, 2, 3]
    array.data.copy_from_host_async(host.ctypes.data, 16, one)
    runtime.memcpyAsync(host.ctypes.data, array[1:].data.ptr, 8, to_host, one.ptr)
    one.synchronize()
    assert host.tolist() == [3, 2, 2, 3]
    with pytest.raises(CUDARuntimeError, match="InvalidValue"):
        runtime.memcpyAsync(array.data.ptr, array.data.ptr, 4, 3, one.ptr)


# --- graphs ------------------------------------------------------------------------------------


@pytest.fixture
def captured(cp, one):
    """An array, and a graph that adds nothing to what is in it but a copy."""
    source, target = zeros(cp), zeros(cp)
    with one:
        one.begin_capture()
        assert one.is_capturing()
        target[...] = source
        graph = one.end_capture()
    assert not one.is_capturing()
    return source, target, graph


def test_a_capture_does_nothing_and_a_launch_does_it(cp, one, captured):
    source, target, graph = captured
    assert cp.log.names("library", captured=True) == ["copy"]
    for value in (1, 2):
        source.fill(value)
        cp.cuda.get_current_stream().synchronize()
        graph.launch(stream=one)
        one.synchronize()
        assert target.get().tolist() == [value] * 4
    assert cp.log.graphs == 2 and cp.log.names("graph") == ["1 nodes"] * 2
    with one:
        graph.upload()
        graph.launch()
    assert not one.done


def test_a_graph_keeps_no_array_alive(cp, one):
    array = zeros(cp)
    with one:
        one.begin_capture()
        array.fill(1)
        graph = one.end_capture()
    del array
    cp.zeros((1,))  # frees what nobody owns
    graph.launch(one)
    with pytest.raises(ValueError, match="no allocation"):
        one.synchronize()


def test_cublas_refuses_to_be_captured_and_the_capture_goes_on(cp, one):
    a, out = cp.zeros((2, 2), np.float32), cp.zeros((2, 2), np.float32)
    with one:
        one.begin_capture()
        with pytest.raises(NotImplementedError, match="during stream capture"):
            cp.matmul(a, a, out=out)
        out.fill(1)
        graph = one.end_capture()
        graph.launch()
    one.synchronize()
    assert out.get().tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    "wait",
    [
        lambda cp, one, array: one.synchronize(),
        lambda cp, one, array: array.get(),
        lambda cp, one, array: array.set(np.ones(1, np.float32)),
        lambda cp, one, array: cp.cuda.Device().synchronize(),
        lambda cp, one, array: one.record().synchronize(),
        lambda cp, one, array: array.item(),
    ],
)
def test_waiting_spoils_a_capture(cp, one, wait):
    array = zeros(cp)[:1]
    with one:
        one.begin_capture()
        array.fill(1)
        with pytest.raises(CUDARuntimeError, match="StreamCaptureUnsupported"):
            wait(cp, one, array)
        with pytest.raises(CUDARuntimeError, match="Invalidated"):
            one.end_capture()
    assert not one.is_capturing()


def test_an_allocation_is_captured_like_cupys_pool_does_it(cp, one):
    """In CuPy's relaxed mode; the log shows it, so that a step can be held to none."""
    with one:
        one.begin_capture()
        cp.zeros((3,))
        one.end_capture()
    assert cp.log.allocations == 1


def test_a_capture_must_not_depend_on_what_is_not_captured(cp, one, two):
    outside = two.record()
    with one:
        one.begin_capture()
        with pytest.raises(CUDARuntimeError, match="Isolation"):
            one.wait_event(outside)
        inside = one.record()
        with pytest.raises(CUDARuntimeError, match="Isolation"):
            two.wait_event(inside)
        one.wait_event(inside)
        one.end_capture()


def test_the_default_stream_cannot_be_captured_nor_wait_for_a_capture(cp):
    with pytest.raises(RuntimeError, match="legacy"):
        cp.cuda.Stream.null.begin_capture()
    blocking, array = cp.cuda.Stream(), zeros(cp)
    blocking.begin_capture()
    with pytest.raises(CUDARuntimeError, match="Implicit"):
        array.fill(1)
    with pytest.raises(CUDARuntimeError, match="InvalidValue"):
        blocking.begin_capture()
    blocking.end_capture()
    with pytest.raises(CUDARuntimeError, match="InvalidValue"):
        blocking.end_capture()


def test_a_graph_is_made_by_capturing_only(cp):
    with pytest.raises(NotImplementedError, match="capture"):
        cp.cuda.Graph()


def test_pinned_memory_can_be_captured_and_is_read_at_every_launch(cp, one):
    array, host = zeros(cp), pinned(cp)
    with one:
        one.begin_capture()
        array.set(host)
        graph = one.end_capture()
    for value in (1, 2):
        host[:] = value
        graph.launch(one)
        one.synchronize()
        assert array.get().tolist() == [value] * 4


# --- several devices ---------------------------------------------------------------------------


def test_streams_belong_to_devices(make):
    cp = make(devices=2)
    with cp.cuda.Device(1):
        stream = cp.cuda.Stream()
        array = cp.zeros((2,))
        with stream:
            assert cp.cuda.get_current_stream() == stream
            assert cp.cuda.get_current_stream(0) == cp.cuda.Stream.null
            array.fill(1)
        assert array.device == cp.cuda.Device(1) and int(array.device) == 1
    with pytest.raises(RuntimeError, match="does not match"):
        stream.__enter__()
    with cp.cuda.Device(1):
        cp.cuda.Device(1).synchronize()
        assert array.get().tolist() == [1, 1]
