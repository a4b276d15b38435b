"""The gate's procedure: prime and check, screen, confirm, and what it says at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, Protocol

import numpy as np

from nnkernels import errors
from nnkernels.bench import harness, machine, results, select
from nnkernels.bench.gate import isolation, verdicts
from nnkernels.bench.gate.isolation import Which
from nnkernels.bench.gate.pairs import (
    BOTH,
    Effort,
    Pair,
    Restart,
    Row,
    RowError,
    Setting,
    shared_loops,
)
from nnkernels.bench.gate.sides import Side
from nnkernels.bench.gate.verdicts import Change, Verdict
from nnkernels.bench.harness import GATE, Case, Preset, Problem
from nnkernels.bench.workers import CandidateError, Listed, WorkerLostError, Workloads
from nnkernels.errors import BackendError, BackendUnavailableError, InputError, NnkernelsError

CONTENDED = 0.2
"""Share of the pairs, interrupted by others, from which it is told."""

Status = Literal["ok", "new", "gone", "failed", "incorrect"]

LAYOUT = (
    "Code that was not changed can become slower by where it lies in memory, which repetition on "
    "one machine cannot tell: where the change touched no such code, re-run on another one first."
)


class Listener(Protocol):
    """Is told how a run proceeds."""

    def proceed(self, stage: str, done: float, total: float) -> None:
        """``done`` of ``total`` rounds; ``stage`` is being worked at."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared and how.

    Attributes:
        sides: A and B.
        preset: whose sizes the workloads have.
        effort: see :class:`Effort`.
        expression: of ``-k``; None is the gate's own set.
        backends: that run the workloads, where the sides are versions.
        threads: CPU threads of every worker, and CPUs that they share.
        tolerated: what may differ between the sides, of ``harness.identify``.
        restarts: of single workloads, by name and backend, where ``effort`` is not for them.
        inject: the slowdown of B that is injected into a row, as a fraction, for calibration.
        alone: judge every workload as if it were the only one of its run, for calibration.
        argv: the command line, for the record.
        seed: of every order.
    """

    sides: tuple[Side, Side]
    preset: Preset
    effort: Effort
    expression: str | None = None
    backends: Sequence[str] = ()
    threads: int = 1
    tolerated: frozenset[str] = frozenset()
    restarts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    inject: Callable[[Row], float] = lambda row: 0.0
    alone: bool = False
    argv: Sequence[str] = ()
    seed: int = 0

    @property
    def pairs_of_backends(self) -> list[tuple[str, str]]:
        """The backends that run a workload on A and on B."""
        a, b = self.sides
        if a.backend is not None and b.backend is not None:
            return [(a.backend, b.backend)]
        return [(name, name) for name in self.backends]


@dataclass(slots=True)
class Subject:
    """A row under comparison: what is known of it so far."""

    row: Row
    status: Status = "ok"
    reason: str | None = None
    loops: int = 0
    screen: list[Restart] = field(default_factory=list)
    confirm: list[Restart] = field(default_factory=list)
    change: Change | None = None

    def end(self, status: Status, reason: str | None) -> None:
        """Take it out of the comparison."""
        self.status, self.reason = status, reason


class Gate:
    """A comparison under way; ``record()`` gives what is known so far."""

    def __init__(self, plan: Plan, listener: Listener) -> None:
        self.plan = plan
        self.complete = False
        self.subjects: list[Subject] = []
        self._listener = listener
        self._rng = np.random.default_rng(plan.seed)
        self._began = time.perf_counter()
        self._created = datetime.now(UTC)
        self._start = machine.Start()
        self._identities: Mapping[Which, Mapping[str, str | None]] = {}
        self._stages = 1
        self._done = 0.0
        self._cases: dict[str, Case] = {}
        self._problems: dict[str, Problem] = {}
        self._setting = Setting(
            sides=dict(zip(BOTH, plan.sides, strict=True)),
            preset=plan.preset,
            threads=plan.threads,
            cpus=isolation.idlest(plan.threads),
            effort=plan.effort,
            tolerated=plan.tolerated,
        )

    def run(self) -> None:
        """Compare.

        Raises:
            InputError: nothing matches, or a side cannot be driven.
            NotComparableError: the sides are not what they should be.
            BackendUnavailableError: a backend works on neither side.
        """
        self._prime()
        self._stage("screen", self._running())
        for subject in self._running():
            subject.change = verdicts.nominate([r.d for r in subject.screen])
        if candidates := [s for s in self._running() if s.change is not None]:
            self._stages = 2
            self._stage("confirm", candidates)
        self.complete = True

    def _running(self) -> list[Subject]:
        return [s for s in self.subjects if s.status == "ok"]

    # --- prime and check ---------------------------------------------------------------------

    def _prime(self) -> None:
        """Find out what can be compared; fill the caches; choose the loops."""
        self._proceed("start", 0)
        with Pair(self._setting) as pair:
            self.subjects = self._survey(_drivable(pair, self._setting.sides))
        pending = self._running()
        while pending:
            try:
                with Pair(self._setting) as pair:
                    while pending:
                        self._try(pair, pending[0])
                        pending.pop(0)
                        ready = len(self.subjects) - len(pending)
                        share = ready / len(self.subjects)
                        self._proceed("prime and check", share * self.plan.effort.rounds)
                    self._identities = pair.identities
            except RowError as error:
                self._fail(error)
                pending = [s for s in pending if s.status == "ok"]
        self._done = self.plan.effort.rounds

    def _survey(self, found: Mapping[Which, Workloads]) -> list[Subject]:
        """Every workload of either side, with those that only one has."""
        plan = self.plan
        known = {which: {each.id: each for each in found[which].known} for which in BOTH}
        self._cases = {case.id: case for case in harness.cases(plan.preset)}
        every = {**known["a"], **known["b"]}
        chosen = select.select(every.values(), plan.expression, GATE)
        subjects = []
        for case in chosen:
            for a, b in plan.pairs_of_backends:
                subject = Subject(Row(case, a, b))
                if case.id not in known["b"]:
                    subject.end("gone", "B does not have it")
                elif case.id not in known["a"]:
                    subject.end("new", "A does not have it")
                elif case.id not in self._cases:
                    subject.end("failed", "the nnkernels that measures does not have it")
                subjects.append(subject)
        return subjects + self._lost(found, {case.workload for case in chosen})

    def _lost(self, found: Mapping[Which, Workloads], here: Collection[str]) -> list[Subject]:
        """Workloads that A itself has in its gate and B does not know."""
        if self.plan.expression is not None:
            return []
        still = {each.workload for each in found["b"].known}
        gone = [name for name in found["a"].declared or () if name not in still | set(here)]
        subjects = [
            Subject(Row(Listed(name, "", "", ()), a, b))
            for name in gone
            for a, b in self.plan.pairs_of_backends
        ]
        for subject in subjects:
            subject.end("gone", "A has it in its gate, B does not know it")
        return subjects

    def _try(self, pair: Pair, subject: Subject) -> None:
        """Bind, check and prime one row on both sides.

        Raises:
            RowError: a worker is lost, or fails what both could load.
        """
        row = subject.row
        for step in (pair.greet, pair.load):
            refused = {w: error for w, error in step(row).items() if error is not None}
            for which, error in refused.items():
                if isinstance(error, WorkerLostError):
                    raise RowError(row, which, error)
            if refused:
                _refuse(subject, refused, backend=step == pair.greet)
                return
        for which in BOTH:
            if wrong := pair.check(row, which, self._problem(row)):
                subject.end("incorrect", f"{which.upper()}: {wrong}")
                return
        limit = self.plan.effort.prime
        a, b = (pair.prime(row, which, limit) for which in BOTH)
        subject.loops = shared_loops(a, b, self.plan.effort)

    def _problem(self, row: Row) -> Problem:
        """The row's problem, which knows the reference; drawn when it is first needed."""
        if row.case.id not in self._problems:
            self._problems[row.case.id] = self._cases[row.case.id].make()
        return self._problems[row.case.id]

    def _fail(self, error: RowError) -> None:
        for subject in self.subjects:
            if subject.row == error.row:
                subject.end("failed", f"{error.which.upper()}: {error}")

    # --- screen and confirm ------------------------------------------------------------------

    def _stage(self, name: Literal["screen", "confirm"], subjects: Sequence[Subject]) -> None:
        """All restarts of a stage; in the last one of a row, its results are checked again."""
        counts = {id(s): self._restarts(s) for s in subjects}
        restarts = max(counts.values(), default=0)
        for number in range(restarts):
            rows = [s for s in subjects if counts[id(s)] > number]
            last = [s for s in rows if counts[id(s)] == number + 1]
            self._restart(f"{name} {number + 1}/{restarts}", name, rows, last)

    def _restarts(self, subject: Subject) -> int:
        row = subject.row
        return self.plan.restarts.get((row.case.workload, row.b), self.plan.effort.restarts)

    def _restart(
        self,
        stage: str,
        into: Literal["screen", "confirm"],
        subjects: Sequence[Subject],
        last: Sequence[Subject],
    ) -> None:
        """Two fresh workers; once more, without it, where a row fails."""
        before = self._done
        while running := [s for s in subjects if s.status == "ok"]:
            self._done = before
            try:
                with Pair(self._setting_for(running)) as pair:
                    pair.ready([s.row for s in running])
                    with isolation.aside(self._setting.cpus):
                        loops = {s.row: s.loops for s in running}
                        found = pair.measure(loops, self._rng, lambda: self._round(stage))
                    self._check_again(pair, [s for s in last if s.status == "ok"])
            except RowError as error:
                self._fail(error)
                continue
            for subject in running:
                getattr(subject, into).append(found[subject.row])
            return

    def _setting_for(self, subjects: Iterable[Subject]) -> Setting:
        return replace(self._setting, inject={s.row: self.plan.inject(s.row) for s in subjects})

    def _check_again(self, pair: Pair, subjects: Iterable[Subject]) -> None:
        """What ran many times must still be right."""
        for subject in subjects:
            for which in BOTH:
                if wrong := pair.check(subject.row, which, self._problem(subject.row)):
                    subject.end("incorrect", f"{which.upper()}, after many calls: {wrong}")
                    break

    def _round(self, stage: str) -> None:
        self._done += 1
        self._proceed(stage, self._done)

    def _proceed(self, stage: str, done: float) -> None:
        restarts = [self.plan.effort.restarts, *(self._restarts(s) for s in self.subjects)]
        total = (self._stages * max(restarts) + 1) * self.plan.effort.rounds
        self._listener.proceed(stage, min(done, total), total)

    # --- what is known -----------------------------------------------------------------------

    def judged(self) -> list[results.Comparison]:
        """Every row with its verdict; none where the run was interrupted."""
        candidates = [s for s in self._running() if s.change is not None]
        ps = [verdicts.p_of(s.change, [r.d for r in s.confirm]) for s in candidates if s.change]
        adjusted = ps if self.plan.alone else verdicts.holm(ps)
        p_holm = {id(s): p for s, p in zip(candidates, adjusted, strict=True)}
        return [self._comparison(s, p_holm.get(id(s))) for s in self.subjects]

    def _verdict(self, subject: Subject, p_holm: float | None) -> Verdict | None:
        if not self.complete or subject.status != "ok":
            return None
        if subject.change is None or p_holm is None:
            return verdicts.screened([r.d for r in subject.screen])
        return verdicts.confirmed(subject.change, [r.d for r in subject.confirm], p_holm)

    def _comparison(self, subject: Subject, p_holm: float | None) -> results.Comparison:
        verdict = self._verdict(subject, p_holm)
        every = [*subject.screen, *subject.confirm]
        a, b = ([t for r in every for t in getattr(r, which)] for which in BOTH)
        told = subject.confirm or subject.screen
        row, reason = subject.row, subject.reason
        if verdict is None and subject.status == "ok":
            reason = "interrupted"
        low, high = verdict.interval if verdict and verdict.interval else (None, None)
        return results.Comparison(
            workload=row.case.workload,
            size=row.case.size,
            dtype=row.case.dtype,
            backend=row.b,
            a=self.plan.sides[0].label,
            b=self.plan.sides[1].label,
            status=subject.status,
            reason=reason,
            a_s=float(np.median(a)) if a else None,
            b_s=float(np.median(b)) if b else None,
            ratio=verdict.ratio if verdict else None,
            ci_low=low,
            ci_high=high,
            restarts=[r.d for r in told],
            pairs=sum(len(r.a) for r in told),
            contended=sum(r.contended for r in every),
            stage="confirm" if subject.confirm else "screen",
            p=verdict.p if verdict else None,
            p_holm=verdict.p_holm if verdict else None,
            margin=verdicts.MARGIN,
            verdict=verdict.word if verdict else None,
            min_detectable=verdict.min_detectable if verdict else None,
            more_restarts=verdict.more_restarts if verdict else None,
            screened=[r.d for r in subject.screen] if subject.confirm else [],
            a_samples=a,
            b_samples=b,
            process=[number for number, r in enumerate(every) for _ in r.a],
        )

    def record(self) -> results.Run:
        """Everything that is known so far, as one record."""
        plan, effort = self.plan, self.plan.effort
        sampled = len(BOTH) * effort.restarts * effort.rounds * effort.sample * len(self.subjects)
        judged = self.judged()
        return results.Run(
            schema="nnkernels.bench/1",
            kind="ab",
            id=results.new_id(),
            created=self._created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            argv=[machine.scrub(a) for a in plan.argv],
            seed=plan.seed,
            duration_s=round(time.perf_counter() - self._began, 3),
            complete=self.complete,
            code=machine.code(),
            machine=machine.describe(self._start),
            settings=results.Settings(
                threads=plan.threads,
                affinity=list(self._setting.cpus),
                cache="warm",
                gc="off",
                sample_target_s=effort.sample,
                ci=verdicts.CONFIDENCE,
                budget_s=round(sampled, 3),
            ),
            results=[],
            sides=[self._side(which) for which in BOTH],
            comparisons=judged,
            warnings=self._warnings(judged),
        )

    def _warnings(self, judged: Sequence[results.Comparison]) -> list[str]:
        """What a reader of the verdicts should know."""
        found = machine.warnings(machine.environment())
        samples = sum(c.contended + len(c.a_samples) for c in judged)
        contended = sum(c.contended for c in judged)
        if contended > CONTENDED * samples:
            found.append(
                f"other processes interrupted {contended} of {samples} pairs (load "
                f"{self._start.load[0]:.1f}): fewer verdicts are sure than on a quiet machine"
            )
        return found + ([LAYOUT] if any(c.verdict == "slower" for c in judged) else [])

    def _side(self, which: Which) -> results.Side:
        side = self._setting.sides[which]
        versions = dict(self._identities.get(which, {}))
        versions.pop("file", None)
        return results.Side(machine.scrub(side.label), side.code, versions)


