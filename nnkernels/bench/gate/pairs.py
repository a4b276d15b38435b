"""Two workers, one for each side, that are asked in turns: where the pairs of samples come from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from nnkernels.bench import machine
from nnkernels.bench.gate import isolation
from nnkernels.bench.gate.isolation import Which
from nnkernels.bench.gate.sides import Side
from nnkernels.bench.harness import SAMPLE_SECONDS, Preset, Problem
from nnkernels.bench.session import garbage
from nnkernels.bench.workers import (
    CandidateError,
    Greeting,
    Listed,
    Loaded,
    Primed,
    Sample,
    Settings,
    Worker,
    WorkerLostError,
    Workloads,
)
from nnkernels.errors import NotComparableError

R = TypeVar("R", bound=msgspec.Struct)

BOTH: tuple[Which, Which] = ("a", "b")
RETAKES = 3
"""How often a pair is taken again that another process interrupted."""

LONG = 2.0
"""Samples that last longer than this many times what is planned, because a single call does, are
taken in every other round: they would take most of a run's time."""

ALLOWANCE = 0.5
"""Pairs of a restart that are taken again, as a fraction: on a busy machine all are interrupted."""

REPRIME_SECONDS = 0.1
"""The longest priming of a workload in a restart, after the caches are filled."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        restarts: of both workers, in each stage; the unit of replication.
        rounds: pairs of every workload in a restart.
        sample: seconds of a sample, on the faster side; one call where that is longer.
        prime: longest priming of a workload, in seconds, in the process that fills the caches.
        patience: seconds after which a worker that does not answer is given up.
    """

    restarts: int
    rounds: int
    sample: float
    prime: float
    patience: float = 120.0


EFFORTS: Mapping[Preset, Effort] = {
    "quick": Effort(8, 12, 0.0005, 0.5),
    "default": Effort(8, 24, 0.001, 3.0),
    "thorough": Effort(16, 48, 0.001, 3.0),
}
"""A sample of a millisecond ends before the scheduler takes the CPU away (Linux: about 3 ms), also
where other work waits for it; of longer ones nearly all are interrupted on a busy machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """A workload and the backend of each side that runs it."""

    case: Listed
    a: str
    b: str

    @property
    def slot(self) -> str:
        """Its name within a worker."""
        return f"{self.case.id} {self.a} {self.b}"

    def backend(self, which: Which) -> str:
        """The backend that runs it on one side."""
        return self.a if which == "a" else self.b


@dataclass(slots=True)
class Restart:
    """The pairs of one workload in one restart, and how many samples others interrupted."""

    a: list[float] = field(default_factory=list)
    b: list[float] = field(default_factory=list)
    contended: int = 0

    @property
    def d(self) -> float:
        """Median over the pairs of ln(t_b / t_a)."""
        return float(np.median(np.log(np.asarray(self.b) / np.asarray(self.a))))


class RowError(Exception):
    """A workload cannot go on, and why; the workers may be lost with it."""

    def __init__(self, row: Row, which: Which, cause: CandidateError) -> None:
        text = f"{cause.kind}: {cause}" if cause.kind else str(cause)
        super().__init__(machine.scrub(text))
        self.row, self.which, self.cause = row, which, cause
        self.lost = isinstance(cause, WorkerLostError)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all pairs of a run share."""

    sides: Mapping[Which, Side]
    preset: Preset
    threads: int
    cpus: Sequence[int]
    effort: Effort
    tolerated: frozenset[str] = frozenset()
    inject: Mapping[Row, float] = field(default_factory=dict)


