"""What was found, as data: the schema ``nnkernels.peers/1``."""

from __future__ import annotations

import importlib.metadata
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from nnkernels.bench.results import Code, Machine
from nnkernels.errors import ResultError
from nnkernels.files import write_atomically

Status = Literal["ok", "wrong", "missing", "unable", "failed"]

SCHEMA: Literal["nnkernels.peers/1"] = "nnkernels.peers/1"

LIBRARIES = ("numpy", "scipy", "numba", "torch", "jax", "jaxlib", "scikit-learn")


class Row(msgspec.Struct):
    """One candidate at one workload with one number of threads.

    Attributes:
        workload: ``W1``, ..., or one of NPBench's.
        table: which batches, or ``npbench``.
        threads: of every pool.
        name, title, kind: the candidate's.
        note: what a reader of the times should know.
        status: ``wrong`` results are beyond the limit; ``unable`` is a library that cannot
            express the workload.
        reason: of a status that is not ``ok``.
        error: against float64 where it is judged; None where it is not finite.
        drift: the same after ``drift_steps``, for information.
        first_s: building the candidate and its first step, compilation included.
        steps: of a round.
        samples: seconds a step, one a round.
    """

    workload: str
    table: str
    threads: int
    name: str
    title: str
    kind: str
    note: str | None = None
    status: Status = "ok"
    reason: str | None = None
    error: float | None = None
    drift: float | None = None
    drift_steps: int | None = None
    first_s: float | None = None
    steps: int | None = None
    samples: list[float] = []

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the range of the samples, relative to their median."""
        return (max(self.samples) - min(self.samples)) / 2 / self.median


class Ratio(msgspec.Struct):
    """How many times as fast as the best stock peer with as many threads or fewer ours is."""

    workload: str
    table: str
    threads: int
    title: str
    best: str
    best_threads: int
    ratio: float


class Target(msgspec.Struct):
    """Training of one candidate to a test accuracy, once for every seed.

    ``seconds`` and ``epochs`` are None where it was not reached; ``first_s`` (building it and its
    first step, compilation included) is not part of them.
    """

    name: str
    title: str
    kind: str
    threads: int
    status: Status = "ok"
    reason: str | None = None
    seconds: list[float | None] = []
    epochs: list[int | None] = []
    accuracy: list[float] = []
    first_s: float | None = None


class Record(msgspec.Struct):
    """One run."""

    schema: Literal["nnkernels.peers/1"]
    created: str
    argv: list[str]
    quick: bool
    complete: bool
    code: Code
    machine: Machine
    warnings: list[str]
    libraries: dict[str, str | None]
    rows: list[Row]
    ratios: list[Ratio]
    busy: list[Row]
    targets: list[Target]


def write(path: Path, record: Record) -> None:
    """Write it as JSON, atomically.

    Raises:
        ResultError: the file cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write_atomically(path, data + b"\n", error=ResultError)


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
