"""Every failure that can be planted does what it says, from when it is asked to until healed."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.errors import UnknownNameError
from nnkernels.testing import simulated
from nnkernels.testing.simulated.errors import (
    CUDADriverError,
    CUDARuntimeError,
    OutOfMemoryError,
)

X = np.arange(100, dtype=np.float32)
ARGUMENTS = (np.float32(2), np.uint32(100))


def loads_a_cubin(cp, cubin):
    cp.RawModule(path=str(cubin)).get_function("scale")


def compiles(cp, cubin):
    cp.cuda.nvrtc.getVersion()


def compiles_by_cupy(cp, cubin):
    cp.RawModule(code='extern "C" __global__ void f() {}').get_function("f")


def allocates(cp, cubin):
    cp.zeros((1,))


def synchronises(cp, cubin):
    cp.cuda.Device(0).synchronize()


def captures(cp, cubin):
    stream = cp.cuda.Stream()
    stream.begin_capture()
    stream.end_capture()


def launches_a_graph(cp, cubin):
    stream = cp.cuda.Stream()
    stream.begin_capture()
    stream.end_capture().launch()


RAISING = [
    ("cubin loading", loads_a_cubin, CUDADriverError, "INVALID_IMAGE"),
    ("no nvrtc", compiles, RuntimeError, "failed to load libnvrtc"),
    ("no nvrtc", compiles_by_cupy, RuntimeError, "failed to load libnvrtc"),
    ("out of memory", allocates, OutOfMemoryError, "Out of memory allocating 8 bytes"),
    ("device lost", synchronises, CUDARuntimeError, "LaunchFailure"),
    ("device lost", allocates, CUDARuntimeError, "LaunchFailure"),
    ("device lost", captures, CUDARuntimeError, "LaunchFailure"),
    ("graph capture", captures, CUDARuntimeError, "Invalidated"),
    ("graph launch", launches_a_graph, CUDARuntimeError, "InvalidValue"),
]
QUIET = {"cubin results", "graph results", "device hangs"}
"""Failures with tests of their own below."""


@pytest.mark.parametrize(("failure", "use", "error", "says"), RAISING)
def test_a_failure_is_raised_until_it_is_healed(cp, cubin, failure, use, error, says):
    use(cp, cubin)
    cp.plant(failure)
    for _ in range(2):
        with pytest.raises(error, match=says):
            use(cp, cubin)
    cp.heal()
    use(cp, cubin)


@pytest.mark.parametrize("failure", simulated.FAILURES)
def test_every_failure_has_a_test(failure):
    assert failure in {failure for failure, *_ in RAISING} | QUIET


def test_a_failure_may_come_later(cp):
    cp.plant("out of memory", after=2)
    cp.zeros((1,))
    cp.zeros((1,))
    for _ in range(2):
        with pytest.raises(OutOfMemoryError):
            cp.zeros((1,))


def test_an_unknown_failure_is_refused(cp):
    with pytest.raises(UnknownNameError, match="Did you mean 'graph launch'"):
        cp.plant("graph lunch")


def test_kernels_of_files_write_wrong_numbers_and_others_do_not(cp, cubin, scale, doubled):
    cp.plant("cubin results")
    wrong = doubled(cp, cubin) != 2 * X
    assert wrong[0] and wrong.sum() == 1
    x = cp.asarray(X)
    scale((2,), (64,), (x, *ARGUMENTS))
    np.testing.assert_array_equal(x.get(), 2 * X)


def test_graphs_write_wrong_numbers_and_streams_do_not(cp, scale):
    x, stream = cp.asarray(X), cp.cuda.Stream()
    stream.synchronize()
    stream.begin_capture()
    scale((2,), (64,), (x, *ARGUMENTS), stream=stream)
    graph = stream.end_capture()
    cp.plant("graph results")
    graph.launch(stream)
    assert (x.get() != 2 * X).sum() == 1
    x.set(X)
    scale((2,), (64,), (x, *ARGUMENTS), stream=stream)
    np.testing.assert_array_equal(x.get(), 2 * X)


def test_a_device_that_hangs_is_never_done(cp):
    array, stream = cp.zeros((2,)), cp.cuda.Stream()
    stream.synchronize()
    with stream:
        array.fill(1)
    cp.plant("device hangs")
    assert not stream.done and not stream.done
    with pytest.raises(RuntimeError, match="hangs"):
        stream.synchronize()
    cp.heal()
    assert not stream.done and stream.done