class Pair:
    """Both workers of one restart. Open it with ``with``; it leaves no process behind."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._workers: dict[Which, Worker] = {}
        self._stack = contextlib.ExitStack()
        self.identities: dict[Which, dict[str, str | None]] = {}

    def __enter__(self) -> Pair:
        with contextlib.ExitStack() as stack:
            for which, side in self._setting.sides.items():
                environment = isolation.environment(which, self._setting.threads)
                worker = Worker(Settings(side.python, side.path, environment))
                self._workers[which] = worker
                stack.callback(worker.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # --- talking to both ---------------------------------------------------------------------

    def _ask(self, which: Which, reply: type[R], do: str, **request: Any) -> R:
        return self._workers[which].ask(reply, self._setting.effort.patience, do, **request)

    def _ask_both(
        self, reply: type[R], do: str, request: Callable[[Which], Mapping[str, Any]]
    ) -> dict[Which, R | CandidateError]:
        """Ask both at once; what one answers with an error does not keep the other from its own."""
        found: dict[Which, R | CandidateError] = {}
        for which in BOTH:
            try:
                self._workers[which].send(do, **request(which))
            except CandidateError as error:
                found[which] = error
        for which in BOTH:
            if which not in found:
                try:
                    patience = self._setting.effort.patience
                    found[which] = self._workers[which].receive(reply, patience)
                except CandidateError as error:
                    found[which] = error
        return found

    # --- getting ready -----------------------------------------------------------------------

    def workloads(self) -> dict[Which, Workloads]:
        """What both sides can load.

        Raises:
            CandidateError: a worker does not come up.
        """
        answers = self._ask_both(Workloads, "workloads", lambda _: {"preset": self._setting.preset})
        return {which: _or_raise(answer) for which, answer in answers.items()}

    def greet(self, row: Row) -> dict[Which, CandidateError | None]:
        """Have both run the row's backends; per side, why it cannot.

        Raises:
            NotComparableError: a worker runs something else than its side, or the sides differ in
                what they should share.
        """
        threads = self._setting.threads
        answers = self._ask_both(
            Greeting,
            "hello",
            lambda which: {
                "slot": row.slot,
                "backend": row.backend(which),
                "baseline": None,
                "threads": threads,
                "hold": False,
            },
        )
        found: dict[Which, CandidateError | None] = {}
        for which, answer in answers.items():
            if isinstance(answer, Greeting):
                self.identities[which] = answer.identity
                _check_place(self._setting.sides[which], answer.identity)
            found[which] = answer if isinstance(answer, CandidateError) else None
        if len(self.identities) == len(BOTH):
            check_alike(self.identities["a"], self.identities["b"], self._setting.tolerated)
        return found

    def load(self, row: Row) -> dict[Which, CandidateError | None]:
        """Have both draw the row's inputs; per side, why it cannot."""
        request = {"slot": row.slot, "preset": self._setting.preset, "case": row.case.id}
        answers = self._ask_both(Loaded, "load", lambda _: request)
        return {w: a if isinstance(a, CandidateError) else None for w, a in answers.items()}

    def ready(self, rows: Sequence[Row]) -> None:
        """Load and prime rows that are known to work.

        Both import at the same time, wherever there is room. Then they are held to the CPUs of the
        run: memory is touched first, and threads are counted, where they will run.

        Raises:
            RowError: one does not.
        """
        for row in rows:
            _insist(row, self.greet(row))
        self.pin()
        for row in rows:
            _insist(row, self.load(row))
        for row in rows:
            for which in BOTH:
                self.prime(row, which, REPRIME_SECONDS)

    def pin(self) -> None:
        """Hold both workers to the CPUs of the run."""
        for worker in self._workers.values():
            isolation.pin(worker.pid, self._setting.cpus)

    def check(self, row: Row, which: Which, problem: Problem) -> str | None:
        """Compare one side with the reference; what is wrong, or None.

        Raises:
            RowError: there is no result.
        """
        with self._row(row, which), garbage():
            patience = self._setting.effort.patience
            arrays = self._workers[which].ask_arrays(patience, "check", slot=row.slot)
            found = problem.agreement(arrays)
        return None if found.ok else found.reason or "it differs from the reference"

    def prime(self, row: Row, which: Which, limit: float) -> Primed:
        """Call until times are steady, at most ``limit`` seconds.

        Raises:
            RowError: it fails.
        """
        with self._row(row, which):
            return self._ask(which, Primed, "prime", slot=row.slot, limit=limit)

    @contextlib.contextmanager
    def _row(self, row: Row, which: Which) -> Iterator[None]:
        try:
            yield
        except CandidateError as error:
            raise RowError(row, which, error) from error

    # --- sampling ----------------------------------------------------------------------------

    def measure(
        self,
        loops: Mapping[Row, int],
        rng: np.random.Generator,
        progress: Callable[[], None],
    ) -> dict[Row, Restart]:
        """Take the pairs of a restart: rounds over all rows, in random order.

        Raises:
            RowError: a row fails.
        """
        rows = list(loops)
        found = {row: Restart() for row in rows}
        rounds = self._setting.effort.rounds
        allowance = round(ALLOWANCE * rounds * len(rows))
        for number in range(rounds):
            for index in rng.permutation(len(rows)):
                row = rows[index]
                if number % 2 and self._is_long(found[row], loops[row]):
                    continue
                allowance -= self._take(row, loops[row], rng, found[row], min(allowance, RETAKES))
            progress()
        return found

    def _is_long(self, so_far: Restart, loops: int) -> bool:
        return min(so_far.a) * loops > LONG * self._setting.effort.sample

    def _take(
        self, row: Row, loops: int, rng: np.random.Generator, into: Restart, retakes: int
    ) -> int:
        """Add a pair; again while it is contended, at most ``retakes`` times. How often again."""
        for again in range(retakes + 1):
            samples = {BOTH[i]: self._sample(row, BOTH[i], loops) for i in rng.permutation(2)}
            contended = samples["a"].contended or samples["b"].contended
            into.contended += contended
            if not contended or again == retakes:
                break
        into.a.append(samples["a"].seconds)
        into.b.append(samples["b"].seconds)
        return again

    def _sample(self, row: Row, which: Which, loops: int) -> Sample:
        inject = self._setting.inject.get(row, 0.0) if which == "b" else 0.0
        with self._row(row, which):
            found = self._ask(which, Sample, "sample", slot=row.slot, loops=loops, inject=inject)
            if not (math.isfinite(found.seconds) and found.seconds > 0):
                raise CandidateError(f"a sample of {found.seconds} s is no measurement")
        return found


