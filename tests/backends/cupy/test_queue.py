"""How the work of a device is timed and fed, on a simulated one."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy.queue import FLUSHED
from nnkernels.bench import harness
from nnkernels.bench.harness import queued


@pytest.fixture
def backend(cp):
    from nnkernels.backends.cupy import on

    return on(cp)


@pytest.fixture
def queue(backend):
    return backend.device.queue


def test_the_clock_is_the_device_s(backend, queue):
    x = backend.asarray(np.ones(8, np.float32))
    backend.relu(x, out=x)  # the first kernel of a process also checks the layers
    first = queue.mark()
    for _ in range(9):
        backend.relu(x, out=x)
    assert queue.between(first, queue.mark()) == pytest.approx(10e-6)


def test_copies_are_queued_and_their_arrays_are_pinned(cp, backend, queue):
    host, back = queue.pinned((2, 3), "float32"), queue.pinned((2, 3), np.float32)
    host[...], back[...] = np.arange(6).reshape(2, 3), -1
    array = backend.device.empty((2, 3), np.float32)
    queue.upload(host, array)
    queue.download(array, back)
    host[0, 0] = 7  # not sent yet: it is read when its turn comes
    assert (back == -1).all()
    backend.device.synchronize()
    assert back.ravel().tolist() == [7, 1, 2, 3, 4, 5]


def test_a_flush_writes_more_than_the_cache_holds(backend, queue):
    l2 = backend.device.gpu.device.attributes["L2CacheSize"]
    queue.flush()
    assert queue._spoil.nbytes == FLUSHED * l2


def case(workload: str) -> harness.Case:
    return next(c for c in harness.cases("quick") if c.workload == workload)


@pytest.mark.parametrize("workload", ["relu", "adam", "dropout", "softmax_cross_entropy"])
def test_an_operator_is_right_with_its_data_in_place_and_with_transfers(backend, workload):
    problem = case(workload).make()
    runner = problem.runner(backend)
    for each in (runner, runner.queued.travelling()):
        each.reset()
        each.run(each.checked)
        assert problem.agreement(each.outputs()).ok


def test_an_operator_is_timed_by_events(cp, backend):
    runner = case("relu").make().runner(backend)
    seconds, queued_s, graph = runner.queued.time(4, False)
    assert seconds == pytest.approx(5e-6 / 4) and queued_s > 0 and not graph
    assert runner.queued.time(4, True).seconds == pytest.approx(2e-6)
    fills = [e for e in cp.log.entries if e.kind == "launch" or "fill" in e.name]
    assert sum("fill" in e.name for e in fills) == 4


@pytest.mark.parametrize("workload", ["W4", "predict"])
def test_a_program_is_right_and_timed_as_it_runs(backend, workload):
    problem = case(workload).make()
    runner = problem.runner(backend)
    for each in (runner, runner.queued.travelling()):
        each.reset()
        each.run(each.checked)
        assert problem.agreement(each.outputs()).ok
    timed = runner.queued.time(3, False)
    assert isinstance(timed, queued.Timed)
    assert timed.seconds > 0 and timed.queued > 0
    assert timed.graph is (runner._executable._graph is not None)
    assert runner.queued.time(2, True).seconds > 0


def test_without_graphs_the_launches_of_a_step_are_timed(cp):
    from nnkernels.backends.cupy import on

    runner = case("W4").make().runner(on(cp, layers="plain"))
    runner.run(2)
    timed = runner.queued.time(1, False)
    assert not timed.graph
    launches = len(runner._executable.launches)
    assert timed.seconds == pytest.approx((launches + 1) * 1e-6)
