"""What was measured on this machine over time: one file of JSON lines for each fingerprint.

A trend is for looking at. It is never a gate: runs of different days differ by what else the
machine did (see :mod:`nnkernels.bench.comparing`).

A line is one run, without its raw samples. Lines are only ever appended, under a lock; one that is
damaged (a crash, a full disk) is reported and skipped, and no other is lost.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock
import msgspec
import numpy as np
import platformdirs

from nnkernels.bench.results import Run
from nnkernels.bench.rows import Kind, Row, timed
from nnkernels.bench.select import parse
from nnkernels.bench.text import counted
from nnkernels.errors import InputError, ResultError, missing_extra

SCHEMA: Literal["nnkernels.history/1"] = "nnkernels.history/1"
VARIABLE = "NNKERNELS_HISTORY"
PATIENCE = 30.0
"""Seconds to wait for another process that is appending."""

_FINGERPRINT = re.compile(r"[0-9a-f]{16,64}")


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of a run: the median of its samples, in seconds, and the interval of that."""

    workload: str
    size: str
    dtype: str
    backend: str
    threads: int | None
    kind: Kind
    median: float
    ci: tuple[float, float]
    samples: int

    @property
    def row(self) -> Row:
        """Its name."""
        return Row(self.workload, self.size, self.dtype, self.backend, self.threads, self.kind)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run."""

    schema: Literal["nnkernels.history/1"]
    id: str
    created: str
    version: str
    git_sha: str | None
    dirty: bool | None
    machine: str
    points: list[Point]

    @property
    def revision(self) -> str:
        """``4f1c2ab+`` (the plus: with changes), or the version where there is no git."""
        if self.git_sha is None:
            return self.version
        return self.git_sha[:7] + ("+" if self.dirty else "")


def entry_of(run: Run) -> Entry:
    """The line of a run.

    Raises:
        InputError: it has no times.
    """
    points = [
        Point(*row, median=times.median, ci=times.ci, samples=len(times.samples))
        for row, times in timed(run).items()
    ]
    if not points:
        raise InputError(
            f"history: the run {run.id} ({run.kind}) has no times; add what 'nnkernels bench -o' "
            "wrote"
        )
    code, found = run.code, run.machine.identity
    blas = f", {found.blas.vendor} {found.blas.kernel}" if found.blas else ""
    return Entry(
        schema=SCHEMA,
        id=run.id,
        created=run.created,
        version=code.version,
        git_sha=code.git_sha,
        dirty=code.dirty,
        machine=f"{found.cpu}, {counted(found.cores_usable, 'CPU')}{blas}, NumPy {found.numpy}",
        points=points,
    )


# --- the files ----------------------------------------------------------------------------------


def folder() -> Path:
    """Where the files are: ``$NNKERNELS_HISTORY``, or the user's data folder."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_data_path("nnkernels") / "history"


@dataclass(frozen=True, slots=True)
class Damage:
    """A line that could not be read: its number from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Store:
    """The history of the machine with this fingerprint.

    Raises:
        InputError: it is none; it names a file, and may come from one.
    """

    fingerprint: str

    def __post_init__(self) -> None:
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise InputError(
                f"history: {self.fingerprint[:80]!r} is not a fingerprint (16 or more hexadecimal "
                "digits); the results were not written by nnkernels"
            )

    @property
    def name(self) -> str:
        """What people call it: the first 16 digits of the fingerprint."""
        return self.fingerprint[:16]

    @property
    def path(self) -> Path:
        """Its file."""
        return folder() / f"{self.name}.jsonl"

    def add(self, run: Run) -> bool:
        """Append a run; False if it is there already.

        Raises:
            InputError: it has no times, or is another machine's.
            ResultError: the file cannot be written; it is as it was.
        """
        if run.machine.fingerprint != self.fingerprint:
            raise InputError(f"history: the run {run.id} was measured on another machine")
        entry = entry_of(run)
        line = msgspec.json.encode(entry) + b"\n"
        try:
            with self._locked():
                if any(known.id == entry.id for known in self.read()[0]):
                    return False
                _append(self.path, line)
        except (OSError, filelock.Timeout) as error:
            why = getattr(error, "strerror", None) or "another process holds its lock"
            raise ResultError(
                f"history: cannot write {str(self.path)!r} ({len(line)} bytes needed): {why}; "
                f"make room, or choose another folder by {VARIABLE}"
            ) from error
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.path.with_suffix(".lock"), timeout=PATIENCE):
            yield

    def read(self) -> tuple[list[Entry], list[Damage]]:
        """All runs in the order of their time, and the lines that could not be read.

        Raises:
            ResultError: the file cannot be opened.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise ResultError(
                f"history: cannot read {str(self.path)!r}: {error.strerror}; check its permissions"
            ) from error
        entries, damaged = [], []
        for number, line in enumerate(data.splitlines(), 1):
            try:
                entries.append(msgspec.json.decode(line, type=Entry))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                damaged.append(Damage(number, str(error)))
        return sorted(entries, key=lambda entry: (entry.created, entry.id)), damaged