def _insist(row: Row, refused: Mapping[Which, CandidateError | None]) -> None:
    for which, error in refused.items():
        if error is not None:
            raise RowError(row, which, error)


def _or_raise(answer: R | CandidateError) -> R:
    if isinstance(answer, CandidateError):
        raise answer
    return answer


def shared_loops(a: Primed, b: Primed, effort: Effort) -> int:
    """Calls of a sample on both sides, so that both do the same: chosen from the faster one."""
    return max(1, round(max(a.loops, b.loops) * effort.sample / SAMPLE_SECONDS))


def _check_place(side: Side, identity: Mapping[str, str | None]) -> None:
    file = Path(identity["file"] or "").resolve()
    if side.root.resolve() not in file.parents:
        raise NotComparableError(
            f"ab: {side.label}: its workers import nnkernels from another place than "
            f"{machine.scrub(str(side.root))}; uninstall the other one, or compare wheels"
        )


def check_alike(
    a: Mapping[str, str | None], b: Mapping[str, str | None], tolerated: frozenset[str]
) -> None:
    """Refuse sides that differ in more than nnkernels.

    Raises:
        NotComparableError: naming what differs.
    """
    shared = [name for name in a if name not in ("file", "version")]
    different = [name for name in shared if a[name] != b.get(name) and name not in tolerated]
    if different:
        told = "; ".join(f"{name}: {a[name]} against {b.get(name)}" for name in different)
        raise NotComparableError(
            f"ab: the sides differ in more than nnkernels ({told}); make them alike, or give "
            f"--allow {','.join(different)} if that is what you compare"
        )
