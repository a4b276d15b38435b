"""The ceilings of this machine, measured in a worker like those that run the workloads.

Arithmetic: the best of square matrix products by NumPy's BLAS, and of multiply-add chains in
registers. Traffic: reading, copying and a triad, over working sets from the first-level cache to
arrays of four times the last one (the rule of STREAM, McCalpin 1995). Bytes are those that the
program reads and writes; what a store reads before it writes is not counted, nor is what two
threads do to each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from nnkernels.bench import machine
from nnkernels.bench.results import Ceiling
from nnkernels.bench.workers import Settings, Worker

CONVENTION = "bytes the program reads and writes; what a store reads first is not counted"
PATIENCE = 120.0
"""Seconds after which a worker that does not answer is killed."""

SMALLEST = 16 << 10
DEFAULT_CACHE = 32 << 20
"""Taken for the last-level cache where the system does not tell it."""

ARRAYS = {"read": 1, "copy": 2, "triad": 3}
Unit = Literal["FLOP/s", "B/s"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        sizes: of the matrix products.
        streams: ways to move memory.
        step: from one working set to the next.
        beyond: each array that measures the memory is so many times the last-level cache.
        rounds, seconds: of each measurement; the best round counts.
    """

    sizes: tuple[int, ...]
    streams: tuple[str, ...]
    step: int
    beyond: int
    rounds: int
    seconds: float


QUICK = Effort((512, 1024), ("copy", "triad"), 4, 2, 5, 0.03)
FULL = Effort((256, 512, 1024, 1536, 2048), ("read", "copy", "triad"), 2, 4, 10, 0.15)


class Found(msgspec.Struct):
    """A worker's answer."""

    value: float | None
    method: str


@dataclass(frozen=True, slots=True)
class Request:
    """One measurement: what is asked of a worker, and what is known of the answer."""

    kind: str
    arguments: dict[str, Any]
    threads: int
    dtype: str | None = None
    level: str | None = None
    nbytes: int | None = None

    @property
    def label(self) -> str:
        """For people who wait."""
        size = f" {self.nbytes >> 10} KiB" if self.nbytes else ""
        return f"{self.kind} {self.dtype or ''}{size}, threads {self.threads}"

    def ceiling(self, found: Found) -> Ceiling | None:
        """The record; None where the worker has no way to measure it."""
        if found.value is None:
            return None
        moved = self.kind in ARRAYS
        return Ceiling(
            device="cpu",
            dtype=self.dtype,
            threads=self.threads,
            what=f"{self.kind}_bw" if moved else f"{self.kind}_flops",
            value=found.value,
            unit="B/s" if moved else "FLOP/s",
            method=found.method,
            level=self.level,
            array_bytes=self.nbytes,
            convention=CONVENTION if moved else None,
        )


def measure(
    *,
    threads: Sequence[int],
    dtypes: Sequence[str] = ("float32",),
    effort: Effort = QUICK,
    settings: Settings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Ceiling]:
    """Measure the ceilings of the CPU.

    Args:
        threads: numbers of threads, each measured apart.
        dtypes: of the arithmetic.
        effort: how much.
        settings: of the worker; those of the workloads that are to be judged.
        progress: told what comes next, its number from 0, and how many there are.

    Raises:
        CandidateError: the worker was lost, or cannot measure.
    """
    planned = list(requests(threads, dtypes, effort))
    found = []
    worker = Worker(settings)
    try:
        for number, request in enumerate(planned):
            if progress is not None:
                progress(request.label, number, len(planned))
            found.append(_asked(worker, request, effort))
    finally:
        worker.close()
    return [ceiling for ceiling in found if ceiling is not None]


def _asked(worker: Worker, request: Request, effort: Effort) -> Ceiling | None:
    limits = {"rounds": effort.rounds, "budget": effort.seconds}
    answer = worker.ask(Found, PATIENCE, "limit", kind=request.kind, **limits, **request.arguments)
    return request.ceiling(answer)


def requests(threads: Sequence[int], dtypes: Sequence[str], effort: Effort) -> Iterator[Request]:
    """What :func:`measure` asks for, in order."""
    for count, dtype in itertools.product(threads, dtypes):
        common = {"dtype": dtype, "threads": count}
        for size in effort.sizes:
            yield Request("gemm", {**common, "size": size}, count, dtype)
        yield Request("fma", common, count, dtype)
    caches = machine.caches()
    for count, kind in itertools.product(threads, effort.streams):
        for nbytes in _working_sets(ARRAYS[kind], caches, effort):
            level = level_of(nbytes, count, caches)
            yield Request(kind, {"nbytes": nbytes, "threads": count}, count, None, level, nbytes)


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4, ... and ``cores`` itself."""
    powers = [1 << bit for bit in range(cores.bit_length()) if 1 << bit < cores]
    return [*powers, cores]


def level_of(nbytes: int, threads: int, caches: Sequence[machine.Cache]) -> str:
    """The smallest memory that holds ``nbytes`` of ``threads`` threads."""
    fitting = (c.level for c in caches if nbytes <= c.capacity(threads))
    return next(fitting, "memory")


def _working_sets(arrays: int, caches: Sequence[machine.Cache], effort: Effort) -> list[int]:
    """Bytes of all arrays together, from the first-level cache to beyond the last."""
    last = caches[-1].capacity(machine.cores()) if caches else DEFAULT_CACHE
    largest = min(arrays * effort.beyond * last, machine.identity().mem_bytes // 8)
    sizes = [SMALLEST]
    while sizes[-1] * effort.step < largest:
        sizes.append(sizes[-1] * effort.step)
    return [*sizes, largest]
