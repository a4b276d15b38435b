"""What the management library says, by a stand-in for it; its names are checked on the real one."""

import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnkernels.bench import gpus
from nnkernels.bench.results import GpuState


class NVMLError(Exception):
    pass


def library(**changes):
    """One GPU, as ``pynvml`` tells of it; a change is what a function gives, or raises."""

    def gives(value):
        def function(*arguments):
            if isinstance(value, Exception):
                raise value
            return value

        return function

    answers = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetName": "Model X",
        "nvmlDeviceGetUUID": "GPU-1234",
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30),
        "nvmlSystemGetDriverVersion": "580.65",
        "nvmlDeviceGetEccMode": (1, 1),
        "nvmlDeviceGetClockInfo": 1755,
        "nvmlDeviceGetPowerUsage": 123456,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x40,
        **changes,
    }
    constants = {
        "NVML_CLOCK_SM": 1,
        "nvmlClocksThrottleReasonSwPowerCap": 0x4,
        "nvmlClocksThrottleReasonHwSlowdown": 0x8,
        "nvmlClocksThrottleReasonSwThermalSlowdown": 0x20,
        "nvmlClocksThrottleReasonHwThermalSlowdown": 0x40,
        "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": 0x80,
    }
    functions = {name: gives(value) for name, value in answers.items()}
    return SimpleNamespace(NVMLError=NVMLError, **constants, **functions)


def with_library(monkeypatch, **changes) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(**changes))


@pytest.mark.parametrize("encode", [str, lambda text: text.encode()])
def test_a_gpu_is_described_without_its_identity(monkeypatch, encode) -> None:
    texts = {"Name": "Model X", "UUID": "GPU-1234"}
    with_library(monkeypatch, **{f"nvmlDeviceGet{k}": encode(v) for k, v in texts.items()})
    (found,) = gpus.gpus()
    assert (found.name, found.cc, found.mem_bytes, found.driver, found.ecc) == (
        "Model X",
        "9.0",
        80 << 30,
        "580.65",
        True,
    )
    assert re.fullmatch("[0-9a-f]{12}", found.uuid_hash)


def test_what_slows_it_down_is_said_in_words(monkeypatch) -> None:
    with_library(monkeypatch)
    assert gpus.states() == [
        GpuState(sm_mhz=1755, power_w=123.456, throttle=["its power limit", "heat (hardware)"])
    ]


def test_what_a_gpu_does_not_tell_is_unknown(monkeypatch) -> None:
    silent = [
        *("nvmlDeviceGetUUID", "nvmlDeviceGetEccMode", "nvmlDeviceGetMemoryInfo"),
        *("nvmlDeviceGetPowerUsage", "nvmlDeviceGetClockInfo", "nvmlDeviceGetName"),
        *("nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetCurrentClocksThrottleReasons"),
    ]
    with_library(monkeypatch, **dict.fromkeys(silent, NVMLError("not supported")))
    (found,) = gpus.gpus()
    assert (found.name, found.cc, found.uuid_hash, found.ecc) == ("unknown", "unknown", None, None)
    assert gpus.states() == [GpuState(None, None, [])]


@pytest.mark.parametrize(
    "changes",
    [
        {"nvmlInit": NVMLError("no driver")},
        {"nvmlDeviceGetCount": NVMLError("unknown")},
        {"nvmlDeviceGetCount": 0},
        {"nvmlDeviceGetHandleByIndex": NVMLError("no permission")},
    ],
)
def test_none_where_the_driver_shows_none(monkeypatch, changes) -> None:
    with_library(monkeypatch, **changes)
    assert gpus.gpus() == []
    assert gpus.states() == []


def test_none_without_the_library(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.gpus() == []


def watched(monkeypatch, found) -> str:
    """What is told after three looks, or as many as there are."""
    looks = iter([found] * 3)
    done = threading.Event()

    def states():
        try:
            return next(looks)
        except StopIteration:
            done.set()
            return []

    monkeypatch.setattr(gpus, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(gpus, "states", states)
    with gpus.Watch() as watch:
        if len(found) == 1:
            assert done.wait(60)
        return watch.take()


def test_clocks_are_watched(monkeypatch) -> None:
    state = GpuState(1700, 250.0, ["its power limit"])
    assert watched(monkeypatch, [state]) == "SM 1700 MHz, 250 W, slowed by its power limit"


@pytest.mark.parametrize("found", [[], [GpuState(1, 1.0, [])] * 2, [GpuState(None, None, [])]])
def test_nothing_is_said_where_nothing_is_known(monkeypatch, found) -> None:
    assert watched(monkeypatch, found) == ""


def test_the_real_library_has_every_name_that_is_used() -> None:
    pynvml = pytest.importorskip("pynvml")
    source = Path(gpus.__file__).read_text("utf-8")
    used = set(re.findall(r"(?:pynvml|nvml)\.(nvml\w+|NVML\w+)", source))
    reasons = {f"nvmlClocksThrottleReason{name}" for name in gpus.SLOWDOWNS}
    assert len(used) > 8
    assert {name for name in used | reasons if not hasattr(pynvml, name)} == set()
