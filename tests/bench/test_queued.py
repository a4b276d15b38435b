"""The three times of a device that works while the host goes on, on the fake one."""

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from nnkernels import plugins
from nnkernels.bench import harness, roofline
from nnkernels.bench.harness import queued, registry
from nnkernels.bench.results import Times, TimesByKind
from nnkernels.bench.session import Effort, Plan, Session, hired
from nnkernels.testing.opaque import opaque_backend

RELU = next(c for c in harness.cases("quick") if c.workload == "relu")
ADAM = next(c for c in harness.cases("quick") if c.workload == "adam")
DROPOUT = next(c for c in harness.cases("quick") if c.workload == "dropout")


class Silent:
    def begin(self, case, number, total) -> None:
        pass

    def finish(self, case, found) -> None:
        pass


@pytest.fixture
def devices(monkeypatch):
    """Fake devices, for workers; what a test adds is gone after it."""
    for where, name in ((registry, "_added"), (plugins, "_registered"), (plugins, "_loaded")):
        monkeypatch.setattr(where, name, dict(getattr(where, name)))
    harness.add(Path(__file__).with_name("unsynchronised.py"))


def measure(*backends: str, case=RELU, **options):
    plan = Plan([case], "quick", backends, {}, Effort(0.05, 3, 3, 0.02), threads=1, **options)
    with hired(plan) as crew:
        session = Session(plan, crew, Silent())
        session.run()
    return session


def test_three_times_are_measured_where_a_device_has_a_queue(devices) -> None:
    session = measure("numpy", "waiting")
    host, device = session.found
    assert (host.status, device.status) == ("ok", "ok")
    assert (host.times.kernel, host.times.e2e, host.times.queued) == (None, None, None)
    times = device.times
    assert [len(t.samples) for t in (times.call, times.kernel, times.e2e, times.queued)] == [3] * 4
    assert times.kernel.median > 0
    assert times.graph is False
    assert device.rates.byte_s == pytest.approx(device.cost.bytes / times.kernel.median)


def test_a_device_that_is_not_waited_for_is_refused(devices) -> None:
    (row,) = measure("hasty_with_a_clock").found
    assert row.correctness.ok
    assert row.status == "failed"
    assert "missing synchronisation" in row.reason


def test_what_does_not_come_back_is_incorrect(devices) -> None:
    (row,) = measure("losing").found
    assert row.status == "incorrect"
    assert row.reason.endswith("(with transfers)")


def test_cold_caches_are_recorded_and_every_call_is_a_sample(devices) -> None:
    session = measure("numpy", "waiting", cold=True)
    record = session.record()
    assert record.settings.cache == "cold"
    assert [row.loops for row in record.results] == [1, 1]
    assert {row.status for row in record.results} <= {"ok", "failed"}


@pytest.mark.parametrize("case", [RELU, ADAM, DROPOUT], ids=lambda case: case.workload)
def test_results_with_transfers_are_right_from_the_first_call_on(case) -> None:
    problem = case.make()
    runner = problem.runner(opaque_backend())
    travelling = runner.queued.travelling()
    travelling.reset()
    assert not problem.agreement(travelling.outputs()).ok
    for _ in range(2):
        travelling.run(1)
        assert problem.agreement(travelling.outputs()).ok


class Device:
    """Does each call in 3 s of its own clock; the host queues one in 1 s."""

    def __init__(self, monkeypatch) -> None:
        self.host = self.device = 0.0
        self.flushes = 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.host)

    def call(self) -> None:
        self.host += 1
        self.device = max(self.device, self.host) + 3

    def mark(self) -> float:
        return max(self.device, self.host)

    def between(self, first, last) -> float:
        return last - first

    def flush(self) -> None:
        self.flushes += 1
        self.device += 100


