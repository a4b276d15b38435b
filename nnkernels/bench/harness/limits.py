"""How fast this process can compute and move memory: what no workload in it can exceed.

Threads are Python's, over functions that let the GIL go; each makes and touches its own arrays, so
that their pages are near it. The rate of a round is all threads' work over the time from the first
start to the last end, and the best round counts.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import loops
from .timing import held_to

ROUND_SECONDS = 0.002
"""A round lasts about so long: much longer than what it takes all threads to start."""

PATIENCE = 60.0
"""Seconds that threads wait for each other before all of them give up."""

Work = Callable[[int], None]
"""Does something a number of times."""


@dataclass(frozen=True, slots=True)
class Effort:
    """At most so many rounds, and no more once so many seconds are over."""

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Work a second; None where there is no way to measure it here. ``method`` says what ran.

    ``level`` is the memory that the arrays fit in, where the asked device knows better.
    """

    value: float | None
    method: str
    level: str | None = None


def gemm(dtype: str, size: int, threads: int | None, effort: Effort) -> Rate:
    """Flops a second of a square product by NumPy's BLAS, with random operands."""
    rng = np.random.default_rng(size)
    a, b = (rng.standard_normal((size, size)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)
    deadline = time.perf_counter() + effort.seconds
    best = math.inf
    with held_to(threads):
        np.matmul(a, b, out=out)
        for _ in range(effort.rounds):
            best = min(best, _seconds(lambda _: np.matmul(a, b, out=out), 1))
            if time.perf_counter() > deadline:
                break
    return Rate(2.0 * size**3 / best, f"np.matmul, n={size}")


def fma(dtype: str, threads: int, effort: Effort) -> Rate:
    """Flops a second of multiply-add chains in vector registers."""
    if not loops.available():
        return Rate(None, "Numba is not available")
    loop, flops = loops.multiplying(dtype)
    kind = np.dtype(dtype).type

    def prepared() -> Work:
        return lambda repeats: loop(kind(1), kind(0.5), repeats)

    value = _rate(prepared, flops, threads, effort, start=10_000)
    return Rate(value, f"multiply-adds on {loops.CHAINS} vectors, compiled loop")


def read(nbytes: int, threads: int, effort: Effort) -> Rate:
    """Bytes read a second, from arrays of ``nbytes`` in all."""
    if loops.available():
        return _stream(nbytes, threads, effort, 1, loops.reading(), "sum, compiled loop")
    return _stream(nbytes, threads, effort, 1, _repeated(lambda a: a.sum()), "ndarray.sum")


def copy(nbytes: int, threads: int, effort: Effort) -> Rate:
    """Bytes read and written a second by copying, between arrays of ``nbytes`` in all."""
    if loops.available():
        return _stream(nbytes, threads, effort, 2, loops.copying(), "memcpy, compiled loop")
    return _stream(nbytes, threads, effort, 2, _repeated(np.copyto), "np.copyto")


def triad(nbytes: int, threads: int, effort: Effort) -> Rate:
    """Bytes read and written a second by ``a = b + s c``, with arrays of ``nbytes`` in all."""
    if loops.available():
        return _stream(nbytes, threads, effort, 3, loops.triad(), "a = b + s c, compiled loop")
    add = _repeated(lambda a, b, c: np.add(b, c, out=a))
    return _stream(nbytes, threads, effort, 3, add, "np.add")


KINDS: Mapping[str, Callable[..., Rate]] = {
    "gemm": gemm,
    "fma": fma,
    "read": read,
    "copy": copy,
    "triad": triad,
}


def _repeated(function: Callable[..., Any]) -> Callable[..., None]:
    """``(*arrays, repeats)``, for functions of NumPy."""

    def run(*arguments: Any) -> None:
        *arrays, repeats = arguments
        for _ in range(repeats):
            function(*arrays)

    return run


def _stream(
    nbytes: int, threads: int, effort: Effort, arrays: int, loop: Callable[..., Any], method: str
) -> Rate:
    length = max(1, nbytes // (4 * arrays * threads))

    def prepared() -> Work:
        made = [np.full(length, 1.0 + number, np.float32) for number in range(arrays)]
        return lambda repeats: loop(*made, repeats)

    return Rate(_rate(prepared, 4 * arrays * length, threads, effort), method)


def _rate(
    prepared: Callable[[], Work], amount: float, threads: int, effort: Effort, start: int = 1
) -> float:
    """The best rate of ``threads`` that each do ``amount`` a repeat.

    ``prepared`` is called in each thread, and gives its work, which is first tried ``start`` times.
    """
    plan = _Plan(effort, start)
    barrier = threading.Barrier(threads, plan.meet)

    def guarded(number: int) -> list[tuple[float, float]]:
        try:
            return member(number)
        except BaseException:
            barrier.abort()
            raise

    def member(number: int) -> list[tuple[float, float]]:
        work, spans = prepared(), []
        work(start)
        barrier.wait(PATIENCE)
        if number == 0:
            plan.begin(work)
        for _ in range(effort.rounds):
            barrier.wait(PATIENCE)
            if plan.over:
                break
            begin = time.perf_counter()
            work(plan.repeats)
            spans.append((begin, time.perf_counter()))
        return spans

    with ThreadPoolExecutor(threads) as pool:
        rounds = list(zip(*pool.map(guarded, range(threads)), strict=True))
    seconds = [max(e for _, e in spans) - min(b for b, _ in spans) for spans in rounds]
    best: float = max(min(seconds), 1e-9)
    return amount * threads * plan.repeats / best


class _Plan:
    """How often the work is repeated in a round, and when there have been enough of them.

    It changes only while all threads wait at their barrier, or all others do.
    """

    def __init__(self, effort: Effort, start: int) -> None:
        self.repeats, self.over = start, False
        self._seconds = effort.seconds
        self._meetings, self._deadline = 0, math.inf

    def begin(self, work: Work) -> None:
        """Choose the repeats: twice, for a single call may be too short to be timed."""
        for _ in range(2):
            taken = min(_seconds(work, self.repeats) for _ in range(3))
            self.repeats = max(1, round(self.repeats * ROUND_SECONDS / max(taken, 1e-9)))

    def meet(self) -> None:
        """All threads have come to the barrier: first with their work, then before each round."""
        now = time.perf_counter()
        self._meetings += 1
        if self._meetings == 2:
            self._deadline = now + self._seconds
        self.over = now > self._deadline


def _seconds(work: Callable[[int], object], repeats: int) -> float:
    begin = time.perf_counter()
    work(repeats)
    return time.perf_counter() - begin
