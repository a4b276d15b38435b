"""Taking samples: prime first, then in turns, one candidate after the other.

A sample is a number of loops that last about :data:`SAMPLE_SECONDS`, timed with the garbage
collector off. The candidates of one workload take turns in random order, so that drift of the
machine falls on all of them alike; each has a process of its own (``worker.py``).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .workload import Runner

SAMPLE_SECONDS = 0.008
REWARM_SECONDS = 0.1
"""A sample of calls shorter than this begins with one that is not timed.

Candidates take turns, so each finds the caches full of another's data; that matters to the first
call (W2's step: a tenth), and not to calls so long that they fill the caches many times over.
"""

STABLE = 0.05
"""Two batches of calls that differ by less end the priming."""

RESTING = 0.005
"""A process rests when it uses less than a quarter of so many seconds; Linux counts 4 ms ticks."""

SETTLE_SECONDS = 0.1
"""The longest wait for a process to rest."""

_USAGE = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextlib.contextmanager
def held_to(threads: int | None) -> Iterator[None]:
    """Hold the BLAS libraries to ``threads`` threads; None leaves them as they are."""
    if threads is None:
        yield
        return
    with _controller().limit(limits=threads, user_api="blas"):
        yield


@dataclass(slots=True)
class Track:
    """A candidate on a workload, and how its samples are taken.

    Attributes:
        runner: what is timed.
        threads: BLAS threads it runs with; None is the library's own number.
        loops: calls a sample.
        rewarm: whether a call that is not timed comes before every sample.
        prime_calls: calls made before the first sample.
        compile_s: seconds that the first call took beyond a later one.
        first: seconds of the very first call; None: there was none yet.
        seconds: that a call took in the fastest batch of the priming.
    """

    runner: Runner
    threads: int | None = None
    loops: int = 1
    rewarm: bool = False
    prime_calls: int = 0
    compile_s: float = 0.0
    first: float | None = None
    seconds: float = 0.0


def elapsed(runner: Runner, loops: int) -> float:
    """Seconds of one ``run``."""
    start = time.perf_counter()
    runner.run(loops)
    return time.perf_counter() - start


def prime(track: Track, first: float, limit: float) -> None:
    """Call until two batches of calls agree or ``limit`` seconds are over; choose the loops.

    ``first`` is the duration of a call made before, the very first. A sample lasts about
    :data:`SAMPLE_SECONDS`, or one call where that is longer.
    """
    deadline = time.perf_counter() + limit
    loops, before, best = 1, first, first
    with held_to(track.threads):
        while True:
            now = elapsed(track.runner, loops) / loops
            track.prime_calls += loops
            best = min(best, now)
            stable = abs(now - before) <= STABLE * max(now, before)
            long_enough = now * loops >= SAMPLE_SECONDS / 4
            if (stable and long_enough) or time.perf_counter() > deadline:
                break
            loops, before = loops if long_enough else 2 * loops, now
    track.loops = max(1, round(SAMPLE_SECONDS / max(best, 1e-9)))
    track.rewarm = best < REWARM_SECONDS
    track.compile_s = first - best
    track.seconds = best


def take(track: Track, loops: int) -> tuple[float, bool]:
    """Take one sample: seconds a call, and whether this CPU ran something else meanwhile."""
    with _sampling(track) as switched:
        if track.rewarm:
            track.runner.run(1)
        before = switched()
        seconds = elapsed(track.runner, loops)
        return seconds / loops, switched() > before


def take_cold(track: Track, loops: int, evict: Callable[[], None]) -> tuple[float, bool]:
    """Take one sample of calls that find nothing in the caches; each is timed by itself.

    So each carries the price of reading the clock twice, some 0.1 us.
    """
    seconds, interrupted = 0.0, False
    with _sampling(track) as switched:
        for _ in range(loops):
            evict()
            before = switched()
            seconds += elapsed(track.runner, 1)
            interrupted |= switched() > before
    return seconds / loops, interrupted


@contextlib.contextmanager
def _sampling(track: Track) -> Iterator[Callable[[], int]]:
    """Within: no garbage collection, the track's threads; how often the CPU was taken away."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with held_to(track.threads):
            yield lambda: resource.getrusage(_USAGE).ru_nivcsw
    finally:
        if collecting:
            gc.enable()


def settle(threads: int | None) -> None:
    """Wait until the threads of this process rest; a single one does when its call returns.

    A library's idle threads spin for a while (OpenBLAS: 2^26 cycles), on a CPU that the next
    process in turn needs.
    """
    deadline = time.perf_counter() + SETTLE_SECONDS
    while threads != 1 and time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(RESTING)
        if time.process_time() - before < RESTING / 4:
            return


def interleave(
    takers: Sequence[Callable[[], None]],
    rng: np.random.Generator,
    *,
    seconds: float,
    least: int,
    most: int,
    enough: Callable[[], bool],
) -> None:
    """Let all take samples in turns: at least ``least`` rounds, at most ``most``.

    Between the two it ends when ``seconds`` are over or ``enough()`` is true.
    """
    deadline = time.perf_counter() + seconds
    for done in range(most):
        if done >= least and (time.perf_counter() > deadline or enough()):
            return
        for index in rng.permutation(len(takers)):
            takers[index]()