def test_calls_are_timed_behind_each_other(monkeypatch) -> None:
    device = Device(monkeypatch)
    timed = queued.time_calls(device, device.call, 10, False)
    assert timed == pytest.approx((3.1, 1.0, 0.0))
    assert device.flushes == 0


def test_cold_calls_are_timed_behind_a_flush_each(monkeypatch) -> None:
    device = Device(monkeypatch)
    timed = queued.time_calls(device, device.call, 10, True)
    assert device.flushes == 10
    assert timed == pytest.approx((3.0, 1.0, 0.0))


def test_the_queue_of_the_fake_device() -> None:
    backend = opaque_backend()
    queue = backend.device.queue
    host = queue.pinned((3,), np.dtype("float32"))
    host[:] = 1, 2, 3
    array, back = backend.device.empty((3,), np.float32), queue.pinned((3,), np.float32)
    first = queue.mark()
    queue.upload(host, array)
    queue.download(array, back)
    assert backend.device.pending == 3
    assert queue.between(first, queue.mark()) >= 0
    assert back.tolist() == [1, 2, 3]


def times(median: float) -> Times:
    return Times("s", [], [], median, 0, 0, 0, 0, (median, median), True, 0)


@pytest.mark.parametrize(
    ("queued_s", "bound"), [(None, False), (0.79, False), (0.8, True), (2.0, True)]
)
def test_a_device_that_waits_for_the_host(queued_s, bound) -> None:
    queue = None if queued_s is None else times(queued_s)
    assert roofline.launch_bound(TimesByKind(times(3.0), times(1.0), None, queue)) is bound


@pytest.mark.parametrize(
    ("kernel", "fine"), [(None, True), (1.0, True), (1.04, True), (1.06, False)]
)
def test_no_kernel_is_longer_than_its_call(kernel, fine) -> None:
    found = TimesByKind(times(1.0), None if kernel is None else times(kernel))
    assert (roofline.impossible_times(found) is None) is fine


def test_programs_without_a_clock_have_one_time() -> None:
    w4 = next(c for c in harness.cases("quick") if c.workload == "W4")
    runner = w4.make().runner(opaque_backend())
    assert runner.queued is None


def test_steps_are_timed_up_to_the_end_of_the_data_and_on() -> None:
    """On an executable whose every queue takes at most three steps."""
    w4 = next(c for c in harness.cases("quick") if c.workload == "W4")
    runner = w4.make().runner(opaque_backend())
    asked = []

    class Executable:
        def timed(self, steps):
            from nnkernels.backends.cupy.steps.executor import Timed

            steps = min(steps, 3)
            asked.append(steps)
            row = int(runner._state.number("row"))
            runner._state.set("row", row + steps * 256)
            return Timed(steps, 2.0 * steps, 1.0 * steps, True)

    runner._executable = Executable()
    assert runner._time(6, False) == (2.0, 1.0, True)  # of four batches
    assert asked == [3, 1, 2]
    asked.clear()
    runner._time(3, True)
    assert asked == [1, 1, 1] and runner._backend.device.queue.flushes == 3


def test_eviction_walks_on_every_cpu_and_leaves_the_caller_where_it_was() -> None:
    import os

    from nnkernels.bench.harness.eviction import PRIVATE_BYTES, Eviction

    before = os.sched_getaffinity(0)
    evict = Eviction(1 << 20)
    evict()
    evict()
    assert os.sched_getaffinity(0) == before
    assert len(evict._parts) == len(before)
    assert all(part.nbytes == PRIVATE_BYTES and (part == 2).all() for part in evict._parts)


def test_cold_samples_are_single_calls_between_evictions(monkeypatch) -> None:
    from nnkernels.bench.harness import timing

    order = []
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    runner = type("Runner", (), {"run": lambda self, loops: order.append(loops)})()
    track = timing.Track(runner, rewarm=True)
    seconds, _ = timing.take_cold(track, 3, lambda: order.append("evict"))
    assert order == ["evict", 1] * 3
    assert seconds == 1
