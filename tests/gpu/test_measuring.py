"""Ceilings of a real GPU, and what exceeds them. ``pytest -m gpu``."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

import nnkernels
from nnkernels.bench import device_ceilings
from nnkernels.bench.harness import Cost, device_limits
from nnkernels.bench.harness.limits import Effort
from nnkernels.bench.roofline import judge
from nnkernels.errors import BackendUnavailableError

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def backend():
    try:
        return nnkernels.get_backend("cupy")
    except BackendUnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def ceilings(backend):
    return device_ceilings.measure("cupy", effort=device_ceilings.FULL)


def test_ceilings_are_plausible(ceilings) -> None:
    products = {c.dtype: c.value for c in ceilings if c.what == "gemm_flops"}
    assert products["float32"] > 1e11
    assert products.get("tf32", products["float32"]) > 0.9 * products["float32"]
    copies = {c.array_bytes: c.value for c in ceilings if c.what == "copy_bw"}
    assert 5e10 < copies[max(copies)] < 5e13
    links = {c.what: c.value for c in ceilings if c.array_bytes is None and "2" in c.what}
    assert links["h2d_pinned_bw"] > 0.9 * links["h2d_pageable_bw"]
    assert 0 < links["h2d_pinned_latency"] < 1e-3


def test_events_agree_with_cupys_own_profiler(backend) -> None:
    """Within 5 % for a kernel of more than 50 us."""
    from cupyx.profiler import benchmark

    length = 1 << 26
    x = backend.asarray(np.ones(length, np.float32))
    out = backend.device.empty((length,), np.dtype(np.float32))
    call = nnkernels.bind("relu", x, out=out, backend=backend)
    own = statistics.median(device_limits._batches(backend, call, Effort(20, 0.2)))
    theirs = float(np.median(benchmark(call, n_repeat=200, n_warmup=10).gpu_times))
    assert own > 50e-6
    assert own == pytest.approx(theirs, rel=0.05)


def test_a_call_that_is_not_waited_for_is_impossible(backend, ceilings) -> None:
    size = 4096
    rng = np.random.default_rng(1)
    a, b = (backend.asarray(rng.standard_normal((size, size), np.float32)) for _ in range(2))
    out = backend.device.empty((size, size), np.dtype(np.float32))
    call = nnkernels.bind("matmul", a, b, out=out, backend=backend)
    cost = Cost(2.0 * size**3, 12.0 * size**2, size**2)

    def judged(wait: bool) -> str | None:
        backend.device.synchronize()
        begin = time.perf_counter()
        call()
        if wait:
            backend.device.synchronize()
        seconds = time.perf_counter() - begin
        device = backend.device.name
        return judge(cost, seconds, dtype="float32", ceilings=ceilings, device=device).impossible

    call()
    assert judged(wait=True) is None
    assert "missing sync" in (judged(wait=False) or "")
