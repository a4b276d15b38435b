"""One run of the benchmark: every candidate, in a process of its own, checked, primed, sampled."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from msgspec.structs import replace

from nnkernels import errors, plugins
from nnkernels.bench import machine, results, roofline
from nnkernels.bench.harness import (
    REWARM_SECONDS,
    Agreement,
    Case,
    Preset,
    Problem,
    identify,
    interleave,
)
from nnkernels.bench.recording import Recorder
from nnkernels.bench.rows import Kind
from nnkernels.bench.statistics import summarise
from nnkernels.bench.workers import (
    CandidateError,
    Forgotten,
    Greeting,
    Loaded,
    Primed,
    R,
    Sample,
    Worker,
    WorkerHungError,
    WorkerLostError,
)
from nnkernels.bench.workers import Settings as WorkerSettings
from nnkernels.errors import BackendError, BackendUnavailableError, NnkernelsError

REFERENCE = "reference"
"""The oracle: measured only when it is named."""

LARGE_CACHE = 64 << 20
"""Bytes taken for the last cache where the system does not tell it."""

PATIENCE = 120.0
"""Seconds, or the budget where that is more, after which a worker that does not answer is killed.

The longest answers are first calls, which may compile.
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time a preset spends: seconds in all, rounds, and priming of one candidate.

    No preset takes fewer than 6 rounds, without which the median has no 95 % interval.
    """

    budget: float
    least: int
    most: int
    prime: float


EFFORTS: Mapping[Preset, Effort] = {
    "quick": Effort(15, 6, 20, 0.2),
    "default": Effort(50, 6, 100, 0.5),
    "thorough": Effort(600, 10, 400, 3),
}


HEAT_LEAST, HEAT_MOST = 3, 7
"""Samples with each number of threads, of which the fastest is chosen."""

HEAT_SHARE = 0.2
"""The part of a case's time for that."""

EQUAL = 1.03
"""As fast: then the fewest threads are chosen."""


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
        preset: whose sizes they have.
        backends: names of the candidates.
        skipped: backends that cannot work here, with the reasons.
        effort: see :class:`Effort`.
        threads: CPU threads of every candidate; None: a :class:`Session` finds out how many are
            fastest on each case, others leave the libraries' own. A backend whose name says its
            own number keeps that.
        argv: the command line, for the record.
        seed: of the order in which candidates take turns.
        cpus: the only CPUs that candidates may use; None leaves the system's choice.
        cold: whether the caches are emptied before every call.
    """

    cases: Sequence[Case]
    preset: Preset
    backends: Sequence[str]
    skipped: Mapping[str, str]
    effort: Effort
    threads: int | None = None
    argv: Sequence[str] = ()
    seed: int = 0
    cpus: Collection[int] | None = None
    cold: bool = False

    @property
    def baselines(self) -> list[str]:
        """Candidates that are not backends, of any case."""
        return list(dict.fromkeys(name for case in self.cases for name in case.baselines))

    @property
    def cores(self) -> int:
        """CPUs that the candidates may use."""
        return machine.cores() if self.cpus is None else len(self.cpus)

    @property
    def patience(self) -> float:
        """Seconds that a worker has for an answer."""
        return max(PATIENCE, self.effort.budget)


def choose_backends(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Backends to compare, and those that cannot work here with their reasons.

    ``names``, which are looked up when their workers start; without: every available backend but
    the reference.
    """
    if names:
        return list(dict.fromkeys(names)), {}
    known = {n: r for n, r in plugins.availability().items() if n != REFERENCE}
    chosen = [name for name, reason in known.items() if reason is None]
    return chosen, {name: machine.scrub(reason) for name, reason in known.items() if reason}


