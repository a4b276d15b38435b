"""Kernel times on a GPU: as CuPy's own profiler has them, and no shorter with a cold cache.

The logic of these tests also runs on the simulated device, where the numbers say nothing.
"""

from __future__ import annotations

import statistics

import numpy as np
import pytest

import nnkernels
from nnkernels.bench.harness import queued
from nnkernels.errors import BackendUnavailableError

AGREEMENT = 0.05
"""How far two ways to time the same kernel may be apart."""

LONG = 50e-6
"""Seconds from which on kernels are compared: shorter ones end between two ticks of the clock."""

INSIDE_L2 = 1 << 20
"""Elements: input and output of float32 take 8 MB, which every L2 cache of a recent GPU holds."""


def bound(backend, operator: str, *shapes: tuple[int, ...]):
    """A call of an operator on arrays of random numbers."""
    rng = np.random.default_rng(0)
    arrays = [backend.asarray(rng.standard_normal(s).astype(np.float32)) for s in shapes]
    out = backend.device.empty((shapes[0][0], shapes[-1][-1]), np.dtype("float32"))
    call = nnkernels.bind(operator, *arrays, out=out, backend=backend)
    call()
    backend.device.synchronize()
    return call


def kernel_seconds(backend, call, *, cold: bool = False, samples: int = 15, loops: int = 20):
    """The median of the kernel times, as 'bench' takes them."""
    queue = backend.device.queue
    taken = [queued.time_calls(queue, call, loops, cold).seconds for _ in range(samples)]
    return statistics.median(taken)


def profiler_seconds(call) -> float:
    """The median of what CuPy's profiler measures, one call at a time."""
    from cupyx.profiler import benchmark

    return float(np.median(benchmark(call, n_repeat=100, n_warmup=5).gpu_times))


def event_seconds(cp, call, repeats: int = 10) -> float:
    """What that profiler does, written with events: it stands for it on the simulated device."""
    taken = []
    for _ in range(repeats):
        first, last = cp.cuda.Event(), cp.cuda.Event()
        first.record()
        call()
        last.record()
        last.synchronize()
        taken.append(cp.cuda.get_elapsed_time(first, last) / 1e3)
    return statistics.median(taken)


@pytest.fixture(scope="module")
def backend():
    try:
        return nnkernels.get_backend("cupy")
    except BackendUnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def simulated(needs_nvrtc):
    from nnkernels.testing.simulated import backend

    return backend()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("operator", "shapes"),
    [("matmul", [(2048, 2048)] * 2), ("matmul", [(4096, 4096)] * 2), ("relu", [(8192, 8192)])],
)
def test_kernel_times_are_those_of_cupy_s_profiler(backend, operator, shapes):
    call = bound(backend, operator, *shapes)
    ours, theirs = kernel_seconds(backend, call), profiler_seconds(call)
    assert ours > LONG, "choose a larger size"
    assert ours == pytest.approx(theirs, rel=AGREEMENT)


@pytest.mark.gpu
@pytest.mark.parametrize("operator", ["relu", "sigmoid"])
def test_a_cold_cache_is_no_faster(backend, operator):
    call = bound(backend, operator, (INSIDE_L2 // 1024, 1024))
    warm = kernel_seconds(backend, call)
    assert kernel_seconds(backend, call, cold=True, loops=5) >= warm * (1 - AGREEMENT)


def test_the_logic_on_the_simulated_device(simulated):
    call = bound(simulated, "relu", (4, 8))
    cp = simulated.device.cp
    ours = kernel_seconds(simulated, call, samples=3, loops=1)
    assert ours == pytest.approx(event_seconds(cp, call, 3), rel=AGREEMENT)
    cold = kernel_seconds(simulated, call, cold=True, samples=3, loops=2)
    assert cold >= kernel_seconds(simulated, call, samples=3, loops=2) * (1 - AGREEMENT)
