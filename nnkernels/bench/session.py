"""One run of the benchmark: every candidate checked, primed, and sampled in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace

import nnkernels
from nnkernels import plugins
from nnkernels.backend import Backend
from nnkernels.bench import machine, results
from nnkernels.bench.harness import (
    SAMPLE_SECONDS,
    Agreement,
    Case,
    Preset,
    Problem,
    Track,
    elapsed,
    held_to,
    interleave,
    prime,
)
from nnkernels.bench.statistics import CONFIDENCE, summarise
from nnkernels.errors import BackendError, BackendUnavailableError
from nnkernels.names import parse_backend

REFERENCE = "reference"
"""The oracle: measured only when it is named."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time a preset spends: seconds in all, rounds, and priming of one candidate."""

    budget: float
    least: int
    most: int
    prime: float


EFFORTS: Mapping[Preset, Effort] = {
    "quick": Effort(15, 3, 20, 0.2),
    "default": Effort(50, 5, 100, 0.5),
    "thorough": Effort(600, 10, 400, 3),
}


class Listener(Protocol):
    """Is told how a run proceeds."""

    def begin(self, case: Case, number: int, total: int) -> None:
        """Case ``number`` (from 0) of ``total`` begins."""

    def finish(self, case: Case, found: Sequence[results.Result]) -> None:
        """The results of a case are there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure and how.

    Attributes:
        cases: the workloads.
        backends: candidates by the name they are reported under.
        skipped: backends that cannot work here, with the reasons.
        effort: see :class:`Effort`.
        threads: CPU threads of every candidate; None leaves the libraries' own.
        argv: the command line, for the record.
        seed: of the order in which candidates take turns.
    """

    cases: Sequence[Case]
    backends: Mapping[str, Backend]
    skipped: Mapping[str, str]
    effort: Effort
    threads: int | None = None
    argv: Sequence[str] = ()
    seed: int = 0


def choose_backends(
    names: Sequence[str], threads: int | None
) -> tuple[dict[str, Backend], dict[str, str]]:
    """Backends to compare, and those that cannot work here with their reasons.

    Without names: every available one but the reference. With ``threads``, each backend that does
    not say its own number in its name gets it.

    Raises:
        BackendUnavailableError: a backend that was named cannot work here.
    """
    if names:
        return {name: _named(name, threads) for name in names}, {}
    known = {n: r for n, r in plugins.availability().items() if n != REFERENCE}
    chosen = {name: _named(name, threads) for name, reason in known.items() if reason is None}
    return chosen, {name: machine.scrub(reason) for name, reason in known.items() if reason}


def _named(name: str, threads: int | None) -> Backend:
    try:
        backend = nnkernels.get_backend(name)
    except BackendUnavailableError:
        raise
    except BackendError as error:
        raise BackendUnavailableError(str(error)) from error
    own = parse_backend(name).settings.get("threads")
    return backend if own or threads is None else backend.configure(threads=threads)


@dataclass
class Session:
    """A run under way; ``record()`` gives what has been measured so far."""

    plan: Plan
    listener: Listener
    found: list[results.Result] = field(default_factory=list)
    complete: bool = False

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        self._created = datetime.now(UTC)
        self._start = machine.Start()
        self._rng = np.random.default_rng(self.plan.seed)

    def run(self) -> None:
        """Measure every case of the plan."""
        for number, case in enumerate(self.plan.cases):
            self.listener.begin(case, number, len(self.plan.cases))
            rows = self._measure(case, self._share(number))
            self.found += rows
            self.listener.finish(case, rows)
        self.complete = True

    def _share(self, number: int) -> float:
        """Seconds for the next case: an equal part of what is left."""
        left = self.plan.effort.budget - (time.perf_counter() - self._began)
        return max(left, 0.0) / (len(self.plan.cases) - number)

    def _measure(self, case: Case, seconds: float) -> list[results.Result]:
        deadline = time.perf_counter() + seconds
        problem = case.make()
        candidates = [
            Candidate(case, problem, name, self.plan.backends.get(name), self.plan.threads)
            for name in (*self.plan.backends, *case.baselines)
        ]
        ready = [c for c in candidates if c.prepare(self.plan.effort.prime)]
        if ready:
            interleave(
                [c.track for c in ready],
                self._rng,
                seconds=deadline - time.perf_counter(),
                least=self.plan.effort.least,
                most=self.plan.effort.most,
                enough=lambda: all(c.times().converged for c in ready),
            )
        for candidate in ready:
            candidate.check_again()
        rows = [c.result() for c in candidates]
        skipped = self.plan.skipped.items()
        return rows + [_row(case, name, "skipped", reason) for name, reason in skipped]

    def record(self) -> results.Run:
        """Everything that is known so far, as one record."""
        return results.Run(
            schema="nnkernels.bench/1",
            kind="bench",
            id=results.new_id(),
            created=self._created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            argv=[machine.scrub(a) for a in self.plan.argv],
            seed=self.plan.seed,
            duration_s=round(time.perf_counter() - self._began, 3),
            complete=self.complete,
            code=machine.code(),
            machine=machine.describe(self._start),
            settings=results.Settings(
                threads=self.plan.threads,
                affinity=machine.affinity(),
                cache="warm",
                gc="off",
                sample_target_s=SAMPLE_SECONDS,
                ci=CONFIDENCE,
                budget_s=self.plan.effort.budget,
            ),
            results=self.found,
        )


