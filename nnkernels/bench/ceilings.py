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
from msgspec.structs import replace

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
Unit = Literal["FLOP/s", "B/s", "s"]


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
    """A worker's answer; the level is its device's."""

    value: float | None
    method: str
    level: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """One measurement: what is asked of a worker, and the ceiling that the answer fills.

    Attributes:
        kind: what the worker measures.
        arguments: with what.
        ceiling: the record, without its value and its method.
    """

    kind: str
    arguments: dict[str, Any]
    ceiling: Ceiling

    @property
    def label(self) -> str:
        """For people who wait."""
        record = self.ceiling
        size = f"{record.array_bytes >> 10} KiB" if record.array_bytes else ""
        threads = f"threads {record.threads}" if record.threads else record.device
        return " ".join(part for part in (self.kind, record.dtype, size, threads) if part)

    def filled(self, found: Found) -> Ceiling | None:
        """The ceiling; None where the worker has no way to measure it."""
        if found.value is None:
            return None
        level = found.level or self.ceiling.level
        return replace(self.ceiling, value=found.value, method=found.method, level=level)


Progress = Callable[[str, int, int], None]
"""Is told what comes next, its number from 0, and how many there are."""


def measure(
    *,
    threads: Sequence[int],
    dtypes: Sequence[str] = ("float32",),
    effort: Effort = QUICK,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[Ceiling]:
    """Measure the ceilings of the CPU.

    Args:
        threads: numbers of threads, each measured apart.
        dtypes: of the arithmetic.
        effort: how much.
        settings: of the worker; those of the workloads that are to be judged.
        progress: how far it is.

    Raises:
        CandidateError: the worker was lost, or cannot measure.
    """
    worker = Worker(settings)
    try:
        return list(ask(worker, list(requests(threads, dtypes, effort)), progress))
    finally:
        worker.close()


def ask(
    worker: Worker, planned: Sequence[Request], progress: Progress | None = None
) -> Iterator[Ceiling]:
    """The ceilings that ``worker`` can measure, one after the other.

    Raises:
        CandidateError: the worker was lost, or cannot measure.
    """
    for number, request in enumerate(planned):
        if progress is not None:
            progress(request.label, number, len(planned))
        answer = worker.ask(Found, PATIENCE, "limit", kind=request.kind, **request.arguments)
        ceiling = request.filled(answer)
        if ceiling is not None:
            yield ceiling


def requests(threads: Sequence[int], dtypes: Sequence[str], effort: Effort) -> Iterator[Request]:
    """What :func:`measure` asks for, in order."""
    limits = {"rounds": effort.rounds, "budget": effort.seconds}
    for count, dtype in itertools.product(threads, dtypes):
        common = {"dtype": dtype, "threads": count, **limits}
        for size in effort.sizes:
            record = empty("gemm_flops", "FLOP/s", dtype=dtype, threads=count)
            yield Request("gemm", {**common, "size": size}, record)
        yield Request("fma", common, empty("fma_flops", "FLOP/s", dtype=dtype, threads=count))
    caches = machine.caches()
    for count, kind in itertools.product(threads, effort.streams):
        for nbytes in _working_sets(ARRAYS[kind], caches, effort):
            level = level_of(nbytes, count, caches)
            record = empty(f"{kind}_bw", "B/s", threads=count, level=level, nbytes=nbytes)
            yield Request(kind, {"nbytes": nbytes, "threads": count, **limits}, record)


def empty(
    what: str,
    unit: Unit,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    threads: int | None = None,
    level: str | None = None,
    nbytes: int | None = None,
) -> Ceiling:
    """A ceiling that is not measured yet."""
    return Ceiling(
        device=device,
        dtype=dtype,
        threads=threads,
        what=what,
        value=0.0,
        unit=unit,
        method="",
        level=level,
        array_bytes=nbytes,
        convention=None if unit == "FLOP/s" else CONVENTION,
    )


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4, ... and ``cores`` itself."""
    powers = [1 << bit for bit in range(cores.bit_length()) if 1 << bit < cores]
    return [*powers, cores]


def level_of(nbytes: int, threads: int, caches: Sequence[machine.Cache]) -> str:
    """The smallest memory that holds ``nbytes`` of ``threads`` threads."""
    fitting = (c.level for c in caches if nbytes <= c.capacity(threads))
    return next(fitting, "memory")


def _working_sets(arrays: int, caches: Sequence[machine.Cache], effort: Effort) -> list[int]:
    """Bytes of all arrays together: up to the last cache, then one that is beyond it.

    None between the two, of which nobody could say where it lies.
    """
    last = caches[-1].capacity(machine.cores()) if caches else DEFAULT_CACHE
    largest = min(arrays * effort.beyond * last, machine.identity().mem_bytes // 8)
    sizes = [SMALLEST]
    while sizes[-1] * effort.step <= min(last, largest - 1):
        sizes.append(sizes[-1] * effort.step)
    return [*sizes, largest]
