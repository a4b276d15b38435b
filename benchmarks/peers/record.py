"""What was found, while it is measured, and as nnkernels' own results (``nnkernels.bench``)."""

from __future__ import annotations

import importlib.metadata
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nnkernels.bench import results
from nnkernels.bench.harness import Cost
from nnkernels.bench.statistics import summarise

Status = Literal["ok", "wrong", "missing", "unable", "failed"]
Kind = Literal["ours", "stock", "hack"]

LIBRARIES = ("numpy", "scipy", "numba", "torch", "jax", "jaxlib", "scikit-learn")

STATUSES: Mapping[Status, Literal["ok", "skipped", "failed", "incorrect"]] = {
    "ok": "ok",
    "wrong": "incorrect",
    "missing": "skipped",
    "unable": "skipped",
    "failed": "failed",
}
"""What nnkernels' results call each status."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A workload as results name it: its size, for people and for programs, and its cost."""

    size: str
    params: Mapping[str, int | float | str]
    cost: Cost


@dataclass(slots=True)
class Row:
    """One candidate at one workload with one number of threads.

    Attributes:
        workload: ``W1``, ..., or one of NPBench's.
        table: which batches, or ``npbench``.
        threads: of every pool.
        name, title, kind: the candidate's: what results call it, and what tables do.
        note: what a reader of the times should know.
        status: ``wrong`` results are beyond the limit; ``unable`` is a library that cannot
            express the workload.
        reason: of a status that is not ``ok``.
        error: against float64 where it is judged; None where it is not finite.
        drift: the same after ``drift_steps``, for information.
        first_s: building the candidate and its first step, compilation included.
        steps: of a round.
        samples: seconds a step, one a round.
        limit: the error that is allowed.
        subject: the workload; None where no result is made of the row.
        busy: whether another process kept a CPU busy.
    """

    workload: str
    table: str
    threads: int
    name: str
    title: str
    kind: Kind
    note: str | None = None
    status: Status = "ok"
    reason: str | None = None
    error: float | None = None
    drift: float | None = None
    drift_steps: int | None = None
    first_s: float | None = None
    steps: int | None = None
    samples: list[float] = field(default_factory=list)
    limit: float = 0.0
    subject: Subject | None = None
    busy: bool = False

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the range of the samples, relative to their median."""
        return (max(self.samples) - min(self.samples)) / 2 / self.median


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as the best stock peer with as many threads or fewer ours is."""

    workload: str
    table: str
    threads: int
    title: str
    best: str
    best_threads: int
    ratio: float


@dataclass(slots=True)
class Target:
    """Training of one candidate to a test accuracy, once for every seed.

    ``seconds`` and ``epochs`` are None where it was not reached; ``first_s`` (building it and its
    first step, compilation included) is not part of them.
    """

    name: str
    title: str
    kind: Kind
    threads: int
    status: Status = "ok"
    reason: str | None = None
    seconds: list[float | None] = field(default_factory=list)
    epochs: list[int | None] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    first_s: float | None = None


def result(row: Row) -> results.Result:
    """A row as one of nnkernels' results; what those lack is in ``peer``."""
    assert row.subject is not None
    subject, judged = row.subject, row.status in ("ok", "wrong")
    times = summarise(row.samples, 0) if row.samples else None
    marks = [row.table] if row.table == "shuffled" else []
    marks += ["busy"] if row.busy else []
    cost = results.CostRecord(subject.cost.flop, subject.cost.bytes, subject.cost.items)
    peer = results.Peer(row.title, row.kind, row.note, row.first_s, row.drift, row.drift_steps)
    return results.Result(
        workload=row.workload,
        params={**subject.params, "batches": row.table, "busy": int(row.busy)},
        dtype="float32",
        backend=row.name,
        device="cpu",
        correctness=results.Correctness(row.status == "ok", row.error, row.limit)
        if judged
        else None,
        compile_s=None,
        prime_calls=None,
        loops=row.steps,
        times=results.TimesByKind(times),
        cost=cost,
        rates=_rates(cost, times.median) if times else results.Rates(None, None, None),
        memory=results.Memory(),
        energy=results.Energy(),
        status=STATUSES[row.status],
        reason=row.reason,
        size="-".join([subject.size, *marks]),
        threads=row.threads,
        peer=peer,
    )


def _rates(cost: results.CostRecord, seconds: float) -> results.Rates:
    flop_s = cost.flop / seconds if cost.flop else None
    return results.Rates(flop_s, cost.bytes / seconds, cost.items / seconds)


def target(found: Target) -> results.Target:
    """A training to a target as nnkernels' results keep it."""
    return results.Target(
        backend=found.name,
        threads=found.threads,
        peer=results.Peer(found.title, found.kind, first_s=found.first_s),
        status=STATUSES[found.status],
        reason=found.reason,
        seconds=found.seconds,
        epochs=found.epochs,
        accuracy=found.accuracy,
    )


def libraries() -> dict[str, str | None]:
    """Versions of the libraries that are compared; None where one is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """One for each of our rows that was timed beside at least one stock peer."""
    found = []
    for row in rows:
        if row.kind != "ours" or not row.samples or row.status != "ok":
            continue
        peers = [p for p in rows if _comparable(p, row)]
        if peers:
            best = min(peers, key=lambda p: p.median)
            ratio = best.median / row.median
            place = (row.workload, row.table, row.threads, row.title)
            found.append(Ratio(*place, best.title, best.threads, ratio))
    return found


def _comparable(peer: Row, row: Row) -> bool:
    same = (peer.workload, peer.table) == (row.workload, row.table)
    return same and peer.kind == "stock" and bool(peer.samples) and peer.threads <= row.threads