def _drivable(pair: Pair, sides: Mapping[Which, Side]) -> dict[Which, Workloads]:
    """What both sides can load.

    Raises:
        InputError: a side's nnkernels does not even come up under this version's harness.
    """
    try:
        return pair.workloads()
    except CandidateError as error:
        named = " or ".join(side.label for side in sides.values())
        raise InputError(f"ab: this version's workloads cannot drive {named}: {error}") from error


def _refuse(subject: Subject, refused: Mapping[Which, CandidateError], *, backend: bool) -> None:
    """End a row that a side refuses: its backend, or else the workload on it.

    Raises:
        NnkernelsError: no side has the backend; a BackendUnavailableError if both know it.
    """
    which, error = next(iter(refused.items()))
    text = machine.scrub(f"{which.upper()}: {error.kind}: {error}")
    if len(refused) == len(BOTH):
        known = getattr(errors, error.kind, None)
        if backend and isinstance(known, type) and issubclass(known, NnkernelsError):
            unavailable = issubclass(known, BackendError)
            raise (BackendUnavailableError if unavailable else known)(str(error))
        subject.end("failed", text)
    elif which == "a":
        subject.end("new", text)
    else:
        subject.end("gone" if backend else "failed", text)


Outcome = Literal["passed", "slower", "incomplete", "unsure"]


def outcome(run: results.Run) -> Outcome:
    """What the run means for who asked; what was not compared outweighs what was."""
    statuses = {c.status for c in run.comparisons}
    words = {c.verdict for c in run.comparisons}
    if not run.complete or statuses & {"gone", "failed", "incorrect"} or words <= {None}:
        return "incomplete"
    if "slower" in words:
        return "slower"
    return "unsure" if "unsure" in words else "passed"