class Candidate:
    """A backend or a baseline, and the worker that runs it.

    A worker that was lost is replaced by :meth:`revive`, unless it never came up or hung: then the
    candidate has ``retired``, and that is why.
    """

    def __init__(self, name: str, kind: Literal["backend", "baseline"], plan: Plan) -> None:
        self.name, self.kind = name, kind
        self.patience = plan.patience
        self.retired: CandidateError | None = None
        self.device = "cpu"
        self.cold = plan.cold
        self.threads = plan.threads
        self._plan = plan
        self._adjustable = False
        self._lost: WorkerLostError | None = None
        self._worker: Worker | None = None

    def start(self) -> None:
        """Start a worker; :meth:`greet` must follow."""
        self._worker = Worker(WorkerSettings(cpus=self._plan.cpus))
        self._worker.send("hello", **self._hello(self._plan.threads))

    def _hello(self, threads: int | None) -> dict[str, Any]:
        return {"backend": None, "baseline": None, self.kind: self.name, "threads": threads}

    def greet(self) -> None:
        """Wait until the worker is ready.

        Raises:
            CandidateError: it refuses the candidate, runs something else, or was lost.
        """
        greeting = self.worker.receive(Greeting, self.patience)
        if greeting.identity != identify():
            raise WorkerLostError("its process runs another nnkernels, Python, NumPy or BLAS")
        self.device, self.threads = greeting.device, greeting.threads
        self._adjustable = greeting.adjustable

    def choices(self) -> list[int | None]:
        """Numbers of threads to choose from; None is what the plan or the backend's name says."""
        if self.device != "cpu" or self.threads is not None or not self._adjustable:
            return [None]
        return list(some_counts(self._plan.cores))

    def greet_with(self, threads: int) -> None:
        """Have a slot of the worker, called by the number, run with so many threads.

        Raises:
            CandidateError: it cannot, or the worker was lost.
        """
        hello = self._hello(threads)
        self.worker.ask(Greeting, self.patience, "hello", slot=str(threads), **hello)

    @property
    def worker(self) -> Worker:
        """The worker.

        Raises:
            CandidateError: there is none any more.
        """
        if self._worker is None:
            raise self._why_none()
        return self._worker

    def _why_none(self) -> CandidateError:
        """Why there is no worker: what hung on an earlier case has not been tried since."""
        if isinstance(self.retired, WorkerHungError):
            return WorkerHungError(f"not tried, because it had hung before: {self.retired}")
        return self.retired or self._lost or WorkerLostError("its process has ended")

    def revive(self) -> None:
        """Start a worker again if the last one was lost."""
        if self._worker is None and self.retired is None:
            with self.watched():
                self.start()
                self.greet()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Let go of a worker that is lost within."""
        try:
            yield
        except WorkerLostError as error:
            self._lost = error
            if isinstance(error, WorkerHungError) and self.retired is None:
                self.retired = error
            self.close()
            raise

    def close(self) -> None:
        """End the worker."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def some_counts(cores: int) -> list[int]:
    """One thread, all, and a quarter and half of many."""
    return sorted({1, *(n for n in (cores // 4, cores // 2) if n > 1), cores})


@contextlib.contextmanager
def hired(plan: Plan) -> Iterator[list[Candidate]]:
    """The candidates of a plan, with workers that are ready; they end with the block.

    A worker that crashes or hangs before it is ready fails only its candidate's rows.

    Raises:
        NnkernelsError: what a worker says about its backend's name; a backend that was named and
            cannot work here is always a BackendUnavailableError.
    """
    crew = [Candidate(name, "backend", plan) for name in plan.backends]
    crew += [Candidate(name, "baseline", plan) for name in plan.baselines]
    try:
        for step in (Candidate.start, Candidate.greet):
            for candidate in crew:
                _introduce(candidate, step)
        yield crew
    finally:
        for candidate in crew:
            candidate.close()


def _introduce(candidate: Candidate, step: Any) -> None:
    if candidate.retired is not None:
        return
    try:
        with candidate.watched():
            step(candidate)
    except CandidateError as error:
        known = getattr(errors, error.kind, None)
        if known is not None and issubclass(known, NnkernelsError):
            unavailable = issubclass(known, BackendError)
            raise (BackendUnavailableError if unavailable else known)(str(error)) from error
        candidate.retired = error
        candidate.close()


@dataclass
class Session:
    """A run under way; ``record()`` gives what has been measured so far.

    Without ``ceilings`` no row is judged by them; ``again`` measures them once more. A record has
    the ``warnings`` that there are when it is made.
    """

    plan: Plan
    crew: Sequence[Candidate]
    listener: Listener
    found: list[results.Result] = field(default_factory=list)
    complete: bool = False
    ceilings: list[results.Ceiling] = field(default_factory=list)
    again: Callable[[], Iterable[results.Ceiling]] = tuple
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.plan
        cache: Literal["warm", "cold"] = "cold" if plan.cold else "warm"
        self._recorder = Recorder(plan.argv, plan.seed, plan.effort.budget, plan.threads, cache)
        self._rng = np.random.default_rng(plan.seed)
        self._uncounted = 0.0

    def survey(self, measure: Callable[[], list[results.Ceiling]]) -> list[results.Ceiling]:
        """Measure the ceilings: time that is none of the budget's."""
        begun = time.perf_counter()
        found = measure()
        self._uncounted += time.perf_counter() - begun
        return found

    def run(self) -> None:
        """Measure every case of the plan."""
        for number, case in enumerate(self.plan.cases):
            self.listener.begin(case, number, len(self.plan.cases))
            rows = self._measure(case, self._share(number))
            self.found += rows
            self.listener.finish(case, rows)
        self.complete = True

    def _share(self, number: int) -> float:
        """Seconds for the next case: an equal part of what is left; compiling takes no share."""
        left = self.plan.effort.budget + self._uncounted - self._recorder.elapsed
        return max(left, 0.0) / (len(self.plan.cases) - number)

    def _measure(self, case: Case, seconds: float) -> list[results.Result]:
        deadline = time.perf_counter() + seconds
        entrants = [
            [Trial(case, number, candidate, threads) for threads in candidate.choices()]
            for number, candidate in enumerate(self.crew)
            if candidate.kind == "backend" or candidate.name in case.baselines
        ]
        problem = functools.cache(case.make)
        for some in itertools.zip_longest(*entrants):
            get_ready([trial for trial in some if trial is not None], self.plan, problem)
        compiling = sum(trial.compile_s for own in entrants for trial in own)
        self._uncounted += compiling
        deadline += compiling
        trials = self._fastest(entrants, seconds * HEAT_SHARE)
        race(trials, self.plan, self._rng, deadline, problem)
        rows = self._judged([trial.result() for trial in trials])
        for trial in trials:
            trial.forget()
        skipped = self.plan.skipped.items()
        return rows + [_row(case, name, "skipped", reason) for name, reason in skipped]

    def _fastest(self, entrants: Sequence[Sequence[Trial]], seconds: float) -> list[Trial]:
        """The best number of threads of each candidate, by a short race; the others are let go."""
        heat = [trial for own in entrants if len(own) > 1 for trial in own if trial.short]
        interleave(
            [trial.sample for trial in heat],
            self._rng,
            seconds=seconds,
            least=HEAT_LEAST,
            most=HEAT_MOST,
            enough=lambda: False,
        )
        return [_best(own) for own in entrants]

    def _judged(self, rows: list[results.Result]) -> list[results.Result]:
        """Rows under the ceilings, if there are any; what is faster than possible has failed."""
        if not self.ceilings:
            return rows
        rows, self.ceilings = roofline.judged_all(rows, self.ceilings, self.again)
        return rows

    def record(self) -> results.Run:
        """Everything that is known so far, as one record."""
        return self._recorder.record(
            "bench",
            self.found,
            complete=self.complete,
            ceilings=list(self.ceilings),
            warnings=list(self.warnings),
        )


def contest(
    trials: Sequence[Trial],
    case: Case,
    plan: Plan,
    rng: np.random.Generator,
    deadline: float,
    enough: Callable[[], bool] | None = None,
) -> None:
    """Load, check and prime all, let them take samples in turns until then, and check again.

    Args:
        trials: of the candidates on ``case``.
        case: the workload.
        plan: says the preset, and the effort.
        rng: of the order of turns.
        deadline: on ``time.perf_counter()``.
        enough: whether no more samples are needed; by default, whether all have converged.
    """
    problem = functools.cache(case.make)
    get_ready(trials, plan, problem)
    race(trials, plan, rng, deadline, problem, enough)


def get_ready(trials: Sequence[Trial], plan: Plan, problem: Callable[[], Problem]) -> None:
    """Load, check and prime: trials of different candidates, which draw their inputs at once."""
    for trial in trials:
        trial.load(plan.preset)
    drawn = problem()
    for trial in trials:
        trial.prepare(drawn, plan.effort.prime)


def race(
    trials: Sequence[Trial],
    plan: Plan,
    rng: np.random.Generator,
    deadline: float,
    problem: Callable[[], Problem],
    enough: Callable[[], bool] | None = None,
) -> None:
    """Let all that are ready take samples in turns, and check again; see :func:`contest`."""
    interleave(
        [trial.sample for trial in trials],
        rng,
        seconds=deadline - time.perf_counter(),
        least=plan.effort.least,
        most=plan.effort.most,
        enough=enough or (lambda: all(trial.done for trial in trials)),
    )
    for trial in trials:
        trial.check_again(problem())


def _best(own: Sequence[Trial]) -> Trial:
    """Of the same candidate's trials the fastest, ready for its race; if one failed, that one."""
    failed = [trial for trial in own if not trial.ok]
    least = min((trial.pace for trial in own if trial.ok), default=0.0)
    chosen = failed[0] if failed else next(t for t in own if t.pace <= least * EQUAL)
    for trial in own:
        if trial is not chosen:
            trial.forget()
    chosen.start_anew(compile_s=max(trial.compile_s for trial in own))
    return chosen


class Trial:
    """A candidate on one case: nothing that disagrees with the reference is timed.

    Args:
        case: the workload.
        number: of the candidate.
        candidate: who runs it.
        threads: how many CPU threads it has, in a slot of its worker; None: as the plan says.
    """

    def __init__(
        self, case: Case, number: int, candidate: Candidate, threads: int | None = None
    ) -> None:
        self.case = case
        self._number, self._candidate = number, candidate
        self._threads = threads
        self._slot = "" if threads is None else str(threads)
        self._cold = _evicted_bytes() if candidate.cold else 0
        self._agreement: Agreement | None = None
        self._status: Literal["ok", "failed", "incorrect"] = "ok"
        self._reason: str | None = None
        self._kinds: Sequence[Kind] = ()
        self._primed: dict[Kind, Primed] = {}
        self._samples: dict[Kind, list[Sample]] = {}

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        """Make a failure within the result of the trial; nothing is tried after a failure."""
        try:
            with self._candidate.watched():
                yield
        except CandidateError as error:
            self._status = "failed"
            text = f"{error.kind}: {error}" if error.kind else str(error)
            self._reason = machine.scrub(text)

    @property
    def ok(self) -> bool:
        """Whether nothing has failed so far."""
        return self._status == "ok"

    def load(self, preset: Preset) -> None:
        """Have the inputs drawn, without waiting for it."""
        with self._trying():
            self._candidate.revive()
            if self._threads is not None:
                self._candidate.greet_with(self._threads)
            worker, slot = self._candidate.worker, self._slot
            if self.case.sweep is None:
                worker.send("load", slot=slot, preset=preset, case=self.case.id)
            else:
                sweep_id, size = self.case.sweep
                worker.send("load_at", slot=slot, sweep_id=sweep_id, size=size)

    def prepare(self, problem: Problem, limit: float) -> None:
        """Wait for the inputs, check and prime."""
        if self.ok:
            with self._trying():
                worker, patience = self._candidate.worker, self._candidate.patience
                loaded = worker.receive(Loaded, patience)
                self._kinds = loaded.kinds
                self._check(problem)
                if self.ok:
                    self._reason = loaded.note
                    for kind in self._runners:
                        self._primed[kind] = self._ask(Primed, "prime", limit=limit, kind=kind)

    @property
    def _runners(self) -> list[Kind]:
        """Kinds of time that have a way to run of their own; kernels run as in a call."""
        return [kind for kind in self._kinds if kind != "kernel"]

    def _ask(self, reply: type[R], do: str, **request: Any) -> R:
        """Ask the trial's slot of the worker."""
        candidate = self._candidate
        return candidate.worker.ask(reply, candidate.patience, do, slot=self._slot, **request)

    def _check(self, problem: Problem) -> None:
        """Compare what the checked calls give with the reference, in every way to run."""
        worker, patience = self._candidate.worker, self._candidate.patience
        for kind in self._runners:
            with garbage():
                asked = {"slot": self._slot, "kind": kind}
                found = problem.agreement(worker.ask_arrays(patience, "check", **asked))
            self._agreement = found
            if not found.ok:
                where = " (with transfers)" if kind == "e2e" else ""
                self._status, self._reason = "incorrect", f"{found.reason}{where}"
                return

    def sample(self) -> None:
        """Take a sample of every kind."""
        if self.ok:
            with self._trying():
                for kind in self._kinds:
                    loops = self._primed["e2e" if kind == "e2e" else "call"].loops
                    request = {"loops": 1 if self._cold else loops, "kind": kind}
                    found = self._ask(Sample, "sample", **request, cold=self._cold)
                    self._samples.setdefault(kind, []).append(found)

    def check_again(self, problem: Problem) -> None:
        """Compare once more after timing: what ran many times must still be right."""
        if self.ok:
            with self._trying():
                self._check(problem)

    def samples(self, kind: Kind) -> Sequence[float]:
        """Seconds a call, in the order in which they were taken; none of what has no such time."""
        return [sample.seconds for sample in self._samples.get(kind, ())]

    @property
    def short(self) -> bool:
        """Whether a call is so short that priming tells little about it."""
        return self.ok and self._primed["call"].seconds < REWARM_SECONDS

    @property
    def pace(self) -> float:
        """Seconds a call: the median of the samples so far, or what priming told."""
        taken = self.samples("call")
        return float(np.median(taken)) if taken else self._primed["call"].seconds

    @property
    def compile_s(self) -> float:
        """Seconds that the first call took beyond a later one."""
        return max((primed.compile_s for primed in self._primed.values()), default=0.0)

    def start_anew(self, *, compile_s: float) -> None:
        """Drop the samples that this trial was chosen by, which its median must not know.

        ``compile_s`` is what the candidate's first trial told: the others find its compiled code.
        """
        self._samples.clear()
        if self.ok:
            self._primed["call"] = replace(self._primed["call"], compile_s=compile_s)

    def forget(self) -> None:
        """Let the worker free what it holds for the trial."""
        with contextlib.suppress(CandidateError), self._candidate.watched():
            self._ask(Forgotten, "forget")

    @property
    def done(self) -> bool:
        """Whether no more samples are needed."""
        return not self.ok or all(self._times(kind).converged for kind in self._kinds)

    def _times(self, kind: Kind) -> results.Times:
        contended = sum(sample.contended for sample in self._samples[kind])
        return summarise(self.samples(kind), contended, self._number)

    def _times_by_kind(self) -> results.TimesByKind:
        found = {kind: self._times(kind) for kind in self._kinds}
        kernels = self._samples.get("kernel", ())
        queued = [sample.queued for sample in kernels if sample.queued is not None]
        return results.TimesByKind(
            **{"call": None, **found},
            queued=summarise(queued, 0, self._number) if queued else None,
            graph=bool(kernels) and all(sample.graph for sample in kernels),
        )

    def result(self) -> results.Result:
        """The row."""
        row = _row(self.case, self._candidate.name, self._status, self._reason)
        if self._agreement:
            found = self._agreement
            correctness = results.Correctness(found.ok, found.error, found.limit)
            row = replace(row, correctness=correctness)
        if not self.ok:
            return row
        times, primed = self._times_by_kind(), self._primed["call"]
        assert times.call is not None
        row = replace(
            row,
            device=self._candidate.device,
            threads=self._threads or self._candidate.threads,
            compile_s=primed.compile_s,
            prime_calls=primed.calls,
            loops=1 if self._cold else primed.loops,
            times=times,
            rates=_rates(self.case, times),
        )
        impossible = roofline.impossible_times(times)
        return replace(row, status="failed", reason=impossible) if impossible else row


@contextlib.contextmanager
def garbage() -> Iterator[None]:
    """Arrays that do not fit the reference's are no answer."""
    try:
        yield
    except NnkernelsError:  # a user's reference raised
        raise
    except (ValueError, TypeError) as error:
        raise WorkerLostError(f"its process answered garbage: {error}") from error


def _evicted_bytes() -> int:
    """Twice the last cache of this machine, or of a large one where the system does not tell."""
    return 2 * max([cache.nbytes for cache in machine.caches()], default=LARGE_CACHE)


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
        size=case.size,
    )


def _rates(case: Case, times: results.TimesByKind) -> results.Rates:
    """Rates of a kernel where there is one, else of a call."""
    measured = times.kernel or times.call
    assert measured is not None
    cost, median = case.cost, measured.median
    return results.Rates(
        flop_s=cost.flop / median if cost.flop else None,
        byte_s=cost.bytes / median,
        item_s=cost.items / median,
        bound=roofline.LAUNCHES if roofline.launch_bound(times) else None,
    )
