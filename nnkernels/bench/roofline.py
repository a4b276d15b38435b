"""Where a measured time sits under the measured ceilings, and whether it is possible at all.

The roofline model (Williams, Waterman and Patterson, 2009): a call of ``flop`` operations that
moves ``bytes`` cannot end before ``flop / compute`` nor before ``bytes / bandwidth`` seconds; the
later of the two is its bound. Both ceilings are measured (:mod:`nnkernels.bench.ceilings`), for the
dtype, and with no more threads than the call had. The bandwidth is that of a working set as large
as the call's traffic, so that what fits in a cache is compared with the cache. Calls of little
arithmetic are counted by their bytes alone: additions are not what the ceiling of multiply-adds is
about.

A rate beyond the ceiling is impossible. With several threads a rate between the ceiling, and what
one thread reaches times their number, is not: then the ceiling was measured in a busy moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from nnkernels.bench.harness.workload import COMPUTE_BOUND
from nnkernels.bench.results import Ceiling, Result, TimesByKind
from nnkernels.errors import InputError
from nnkernels.names import parse_backend

COMPUTE = "compute"
"""Name of the bound of arithmetic; those of traffic are the levels of memory."""

LAUNCHES = "launches"
"""Name of the bound where a device waits for the host; then nothing is said of its peak."""

LAUNCH_SHARE = 0.8
"""Of the kernel time, from which on the host's queueing is its bound."""

TOLERANCE = 1.05
"""A rate of more than so many times its ceiling is impossible."""

MEMORY = "memory"

REUSE = 3
"""How many times a call's traffic may count a byte that it keeps in a cache.

An optimizer's update reads and writes an array; a training step also reads its weights twice.
"""

COMPUTE_CEILINGS = ("gemm_flops", "fma_flops")
BANDWIDTH_CEILINGS = ("read_bw", "copy_bw", "triad_bw")


class CostLike(Protocol):
    """Model cost of one call."""

    @property
    def flop(self) -> float:
        """Additions and multiplications; transcendental functions are none."""

    @property
    def bytes(self) -> float:
        """Compulsory traffic, read and written."""


class Judgement(NamedTuple):
    """What the ceilings say about a time.

    Attributes:
        pct_peak: the rate as a fraction of the ceiling that bounds the call; None without one, and
            where the ceiling was evidently measured in a busier moment than the call.
        bound: ``compute``, or the level of memory: ``L1``, ``L2``, ``L3``, ``memory``.
        impossible: why the time cannot be true; None where it can.
    """

    pct_peak: float | None
    bound: str | None
    impossible: str | None


def judge(
    cost: CostLike,
    seconds: float,
    *,
    dtype: str,
    ceilings: Iterable[Ceiling],
    threads: int | None = None,
    device: str = "cpu",
) -> Judgement:
    """Compare ``seconds`` a call with the ceilings of ``device``.

    Args:
        cost: of the call.
        seconds: measured, positive.
        dtype: of the arithmetic: a dtype, or a precision such as ``tf32``.
        ceilings: measured ones, of any devices.
        threads: of the call; None: as many as any ceiling was measured with.
        device: that the call ran on.
    """
    usable = _with_threads([c for c in ceilings if c.device == device], threads)
    compute = _compute(usable, dtype)
    limits = [_time(cost.bytes, _memory(usable, cost.bytes))]
    if cost.flop >= COMPUTE_BOUND * cost.bytes:
        limits.append(_time(cost.flop, compute))
    least, bound = max(limits)
    if not least:
        return Judgement(None, None, None)
    if least > TOLERANCE * seconds and bound != COMPUTE:
        least, bound = _time(cost.bytes, _memory(usable, cost.bytes / REUSE))
    most = _scaled(usable, threads)
    reasons = [
        _impossible(cost.flop / seconds, _compute(most, dtype)),
        _impossible(cost.bytes / seconds, _memory(most, cost.bytes / REUSE)),
    ]
    share = least / seconds
    believed = share if share <= TOLERANCE else None
    return Judgement(believed, bound, next((r for r in reasons if r), None))


def _time(work: float, ceiling: Ceiling | None) -> tuple[float, str]:
    """Seconds that ``work`` takes at least, and what bounds it."""
    if ceiling is None:
        return 0.0, MEMORY
    return work / ceiling.value, COMPUTE if ceiling.unit == "FLOP/s" else ceiling.level or MEMORY


def impossible_times(times: TimesByKind) -> str | None:
    """What is wrong where a kernel took longer than the call that contains it, beyond the noise."""
    kernel, call = times.kernel, times.call
    if not (kernel and call) or kernel.ci[0] <= TOLERANCE * call.ci[1]:
        return None
    return (
        f"impossible times: the kernel took {kernel.median:.3g} s, the call that contains it "
        f"{call.median:.3g} s; missing synchronisation"
    )


def launch_bound(times: TimesByKind) -> bool:
    """Whether the host needed most of the time to queue the calls: the device waited for it."""
    kernel, queued = times.kernel, times.queued
    return bool(kernel and queued and queued.median >= LAUNCH_SHARE * kernel.median)


