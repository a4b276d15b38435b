"""The selftest's logic, on the simulated device."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels import selftest
from nnkernels.errors import BackendError, UnknownNameError
from nnkernels.selftest.guards import GUARD_BYTES, GuardedDevice

SMALL = selftest.Options(
    quick=True,
    operators=("relu", "bias_grad"),
    copy_bytes=1 << 12,
    product_size=16,
    networks=(((6, 5, 3), 4),),
)


@pytest.fixture
def backend(needs_nvrtc, tmp_path, monkeypatch):
    from nnkernels.testing import simulated

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return simulated.backend()


@pytest.mark.parametrize("name", ["layers", "operators", "products", "speed", "sanitizer"])
def test_a_section_passes_on_the_simulated_device(backend, name):
    report = selftest.run(backend, SMALL, only=[name])
    assert report.ok, report.text()
    assert report.sections[0].items


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compilation", "training"])
def test_a_long_section_passes_on_the_simulated_device(backend, name):
    report = selftest.run(backend, SMALL, only=[name])
    assert report.ok, report.text()


def test_an_unknown_section_is_refused(backend):
    with pytest.raises(UnknownNameError, match="operators"):
        selftest.run(backend, SMALL, only=["operator"])


def test_an_exception_within_a_section_is_a_failure_and_the_next_one_runs(backend, monkeypatch):
    def broken(backend, options):
        raise RuntimeError("the device is lost")

    sections = {"broken": ("Broken", broken), **selftest.SECTIONS}
    monkeypatch.setattr("nnkernels.selftest.suite.SECTIONS", sections)
    report = selftest.run(backend, SMALL, only=["broken", "products"])
    assert [s.ok for s in report.sections] == [False, True]
    assert "the device is lost" in report.text()


def test_an_interrupted_selftest_is_incomplete(backend, monkeypatch):
    def interrupted(backend, options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnkernels.selftest.suite.SECTIONS", {"a": ("A", interrupted)})
    report = selftest.run(backend, SMALL)
    assert not report.complete and not report.ok


def test_a_write_beside_a_guarded_array_is_found(backend):
    device = GuardedDevice(backend.device.gpu)
    array = device.empty((3,), np.float32)
    assert np.isnan(device.to_numpy(array)).all()
    device.check()
    array = device.empty((3,), np.float32)
    device._kept[-1][GUARD_BYTES + 12 :].fill(0)
    with pytest.raises(BackendError, match="beside an array of 12 bytes"):
        device.check()
