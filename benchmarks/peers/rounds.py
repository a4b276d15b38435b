"""Measuring: every candidate in a process of its own, judged first, then timed in turns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peers.catalogue import Candidate
from benchmarks.peers.problem import draw, reference, update_error
from benchmarks.peers.process import Process, last_cpus
from benchmarks.peers.record import Row, Subject
from nnkernels.bench import harness
from nnkernels.bench.workers import CandidateError

LIMIT = 1e-4
"""Largest error of the first update."""

DRIFT_STEPS = 20

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: samples of every candidate.
        seconds: what a sample lasts, about; at least one step.
        patience: seconds after which a worker that does not answer is killed.
    """

    rounds: int
    seconds: float
    patience: float


FULL = Effort(rounds=6, seconds=0.3, patience=600.0)
QUICK = Effort(rounds=2, seconds=0.05, patience=600.0)


@dataclass(frozen=True, slots=True)
class Task:
    """What the candidates of one table do.

    Attributes:
        workload, table: names.
        problem: what the worker draws, as ``[function, arguments]``.
        checkpoints: steps, ascending, after which the outputs are compared; only the first of
            these is judged.
        error: of the outputs at a checkpoint, by its place.
        limit: largest error at the first checkpoint.
        times_wrong: whether a candidate that is wrong is timed all the same, and marked.
        subject: the workload as results name it.
    """

    workload: str
    table: str
    problem: tuple[str, dict[str, Any]]
    checkpoints: tuple[int, ...]
    error: Callable[[int, Sequence[Any]], float]
    subject: Subject
    limit: float = LIMIT
    times_wrong: bool = False


def training_task(workload: str, table: str, quick: bool) -> Task:
    """Training steps on consecutive or shuffled batches, judged by the float64 textbook."""
    arguments: dict[str, Any] = {
        "workload": workload,
        "quick": quick,
        "shuffled": table == "shuffled",
    }
    problem = draw(**arguments)
    checkpoints = (1, DRIFT_STEPS)
    expected = reference(problem, checkpoints)
    initial = [*(w for w, _ in problem.initial), *(b for _, b in problem.initial)]

    def error(place: int, found: Sequence[Any]) -> float:
        return update_error(found, expected[place], initial)

    drawn = (f"{draw.__module__}:draw", arguments)
    return Task(workload, table, drawn, checkpoints, error, subject(workload, quick))


def subject(workload: str, quick: bool) -> Subject:
    """A training step as the registry has it."""
    cases = harness.cases("quick" if quick else "default")
    case = next(c for c in cases if c.workload == workload)
    return Subject(case.size, case.params, case.cost)


@dataclass(slots=True)
class Lane:
    """A candidate on its way through the stages; it has a process until one of them fails."""

    candidate: Candidate
    threads: int
    row: Row
    process: Process | None = None


def measure(
    task: Task,
    entries: Sequence[tuple[Candidate, int]],
    effort: Effort,
    tell: Tell,
    *,
    pinned: bool = True,
) -> list[Row]:
    """One row for each candidate and number of threads, in their order; all take turns.

    Where ``pinned``, a candidate may use as many CPUs as it has threads, the same ones for all: it
    is what makes JAX single-threaded.
    """
    lanes = [Lane(c, n, empty_row(task.workload, task.table, c, n)) for c, n in entries]
    for lane in lanes:
        lane.row.subject, lane.row.limit = task.subject, task.limit
    with contextlib.ExitStack() as stack:
        for lane in lanes:
            if lane.candidate.missing is None:
                tell(f"{task.workload} {task.table}: {lane.candidate.title} x{lane.threads}")
                with leaving(lane):
                    start(lane, stack, pinned=pinned)
                    _prepare(lane, task, effort)
        tell(f"{task.workload} {task.table}: in turns")
        _take_turns(lanes, effort)
    return [lane.row for lane in lanes]


def empty_row(workload: str, table: str, candidate: Candidate, threads: int) -> Row:
    """A row before anything is measured; that of a missing candidate says why."""
    names = (candidate.label, candidate.title, candidate.kind)
    row = Row(workload, table, threads, *names, candidate.note)
    if candidate.missing is not None:
        row.status, row.reason = "missing", candidate.missing
    return row


@contextlib.contextmanager
def leaving(lane: Lane) -> Iterator[None]:
    """End the lane when its candidate or its process fails, and keep the reason."""
    try:
        yield
    except CandidateError as error:
        lane.row.status = "unable" if error.kind == "Unable" else "failed"
        lane.row.reason = str(error) or error.kind
        _leave(lane)


def _leave(lane: Lane) -> None:
    if lane.process is not None:
        lane.process.close()
        lane.process = None


def start(lane: Lane, stack: contextlib.ExitStack, *, pinned: bool) -> None:
    """Start the process, which ``stack`` ends at last."""
    cpus = last_cpus(lane.threads) if pinned else None
    lane.process = Process(lane.threads, lane.candidate.environment, cpus)
    stack.callback(lane.process.close)


def load(lane: Lane, problem: tuple[str, dict[str, Any]], patience: float) -> float:
    """Have the candidate built; the seconds that took."""
    assert lane.process is not None
    candidate = lane.candidate
    job = {"target": candidate.target, "options": dict(candidate.options), "threads": lane.threads}
    return lane.process.seconds(patience, "load", problem=problem, **job)


def _prepare(lane: Lane, task: Task, effort: Effort) -> None:
    """Load, judge, and find the number of steps of a round."""
    process, row = lane.process, lane.row
    assert process is not None
    built = load(lane, task.problem, effort.patience)
    row.first_s = built + _judge(process, row, task, effort)
    if row.status == "wrong" and not task.times_wrong:
        _leave(lane)
        return
    row.steps = _prime(process, effort)


def _judge(process: Process, row: Row, task: Task, effort: Effort) -> float:
    """Compare the outputs at every checkpoint; the seconds of the first step."""
    first, done = 0.0, 0
    for place, steps in enumerate(task.checkpoints):
        seconds = process.seconds(effort.patience, "run", steps=steps - done)
        error = task.error(place, process.ask_arrays(effort.patience, "outputs"))
        finite = error if math.isfinite(error) else None
        if place == 0:
            first, row.error = seconds, finite
            if not error <= task.limit:
                row.status, row.reason = "wrong", _wrong(error, task.limit)
                break
        else:
            row.drift, row.drift_steps = finite, steps
        done = steps
    return first


def _wrong(error: float, limit: float) -> str:
    size = f"is off by {error:.1e} of its size" if math.isfinite(error) else "is not finite"
    return f"the result {size} against float64; {limit:.0e} is allowed"


def _prime(process: Process, effort: Effort) -> int:
    """Run ever more steps until they last a good part of a round; the steps of a round."""
    steps = 1
    while True:
        seconds = process.seconds(effort.patience, "run", steps=steps)
        if seconds >= effort.seconds / 4:
            return max(1, round(steps * effort.seconds / seconds))
        steps *= 2


def _take_turns(lanes: Sequence[Lane], effort: Effort) -> None:
    """Rounds, each in a new random order, so that no candidate always follows the same one."""
    rng = np.random.default_rng(0)
    for _ in range(effort.rounds):
        for place in rng.permutation(len(lanes)):
            lane = lanes[place]
            if lane.process is not None:
                with leaving(lane):
                    steps = lane.row.steps
                    seconds = lane.process.seconds(effort.patience, "run", steps=steps)
                    lane.row.samples.append(seconds / steps)