def judged(result: Result, ceilings: Sequence[Ceiling]) -> Result:
    """``result`` with its fraction of the peak and its bound; failed where it is impossible.

    A GPU's row is judged by its kernel time where there is one, which cannot be longer than the
    call. Rows without times, or without ceilings to compare with, are returned as they are.
    """
    times = result.times.kernel or result.times.call
    if times is None:
        return result
    if reason := impossible_times(result.times):
        return replace(result, status="failed", reason=reason)
    if not ceilings:
        return result
    if launch_bound(result.times):
        return replace(result, rates=replace(result.rates, pct_peak=None, bound=LAUNCHES))
    found = judge(
        result.cost,
        times.median,
        dtype=_arithmetic(result),
        ceilings=ceilings,
        threads=result.threads,
        device=result.device or "cpu",
    )
    if found.impossible:
        return replace(result, status="failed", reason=found.impossible)
    rates = replace(result.rates, pct_peak=found.pct_peak, bound=found.bound)
    return replace(result, rates=rates)


def judged_all(
    found: Sequence[Result], ceilings: Sequence[Ceiling], again: Callable[[], Iterable[Ceiling]]
) -> tuple[list[Result], list[Ceiling]]:
    """Every result judged, and the ceilings that they were judged by.

    Where one seems impossible the ceilings are measured ``again`` first, and the best of both
    counts: the machine may have been busy when they were measured, and idle after.
    """
    rows = [judged(result, ceilings) for result in found]
    if any(row.status != result.status for row, result in zip(rows, found, strict=True)):
        ceilings = merged(ceilings, again())
        rows = [judged(result, ceilings) for result in found]
    return rows, list(ceilings)


def _arithmetic(result: Result) -> str:
    """The precision that a backend was asked for by name, else the dtype."""
    try:
        settings = parse_backend(result.backend).settings
    except InputError:  # a label, not the name of a backend
        return result.dtype
    return str(settings.get("precision", result.dtype)).replace("fp32", "float32")


def merged(*measured: Iterable[Ceiling]) -> list[Ceiling]:
    """The best of each ceiling: what a machine reached once, it can reach."""
    best: dict[tuple[object, ...], Ceiling] = {}
    for ceiling in (c for found in measured for c in found):
        key = (ceiling.device, ceiling.what, ceiling.dtype, ceiling.threads, ceiling.array_bytes)
        if key not in best or ceiling.value > best[key].value:
            best[key] = ceiling
    return list(best.values())


def _with_threads(ceilings: Sequence[Ceiling], threads: int | None) -> list[Ceiling]:
    """Those with at most ``threads``; those with the fewest where all have more.

    What fewer threads reach, more can reach too: on a busy machine they sometimes do not.
    """
    counted = [c.threads for c in ceilings if c.threads is not None]
    if threads is None or not counted:
        return list(ceilings)
    most = max(threads, min(counted))
    return [c for c in ceilings if c.threads is None or c.threads <= most]


def _scaled(ceilings: Sequence[Ceiling], threads: int | None) -> list[Ceiling]:
    """What ``threads`` could reach at most, if each reached what one of fewer did."""
    counted = [c.threads for c in ceilings if c.threads is not None]
    count = max([threads or 1, *counted])
    return [replace(c, value=c.value * count / (c.threads or count)) for c in ceilings]


def _compute(ceilings: Iterable[Ceiling], dtype: str) -> Ceiling | None:
    return _best(c for c in ceilings if c.what in COMPUTE_CEILINGS and c.dtype == dtype)


def _memory(ceilings: Iterable[Ceiling], nbytes: float) -> Ceiling | None:
    return _level([c for c in ceilings if c.what in BANDWIDTH_CEILINGS], nbytes)


def _best(ceilings: Iterable[Ceiling]) -> Ceiling | None:
    return max(ceilings, key=lambda c: c.value, default=None)


def _level(ceilings: Sequence[Ceiling], nbytes: float) -> Ceiling | None:
    """The bandwidth of the largest measured working set within ``nbytes``, with its level.

    A smaller working set is never slower: the best of that and all larger ones counts.
    """
    sizes = sorted({c.array_bytes for c in ceilings if c.array_bytes})
    if not sizes:
        return _best(ceilings)
    floor = max([size for size in sizes if size <= nbytes], default=sizes[0])
    level = next(c.level for c in ceilings if c.array_bytes == floor)
    best = _best(c for c in ceilings if (c.array_bytes or 0) >= floor)
    return best and replace(best, level=level)


def _impossible(rate: float, ceiling: Ceiling | None) -> str | None:
    """Why ``rate`` cannot be."""
    if ceiling is None or rate <= TOLERANCE * ceiling.value:
        return None
    return (
        f"impossible rate: {rate:.3g} {ceiling.unit} is {rate / ceiling.value:.2f} times the "
        f"measured ceiling of {ceiling.value:.3g} {ceiling.unit} ({ceiling.what}, "
        f"{ceiling.method}); missing sync, cached result or wrong cost model"
    )