def stores() -> list[Store]:
    """All machines with a history here; of their fingerprints, the name alone is known."""
    names = [path.stem for path in sorted(folder().glob("*.jsonl"))]
    return [Store(name) for name in names if _FINGERPRINT.fullmatch(name)]


def _append(path: Path, line: bytes) -> None:
    """Append ``line``, on a line of its own even where the last was cut short.

    What a failed write left is taken away again, so that a full disk leaves the file as it was.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        cut = size and os.pread(descriptor, 1, size - 1) != b"\n"
        data = memoryview(b"\n" + line if cut else line)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


# --- trends -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trend:
    """One row over time."""

    row: Row
    entries: Sequence[Entry]
    points: Sequence[Point]

    @property
    def medians(self) -> list[float]:
        """Seconds, the oldest first."""
        return [point.median for point in self.points]


def trends(entries: Sequence[Entry]) -> list[Trend]:
    """The rows of all runs, each with the runs that have it."""
    found: dict[Row, list[tuple[Entry, Point]]] = {}
    for entry in entries:
        for point in entry.points:
            found.setdefault(point.row, []).append((entry, point))
    return [Trend(row, *zip(*pairs, strict=True)) for row, pairs in found.items()]


def chosen(found: Sequence[Trend], expression: str | None) -> list[Trend]:
    """The rows that an expression of ``-k`` matches, by words of their names.

    Raises:
        InputError: the expression cannot be read, or there is no such row.
    """
    node = parse(expression) if expression is not None else lambda _: True

    def matches(trend: Trend) -> bool:
        name = str(trend.row).lower()
        return node(lambda word: word.lower() in name)

    kept = [trend for trend in found if matches(trend)]
    if not kept:
        asked = f"-k {expression!r} matches none of {len(found)} rows" if found else "it is empty"
        raise InputError(f"history: {asked}; 'nnkernels history add run.json' adds some")
    return kept


@dataclass(frozen=True, slots=True)
class Step:
    """A change of level: the first run of the new one, and how many times as long it takes."""

    index: int
    entry: Entry
    ratio: float


LEAST = 3
"""Runs that a level lasts at least."""

PENALTY = 4
"""Of a step, in units of the noise: one of 300 drawn histories without a step showed one."""

SMALLEST = 0.03
"""Steps of less than this are left out: on common machines, days differ by as much."""


def steps(trend: Trend) -> list[Step]:
    """Where the level changed, by PELT (Killick, Fearnhead and Eckley, 2012) with an L1 cost.

    Medians of levels, not means, so that single odd runs are no steps. The penalty grows with the
    noise from run to run and with the logarithm of their number.

    Raises:
        MissingExtraError: ``ruptures`` is not installed.
    """
    try:
        import ruptures
    except ImportError:
        raise missing_extra("finding steps", "ruptures", "history") from None
    if len(trend.points) < 2 * LEAST:
        return []
    logs = np.log(trend.medians)
    noise = max(float(np.median(np.abs(np.diff(logs)))), SMALLEST / 10)
    search = ruptures.Pelt(model="l1", min_size=LEAST, jump=1).fit(logs[:, None])
    ends = search.predict(pen=PENALTY * noise * math.log(len(logs)))
    levels = [float(np.median(part)) for part in np.split(logs, ends[:-1])]
    changes = zip(ends[:-1], np.diff(levels), strict=True)
    return [
        Step(index, trend.entries[index], math.exp(change))
        for index, change in changes
        if abs(change) >= math.log1p(SMALLEST)
    ]


def summary(found: Sequence[Trend], changes: Sequence[Sequence[Step]]) -> list[str]:
    """What the trends say, in sentences."""
    latest = [
        f"{trend.row} takes {levels[-1].ratio:.2f} times as long since "
        f"{levels[-1].entry.revision} ({levels[-1].entry.created[:10]})"
        for trend, levels in zip(found, changes, strict=True)
        if levels
    ]
    short = sum(len(trend.points) < 2 * LEAST for trend in found)
    lines = [f"Steps: {'; '.join(latest)}."] if latest else ["No step was found."]
    if short:
        lines.append(
            f"{counted(short, 'row')} of {len(found)} with fewer than {2 * LEAST} runs: too few "
            "to tell a step from chance."
        )
    return [*lines, "What a step is due to, 'nnkernels ab OLD NEW' tells; a history cannot."]
