"""What NVIDIA's management library says about the GPUs; nothing where it, or a driver, is missing.

It is the distribution ``nvidia-ml-py`` (module ``pynvml``), an optional extra. Nothing here makes a
CUDA context.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import threading
from collections.abc import Callable, Iterator
from typing import Any

from nnkernels.bench.results import Gpu, GpuState

SLOWDOWNS = {
    "SwPowerCap": "its power limit",
    "HwSlowdown": "its hardware",
    "HwThermalSlowdown": "heat (hardware)",
    "SwThermalSlowdown": "heat (driver)",
    "HwPowerBrakeSlowdown": "the power supply",
}
"""Reasons for a lower clock that change what is measured, by NVML's names."""


LOOK_SECONDS = 0.1
"""Between two looks at the clocks."""


def gpus() -> list[Gpu]:
    """All GPUs of the machine, whether CUDA shows them or not."""
    with _devices() as (nvml, handles):
        return [_gpu(nvml, handle) for handle in handles]


def states() -> list[GpuState]:
    """Of all GPUs, in the order of :func:`gpus`."""
    with _devices() as (nvml, handles):
        return [_state(nvml, handle) for handle in handles]


class Watch:
    """Looks at the clocks again and again within a ``with`` block.

    Only where there is a single GPU: which of several CUDA calls the first one is not known here.
    """

    def __init__(self) -> None:
        self._seen: list[GpuState] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            found = states()
            if len(found) != 1:
                return
            self._seen += found

    def take(self) -> str:
        """What was seen since the last time, in words; empty where nothing was."""
        seen, self._seen = self._seen, []
        clocks = [state.sm_mhz for state in seen if state.sm_mhz is not None]
        powers = [state.power_w for state in seen if state.power_w is not None]
        slowed = sorted({why for state in seen for why in state.throttle})
        parts = [
            *([f"SM {statistics.mean(clocks):.0f} MHz"] if clocks else []),
            *([f"{statistics.mean(powers):.0f} W"] if powers else []),
            *([f"slowed by {' and '.join(slowed)}"] if slowed else []),
        ]
        return ", ".join(parts)


@contextlib.contextmanager
def _devices() -> Iterator[tuple[Any, list[Any]]]:
    """The library and a handle for each GPU."""
    try:
        import pynvml
    except ImportError:
        yield None, []
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield pynvml, []
        return
    try:
        count = _told(pynvml, pynvml.nvmlDeviceGetCount) or 0
        found = [_told(pynvml, pynvml.nvmlDeviceGetHandleByIndex, i) for i in range(count)]
        yield pynvml, [handle for handle in found if handle is not None]
    finally:
        pynvml.nvmlShutdown()


def _told(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` gives; None where this GPU or driver does not tell."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _gpu(nvml: Any, handle: Any) -> Gpu:
    uuid = _told(nvml, nvml.nvmlDeviceGetUUID, handle)
    capability = _told(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    ecc = _told(nvml, nvml.nvmlDeviceGetEccMode, handle)
    driver = _told(nvml, nvml.nvmlSystemGetDriverVersion)
    return Gpu(
        name=_text(_told(nvml, nvml.nvmlDeviceGetName, handle)) or "unknown",
        uuid_hash=hashlib.sha256(_text(uuid).encode()).hexdigest()[:12] if uuid else None,
        cc=".".join(map(str, capability)) if capability else "unknown",
        mem_bytes=int(memory.total) if memory else 0,
        driver=_text(driver) or None,
        l2_bytes=None,
        ecc=bool(ecc[0]) if ecc else None,
    )


def _state(nvml: Any, handle: Any) -> GpuState:
    power = _told(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    reasons = _told(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    slowing = (
        words
        for name, words in SLOWDOWNS.items()
        if reasons & getattr(nvml, f"nvmlClocksThrottleReason{name}")
    )
    return GpuState(
        sm_mhz=_told(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
        power_w=None if power is None else power / 1000,
        throttle=list(slowing),
    )


def _text(value: Any) -> str:
    """Older versions give bytes."""
    return value.decode() if isinstance(value, bytes) else str(value or "")
