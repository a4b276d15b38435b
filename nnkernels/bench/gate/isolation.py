"""Where the workers of both sides run: on the same CPUs, in the same environment but for caches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

import platformdirs
import psutil

Which = Literal["a", "b"]

COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables that say how many threads a library starts."""

QUIET = {
    # Idle BLAS threads sleep after 2^4 cycles: they would spin on the CPU that the other side uses.
    "OPENBLAS_THREAD_TIMEOUT": "4",
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "",
}
CACHES = ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "CUPY_CACHE_DIR")
"""Variables that move compiled code; nnkernels' own lies in the first one's folder."""

LOOK_SECONDS = 0.2
"""How long the CPUs are watched to find the idle ones."""


def environment(which: Which, threads: int) -> Mapping[str, str]:
    """Variables of one side's workers; its caches stay, for the next run of that side."""
    folder = Path(platformdirs.user_cache_dir("nnkernels")) / "gate" / which
    caches = {name: str(folder / name.lower().partition("_")[0]) for name in CACHES}
    return {**dict.fromkeys(COUNTS, str(threads)), **QUIET, **caches}


def idlest(count: int) -> list[int]:
    """Numbers of the ``count`` CPUs that were least busy just now, of those that we may use."""
    usable = sorted(os.sched_getaffinity(0))
    if count >= len(usable):
        return usable
    busy = psutil.cpu_percent(LOOK_SECONDS, percpu=True)
    # Interrupts prefer the first CPUs: of equally idle ones the last are taken.
    usable.sort(key=lambda cpu: (round(busy[cpu], -1) if cpu < len(busy) else 0.0, -cpu))
    return sorted(usable[:count])


def pin(pid: int, cpus: Collection[int]) -> None:
    """Hold all threads of a process to ``cpus``; new ones follow the thread that starts them."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cpus)


@contextlib.contextmanager
def aside(cpus: Collection[int]) -> Iterator[None]:
    """Keep this process off ``cpus``, where it has others, so that it interrupts no sample."""
    usable = os.sched_getaffinity(0)
    others = usable - set(cpus) or usable
    pin(os.getpid(), others)
    try:
        yield
    finally:
        pin(os.getpid(), usable)
