"""One run: what the command line asked for, measured, shown and written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.markup import escape

from benchmarks.peers import busy, catalogue, mnist, npbench, record, rounds, table
from nnkernels.bench import results
from nnkernels.bench.recording import Recorder
from nnkernels.cli._render import stderr, stdout

WRONG, INTERRUPTED = 1, 130

SLOW = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure; see the command's help."""

    argv: list[str]
    mode: Literal["steps", "busy", "mnist"]
    workloads: list[str]
    tables: tuple[str, ...]
    candidates: list[catalogue.Candidate]
    threads: list[int]
    samples: int
    quick: bool
    npbench: Path | None
    json: Path | None

    @property
    def effort(self) -> rounds.Effort:
        """Of the training steps."""
        return replace(rounds.QUICK if self.quick else rounds.FULL, rounds=self.samples)


def warnings() -> list[str]:
    """What in the environment makes the figures misleading."""
    found = [name for name in SLOW if name in os.environ]
    if not found:
        return []
    settings = " and ".join(f"{name}={os.environ[name]}" for name in found)
    remedy = " ".join(f"-u {name}" for name in found)
    return [
        f"{settings} in the environment: NumPy's OpenBLAS may be half as fast as by itself, and "
        f"whatever uses it; put 'env {remedy}' before the command"
    ]


def run(plan: Plan) -> int:
    """Measure, show, and write what there is, also when it is interrupted; the exit code."""
    session = Session(plan)
    try:
        session.measure()
    finally:
        session.save()
    return session.conclude()


class Session:
    """What has been found so far."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        effort = plan.effort
        self._recorder = Recorder(plan.argv, 0, effort.rounds * effort.seconds)
        self._console, self._notices = stdout(), stderr()
        self._rows: list[record.Row] = []
        self._busy: list[record.Row] = []
        self._targets: list[record.Target] = []
        self._complete = False

    def measure(self) -> None:
        """Do what the plan's mode says."""
        for warning in warnings():
            self._notices.print(f"! {warning}", style="bold", soft_wrap=True)
        modes: dict[str, Callable[[], None]] = {
            "steps": self._measure_steps,
            "busy": self._measure_busy,
            "mnist": self._measure_mnist,
        }
        modes[self._plan.mode]()
        self._complete = True

    def _measure_steps(self) -> None:
        with catalogue.shimmed(self._plan.candidates) as candidates:
            for workload in self._plan.workloads:
                if workload in npbench.WORKLOADS:
                    self._measure_npbench(workload)
                    continue
                for name in self._plan.tables:
                    with self._told() as tell:
                        tell(f"{workload} {name}: the float64 reference")
                        task = rounds.training_task(workload, name, self._plan.quick)
                        self._measure_task(task, candidates, tell)
        table.show_ratios(self._console, record.ratios(self._rows))

    def _measure_npbench(self, workload: str) -> None:
        folder = self._plan.npbench
        assert folder is not None
        ours = [npbench.operators(c, workload) for c in self._plan.candidates if c.kind == "ours"]
        candidates = [*ours, *npbench.candidates(folder, workload)]
        if reason := npbench.too_large(folder, workload, len(candidates) + 1):
            absent = [replace(c, missing=c.missing or reason) for c in candidates]
            rows = [rounds.empty_row(workload, npbench.TABLE, c, n) for c, n in self._each(absent)]
            for row in rows:
                row.subject = npbench.subject(folder, workload)
            self._add(rows)
            return
        with self._told() as tell:
            tell(f"{workload}: the float64 reference")
            self._measure_task(npbench.task(folder, workload), candidates, tell)

    def _each(
        self, candidates: Sequence[catalogue.Candidate]
    ) -> list[tuple[catalogue.Candidate, int]]:
        return [(candidate, count) for count in self._plan.threads for candidate in candidates]

    def _measure_task(
        self, task: rounds.Task, candidates: Sequence[catalogue.Candidate], tell: rounds.Tell
    ) -> None:
        """One number of threads after the other."""
        found: list[record.Row] = []
        for count in self._plan.threads:
            entries = [(candidate, count) for candidate in candidates]
            found += rounds.measure(task, entries, self._plan.effort, tell)
        self._add(found)

    def _add(self, found: list[record.Row]) -> None:
        self._rows += found
        table.show(self._console, f"{found[0].workload}, {found[0].table}", found)

    def _measure_busy(self) -> None:
        plan = self._plan
        for workload in plan.workloads:
            with self._told() as tell:
                measured = (plan.candidates, plan.threads, plan.quick, plan.effort)
                found = busy.measure_busy(workload, *measured, tell)
            self._busy += found
            table.show(self._console, f"{workload}, beside a busy process", found)
        table.show_slowdowns(self._console, busy.slowdowns(self._busy))

    def _measure_mnist(self) -> None:
        for count in self._plan.threads:
            with self._told() as tell:
                effort = self._plan.effort
                measured = (self._plan.candidates, count, self._plan.samples, effort)
                found = mnist.measure_targets(*measured, tell)
            self._targets += found
            table.show_targets(self._console, found)

    @contextlib.contextmanager
    def _told(self) -> Iterator[rounds.Tell]:
        """Say on standard error what is going on: in place on a terminal, nothing elsewhere."""
        with self._notices.status("") as status:
            yield lambda text: status.update(escape(text))

    def save(self) -> None:
        """Write the record where the plan says."""
        if self._plan.json is None:
            return
        found = self._recorder.record(
            "peers",
            [record.result(row) for row in (*self._rows, *self._busy)],
            complete=self._complete,
            warnings=warnings(),
            targets=[record.target(target) for target in self._targets],
            libraries=record.libraries(),
        )
        results.write(self._plan.json, found)

    def conclude(self) -> int:
        """The exit code: whether ours did what it was asked to."""
        found: list[record.Row | record.Target] = [*self._rows, *self._busy, *self._targets]
        bad = any(f.kind == "ours" and f.status in ("wrong", "failed") for f in found)
        return WRONG if bad else 0
