"""Ceilings of a GPU: what is asked, the fit of its link, and all of it on the simulated device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nnkernels.bench import device_ceilings, gpus
from nnkernels.bench.ceilings import empty
from nnkernels.bench.device_ceilings import FULL, Effort, fitted, requests
from nnkernels.bench.harness import device_limits
from nnkernels.bench.harness import worker as harness_worker
from nnkernels.bench.workers import CandidateError

TINY = Effort(("float32", "tf32", "float64"), (16,), (3072, 6144), (64, 4096), 2, 0.001, 0.001)


@pytest.fixture(scope="module")
def kernel_cache(tmp_path_factory):
    """What one test compiled, the next one finds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def device(needs_nvrtc, kernel_cache, monkeypatch):
    """The name of the simulated device; workers are in this process, and have its backend."""
    from nnkernels.testing import simulated

    monkeypatch.setenv("XDG_CACHE_HOME", str(kernel_cache))
    monkeypatch.setattr(device_limits, "BATCH_SECONDS", 0.0)  # its events tick, without seconds
    backend = simulated.backend()

    class InProcess:
        def __init__(self, settings) -> None:
            self._server = harness_worker.Server()
            self._server._backend = backend

        def ask(self, reply, seconds, do, **request):
            if do == "hello":
                return reply({}, backend.device.name, None)
            answer, arrays = self._server.answer({"do": do, **request})
            assert not arrays
            return reply(**answer)

        def close(self) -> None:
            pass

    monkeypatch.setattr(device_ceilings, "Worker", InProcess)
    monkeypatch.setattr(gpus.Watch, "take", lambda self: "SM 1000 MHz")
    return backend.device.name


def test_a_device_is_measured(device) -> None:
    found = device_ceilings.measure("cupy", effort=TINY)
    assert {c.device for c in found} == {device}
    assert all(c.value > 0 for c in found if c.unit != "s")
    products = {c.dtype: c for c in found if c.what == "gemm_flops"}
    assert {"float32", "float64"} <= set(products)
    assert products["float64"].method == "matmul, n=16, median; SM 1000 MHz"
    assert "SM" not in "".join(c.method for c in found if c.what != "gemm_flops")
    streams = [(c.what, c.array_bytes, c.level) for c in found if c.what[:4] in ("copy", "tria")]
    assert streams == [
        (what, n, "memory") for what in ("copy_bw", "triad_bw") for n in (3072, 6144)
    ]
    ways = {c.what for c in found if "2" in c.what}
    sides = [f"{d}_{k}" for d in ("h2d", "d2h") for k in ("pinned", "pageable")]
    assert {f"{side}_bw" for side in sides} <= ways
    assert {f"{side}_latency" for side in sides} <= ways


def test_what_fits_into_the_devices_cache_is_said_so(device, monkeypatch) -> None:
    monkeypatch.setattr(device_limits, "_l2_bytes", lambda backend: 4096)
    effort = Effort((), (), (3072, 6144), (), 2, 0.001, 0.001)
    found = device_ceilings.measure("cupy", effort=effort)
    assert [c.level for c in found] == ["L2", "memory"] * 2


def test_the_full_plan_has_every_precision_and_working_sets_beyond_any_cache() -> None:
    planned = list(requests("cuda:1", FULL))
    assert {r.ceiling.device for r in planned} == {"cuda:1"}
    products = {r.ceiling.dtype for r in planned if r.kind == "product"}
    assert products == {"float32", "tf32", "fp16", "bf16", "float64"}
    assert all(r.arguments["budget"] >= 2 for r in planned if r.kind == "product")
    assert max(r.ceiling.array_bytes or 0 for r in planned if r.kind == "triad") == 1 << 30
    sent = [r.ceiling.array_bytes for r in planned if r.kind == "link"]
    assert (min(sent), max(sent), len(sent)) == (1 << 10, 1 << 28, 40)


def way(latency, bandwidth, sizes):
    record = empty("h2d_pinned_bw", "B/s", device="cuda:0")
    seconds = latency + np.array(sizes) / bandwidth
    return [
        replace(record, array_bytes=n, value=float(n / s))
        for n, s in zip(sizes, seconds, strict=True)
    ]


@given(st.floats(1e-7, 1e-4), st.floats(1e8, 1e11))
def test_the_link_is_fitted(latency, bandwidth) -> None:
    lines = {c.what: c for c in fitted(way(latency, bandwidth, [1 << b for b in range(10, 29)]))}
    assert lines["h2d_pinned_latency"].value == pytest.approx(latency, rel=1e-6)
    assert lines["h2d_pinned_latency"].unit == "s"
    assert lines["h2d_pinned_bw"].value == pytest.approx(bandwidth, rel=1e-6)
    assert lines["h2d_pinned_bw"].array_bytes is None


def test_one_size_is_no_line_and_a_nonsense_slope_has_no_bandwidth() -> None:
    assert fitted(way(1e-5, 1e9, [1 << 20])) == []
    falling = [
        replace(c, value=c.array_bytes / s)
        for c, s in zip(way(1e-5, 1e9, [1 << 10, 1 << 20]), (2e-3, 1e-3), strict=True)
    ]
    assert [c.what for c in fitted(falling)] == ["h2d_pinned_latency"]


def test_without_the_device_the_backend_says_why() -> None:
    with pytest.raises(CandidateError):
        device_ceilings.measure("cupy:99", effort=TINY)