class Candidate:
    """A backend or a baseline on one case: nothing that disagrees with the reference is timed."""

    def __init__(
        self, case: Case, problem: Problem, name: str, backend: Backend | None, threads: int | None
    ) -> None:
        self.case, self.name = case, name
        self._problem, self._backend = problem, backend
        self._threads = threads if backend is None else backend.threads
        self._agreement: Agreement | None = None
        self._status: Any = "ok"
        self._reason: str | None = None

    def prepare(self, limit: float) -> bool:
        """Set up, check and prime; false when it cannot be timed."""
        try:
            runner = (
                self._problem.baseline(self.name)
                if self._backend is None
                else self._problem.runner(self._backend)
            )
            self.track = Track(runner, self._threads)
            first = self._check()
            if self._status == "ok":
                self._reason = runner.note
                runner.reset()
                prime(self.track, first, limit)
        except Exception as error:  # a kernel is foreign code: its failure is a result
            self._fail(error)
        return bool(self._status == "ok")

    def _check(self) -> float:
        """Compare with the reference; returns the seconds of the very first call."""
        runner = self.track.runner
        runner.reset()
        with held_to(self._threads):
            first = elapsed(runner, 1)
            runner.run(runner.checked - 1)
        self.track.prime_calls = runner.checked
        self._judge(runner.check())
        return first

    def check_again(self) -> None:
        """Compare once more after timing: what ran many times must still be right."""
        try:
            runner = self.track.runner
            runner.reset()
            with held_to(self._threads):
                runner.run(runner.checked)
            self._judge(runner.check())
        except Exception as error:
            self._fail(error)

    def _judge(self, agreement: Agreement) -> None:
        self._agreement = agreement
        if not agreement.ok:
            self._status, self._reason = "incorrect", agreement.reason

    def _fail(self, error: Exception) -> None:
        self._status = "failed"
        self._reason = machine.scrub(f"{type(error).__name__}: {error}")

    def times(self) -> results.Times:
        """What the samples say so far."""
        return summarise(self.track.samples, self.track.contended)

    def result(self) -> results.Result:
        """The row."""
        row = _row(self.case, self.name, self._status, self._reason)
        if self._agreement:
            found = self._agreement
            correctness = results.Correctness(found.ok, found.error, found.limit)
            row = replace(row, correctness=correctness)
        if self._status != "ok":
            return row
        times = self.times()
        return replace(
            row,
            device=self._backend.device.name if self._backend else "cpu",
            compile_s=self.track.compile_s,
            prime_calls=self.track.prime_calls,
            loops=self.track.loops,
            times=results.TimesByKind(times),
            rates=_rates(self.case, times.median),
        )


def _row(case: Case, name: str, status: Any, reason: str | None) -> results.Result:
    """A row in which nothing is measured yet."""
    return results.Result(
        workload=case.workload,
        params=dict(case.params),
        dtype=case.dtype,
        backend=name,
        device=None,
        correctness=None,
        compile_s=None,
        prime_calls=None,
        loops=None,
        times=results.TimesByKind(None),
        cost=results.CostRecord(case.cost.flop, case.cost.bytes, case.cost.items),
        rates=results.Rates(None, None, None),
        memory=results.Memory(),
        energy=results.Energy(),
        status=status,
        reason=reason,
    )


def _rates(case: Case, median: float) -> results.Rates:
    cost = case.cost
    flop_s = cost.flop / median if cost.flop else None
    return results.Rates(flop_s, cost.bytes / median, cost.items / median)
