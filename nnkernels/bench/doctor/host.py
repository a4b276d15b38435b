"""The machine beside us: load, limits, clocks, interruptions, memory, GPUs.

Reading takes a moment, judging is apart from it: every check is a pair of functions.
"""

from __future__ import annotations

import functools
import itertools
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from nnkernels import plugins
from nnkernels.bench import gpus, machine
from nnkernels.bench.doctor.finding import Finding, judged
from nnkernels.bench.results import Gpu, GpuState
from nnkernels.bench.text import counted, digits, duration, listed, percent

LOOK_SECONDS = 0.5
SPIN_SECONDS = 1.0

BUSY_SHARE = 0.1
"""Share of the CPU time that others may take."""

LOST_SHARE = 0.02
"""Share of a second that a single busy thread may not run."""

STEAL_PERCENT = 1.0
PRESSURE = 1.0
"""Percent of the time that some task may wait for memory."""

AVAILABLE_SHARE = 0.1
RESOLUTION = 1e-6
GOOD_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


# --- load ---------------------------------------------------------------------------------------


def load() -> Finding:
    """How busy others keep the CPUs while we wait."""
    busy = psutil.cpu_percent(LOOK_SECONDS) / 100
    return judge_load(busy, machine.load()[0], psutil.cpu_count() or 1)


def judge_load(busy: float, average: float, cpus: int) -> Finding:
    """``busy``: the share of all CPU time that others used; ``average``: of one minute."""
    return judged(
        "load",
        bad=busy > BUSY_SHARE,
        text=f"others keep {digits(busy * cpus)} of {counted(cpus, 'CPU')} busy; "
        f"load {average:.2f}",
        remedy="close what else runs, or measure with fewer --threads than CPUs are idle",
        figures={"busy_share": busy, "load_1": average},
    )


# --- limits -------------------------------------------------------------------------------------


def quota() -> Finding:
    """Whether a container may use the CPUs that it sees."""
    try:
        text = CGROUP_LIMIT.read_text()
    except OSError:
        text = "max"
    return judge_quota(text, machine.cores())


def judge_quota(text: str, cores: int) -> Finding:
    """``text``: of ``cpu.max`` (cgroup v2), the allowed time and its period, or ``max``."""
    allowed, _, period = text.strip().partition(" ")
    limit = int(allowed) / int(period) if allowed.isdecimal() and period.isdecimal() else None
    told = "no limit of the container" if limit is None else f"the container may use {limit:g}"
    return judged(
        "CPU limit",
        bad=limit is not None and limit < cores,
        text=f"{counted(cores, 'CPU')} usable, {told}",
        remedy="threads beyond the limit are stopped in turns: use --threads "
        f"{max(1, int(limit or 1))}",
        figures={"usable": float(cores), "limit": limit},
    )


# --- clocks -------------------------------------------------------------------------------------


def clock() -> Finding:
    """Whether the CPU's frequency is held."""
    turbo = machine.turbo()
    return judge_clock(machine.governor(), turbo, machine.mhz())


def judge_clock(governor: str | None, turbo: bool | None, mhz: list[float] | None) -> Finding:
    """None is what the system does not tell."""
    parts = [
        "frequency unknown" if not mhz else f"{min(mhz):.0f} to {max(mhz):.0f} MHz",
        f"governor {governor or 'not shown'}",
        {None: "turbo not shown", True: "turbo on", False: "turbo off"}[turbo],
    ]
    return judged(
        "clock",
        bad=governor not in (None, "performance"),
        text=", ".join(parts),
        remedy="sudo cpupower frequency-set -g performance",
        figures={
            "mhz_min": min(mhz) if mhz else None,
            "mhz_max": max(mhz) if mhz else None,
            "turbo": None if turbo is None else float(turbo),
        },
    )


def timer() -> Finding:
    """How fine and how cheap the timer is."""
    reads = [time.perf_counter() for _ in range(2000)]
    steps = [b - a for a, b in itertools.pairwise(reads)]
    source = machine.clock_source()
    return judge_timer(steps, time.get_clock_info("perf_counter").monotonic, source)


def judge_timer(steps: list[float], monotonic: bool, source: str | None) -> Finding:
    """``steps``: seconds from one reading to the next."""
    resolution = min((s for s in steps if s > 0), default=0.0)
    steady = monotonic and min(steps) >= 0
    price = statistics.median(steps)
    slow = source is not None and source not in GOOD_CLOCKS
    told = "" if source is None else f", clock source {source}"
    return judged(
        "timer",
        bad=resolution > RESOLUTION or not steady or slow,
        text=f"{duration(price)} a reading, {'monotonic' if steady else 'NOT monotonic'}{told}",
        remedy="choose the clock source tsc (kernel parameter clocksource=tsc), or another machine",
        figures={"reading_s": price, "resolution_s": resolution},
    )


