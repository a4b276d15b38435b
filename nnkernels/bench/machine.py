"""What this machine is: the part of a result that says where it was measured.

Nothing here names a user or a home folder: :func:`scrub` cuts paths down to their last part.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
from threadpoolctl import threadpool_info

import nnkernels
from nnkernels.bench import gpus
from nnkernels.bench.results import Blas, Code, Identity, Machine, Volatile

ENVIRONMENT = ("OPENBLAS_", "OMP_", "NUMBA_", "MKL_", "KMP_", "GOTO_", "CUPY_TF32")
_FOLDERS = re.compile(r"(?<![\w.~])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:'\"]+[/\\])*(?=[^\s/\\:'\"])")


def scrub(text: str) -> str:
    """``text`` with the folders of absolute paths replaced by an ellipsis."""
    return _FOLDERS.sub("…/", text.replace(str(Path.home()), "~"))


def blas() -> Blas | None:
    """The BLAS library that NumPy loaded; None when threadpoolctl knows none."""
    folder = str(Path(np.__file__).parent)
    found = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    found.sort(key=lambda pool: not str(pool["filepath"]).startswith(folder))
    if not found:
        return None
    pool = found[0]
    return Blas(
        vendor=pool["internal_api"],
        version=pool.get("version"),
        kernel=pool.get("architecture"),
        threads=pool["num_threads"],
        layer=pool.get("threading_layer"),
    )


def environment() -> dict[str, str]:
    """Environment variables that change what is measured."""
    return {k: scrub(v) for k, v in sorted(os.environ.items()) if k.startswith(ENVIRONMENT)}


def warnings(env: Mapping[str, str]) -> list[str]:
    """What will make figures of this machine misleading."""
    found = []
    if "OPENBLAS_CORETYPE" in env:
        found.append(
            f"OPENBLAS_CORETYPE={env['OPENBLAS_CORETYPE']} forces an OpenBLAS kernel; matrix "
            "products can be half as fast as with the one that OpenBLAS would choose: unset it"
        )
    return found


@functools.cache
def identity() -> Identity:
    """The facts that make two measurements comparable."""
    return Identity(
        cpu=_cpu_name(),
        arch=platform.machine(),
        cores_usable=cores(),
        isa=_isa(),
        l3_bytes=_l3_bytes(),
        mem_bytes=psutil.virtual_memory().total,
        blas=blas(),
        python=platform.python_version(),
        numpy=np.__version__,
        numba=installed("numba"),
        cupy=installed("cupy"),
        os=f"{platform.system()} {platform.release()}",
        virt=_virtualisation(),
        gpus=gpus.gpus(),
    )


def fingerprint(facts: Identity) -> str:
    """SHA-256 of the identity: equal where figures may be compared."""
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


@dataclass(frozen=True, slots=True)
class Start:
    """What is noted when a run begins."""

    load: list[float] = field(default_factory=lambda: load())
    cpu_times: Any = field(default_factory=psutil.cpu_times)


def describe(start: Start) -> Machine:
    """The machine at the end of a run."""
    volatile = Volatile(
        load_start=start.load,
        load_end=load(),
        mhz=mhz(),
        governor=governor(),
        steal_pct=steal_percent(start.cpu_times, psutil.cpu_times()),
        gpus=gpus.states(),
    )
    return Machine(fingerprint(identity()), identity(), volatile, environment())


def code() -> Code:
    """Which nnkernels this is; the git facts only when it runs from a checkout."""
    return code_in(Path(nnkernels.__file__).resolve().parent, nnkernels.__version__)


def code_in(package: Path, version: str) -> Code:
    """Which nnkernels lies in the folder ``package``."""
    checkout = package.parent
    installed_in = checkout.name if checkout.name in ("site-packages", "dist-packages") else ""
    path = f"…/{installed_in}/nnkernels" if installed_in else "…/nnkernels"
    if not (checkout / ".git").exists():
        return Code(version, None, None, path)
    changes = _git(checkout, "status", "--porcelain")
    sha = _git(checkout, "rev-parse", "--verify", "HEAD")
    return Code(version, sha, None if changes is None else bool(changes), path)


def affinity() -> list[int] | None:
    """Numbers of the CPUs that this process may use, where the system tells."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))


def cores() -> int:
    """How many CPUs this process may use."""
    return len(affinity() or []) or os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Cache:
    """A data cache: ``L1`` to ``L3``, its bytes, and how many CPUs share one."""

    level: str
    nbytes: int
    shared_by: int

    def capacity(self, threads: int) -> int:
        """Bytes that ``threads`` threads have, on as many CPUs as there are for them."""
        return self.nbytes * max(1, min(threads, cores() // self.shared_by))


@functools.cache
def caches() -> tuple[Cache, ...]:
    """The data caches of the first CPU, the nearest first; none where the system does not tell."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size, shared = (
            _text(str(folder / name)) or "" for name in ("level", "type", "size", "shared_cpu_list")
        )
        if kind in ("Data", "Unified") and re.fullmatch(r"\d+K", size):
            found.append(Cache(f"L{level}", int(size[:-1]) * 1024, _count(shared)))
    return tuple(found)


def _count(cpus: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names; 1 where it names none."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", cpus)
    return sum(int(last or first) - int(first) + 1 for first, last in spans) or 1


def load() -> list[float]:
    """Load averages of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in psutil.getloadavg()]


def steal_percent(start: Any, end: Any) -> float | None:
    """Share of the CPU time that the hypervisor gave to others, where the system tells."""
    total = sum(end) - sum(start)
    if not hasattr(end, "steal") or total <= 0:
        return None
    stolen: float = end.steal - start.steal
    return round(100 * stolen / float(total), 3)


def mhz() -> list[float] | None:
    """Frequency of each CPU just now, where the system tells."""
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _text("/proc/cpuinfo") or "", re.MULTILINE)
    return [float(value) for value in found] or None


def governor() -> str | None:
    """What chooses the first CPU's frequency, where the system tells."""
    return _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def turbo() -> bool | None:
    """Whether frequencies may rise beyond the nominal one, where the system tells."""
    off = _text("/sys/devices/system/cpu/intel_pstate/no_turbo")
    on = _text("/sys/devices/system/cpu/cpufreq/boost")
    if off is not None:
        return off == "0"
    return None if on is None else on == "1"


def clock_source() -> str | None:
    """What the kernel reads the time from, where the system tells."""
    return _text("/sys/devices/system/clocksource/clocksource0/current_clocksource")


def memory_pressure() -> float | None:
    """Percent of the last ten seconds in which some task waited for memory, where told."""
    found = re.search(r"^some avg10=([\d.]+)", _text("/proc/pressure/memory") or "")
    return float(found[1]) if found else None


def installed(name: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _text(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return None


def _cpu_name() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo") or "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _isa() -> list[str]:
    """Vector instruction sets that NumPy found, its baseline first."""
    config: Any = np.show_config(mode="dicts")
    simd = config.get("SIMD Extensions", {})
    return [*simd.get("baseline", []), *simd.get("found", [])]


def _l3_bytes() -> int | None:
    size = _text("/sys/devices/system/cpu/cpu0/cache/index3/size") or ""
    return int(size[:-1]) * 1024 if size.endswith("K") else None


def _virtualisation() -> str | None:
    if any(Path(p).exists() for p in ("/.dockerenv", "/run/.containerenv")):
        return "container"
    info = _text("/proc/cpuinfo")
    if info is None:
        return None
    return "vm" if re.search(r"^flags\s*:.*\bhypervisor\b", info, re.MULTILINE) else "none"