# --- interruptions ------------------------------------------------------------------------------


class Spin(NamedTuple):
    """One busy thread: seconds it had, seconds it ran, how often it was stopped, steal."""

    wall: float
    cpu: float
    switches: int
    steal_percent: float | None


def interruptions() -> Finding:
    """How often a single busy thread is stopped."""
    return judge_spin(_spin(SPIN_SECONDS))


def _spin(seconds: float) -> Spin:
    usage = functools.partial(
        resource.getrusage, getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
    )
    times, switches = psutil.cpu_times(), usage().ru_nivcsw
    begin, cpu = time.perf_counter(), time.thread_time()
    while time.perf_counter() - begin < seconds:
        pass
    wall, ran = time.perf_counter() - begin, time.thread_time() - cpu
    steal = machine.steal_percent(times, psutil.cpu_times())
    return Spin(wall, ran, usage().ru_nivcsw - switches, steal)


def judge_spin(spin: Spin) -> Finding:
    """A thread that wants to run should run."""
    lost = max(0.0, 1 - spin.cpu / spin.wall)
    steal = spin.steal_percent
    told = "unknown" if steal is None else f"{digits(steal)} %"
    stolen = (steal or 0.0) > STEAL_PERCENT
    return judged(
        "interruptions",
        bad=lost > LOST_SHARE or stolen,
        text=f"a busy thread was stopped {spin.switches / spin.wall:.0f} times a second and lost "
        f"{percent(lost)} of its time; steal {told}",
        remedy="another guest takes the CPU: use a dedicated machine"
        if stolen
        else "other processes take the CPU: close them, or let 'ab' repeat what was interrupted",
        figures={
            "switches_per_s": spin.switches / spin.wall,
            "lost_share": lost,
            "steal_percent": steal,
        },
    )


# --- memory -------------------------------------------------------------------------------------


def memory() -> Finding:
    """Whether memory is short."""
    free = psutil.virtual_memory()
    before = psutil.swap_memory()
    time.sleep(LOOK_SECONDS / 5)
    swapped = psutil.swap_memory().sin - before.sin
    return judge_memory(free.available, free.total, swapped, machine.memory_pressure())


def judge_memory(available: int, total: int, swapped: int, pressure: float | None) -> Finding:
    """``swapped``: bytes that came back meanwhile; ``pressure``: percent of 10 s spent waiting."""
    waiting = "" if pressure is None else f", tasks waited for it {digits(pressure)} % of the time"
    swapping = ", and pages are being swapped in" if swapped else ""
    short = available < AVAILABLE_SHARE * total
    return judged(
        "memory",
        bad=short or swapped > 0 or (pressure or 0.0) > PRESSURE,
        text=f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB available{waiting}{swapping}",
        remedy="close what uses memory: a page that comes from the disk takes longer than a kernel",
        figures={
            "available_bytes": float(available),
            "total_bytes": float(total),
            "pressure_percent": pressure,
        },
    )


# --- GPUs ---------------------------------------------------------------------------------------


def gpu() -> Finding:
    """Which GPUs there are, and why backend cupy cannot use them."""
    reason = plugins.availability().get("cupy", "there is no backend 'cupy'")
    return judge_gpu(gpus.gpus(), reason and machine.scrub(reason), gpus.states())


def judge_gpu(found: Sequence[Gpu], reason: str | None, states: Sequence[GpuState]) -> Finding:
    """``reason``: why cupy cannot work; a GPU that it cannot use, or that is slowed, is bad."""
    slowed = sorted({why for state in states for why in state.throttle})
    names = listed([one.name for one in found]) if found else "none visible"
    if reason is None:
        text = names if found else "backend 'cupy' works; nvidia-ml-py would name its device"
    else:
        text = f"{names}; rows of backend 'cupy' are skipped: {reason}"
    if slowed:
        text += f"; slowed by {listed(slowed)}"
    return judged(
        "GPU",
        bad=bool(slowed) or bool(found and reason),
        text=text,
        remedy="let it cool, or raise its limits (nvidia-smi -q -d PERFORMANCE)"
        if slowed
        else "make backend 'cupy' work as it says, or leave the GPU out of what you claim",
        figures={"gpus": float(len(found))},
    )
