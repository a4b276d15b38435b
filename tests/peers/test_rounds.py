"""Candidates are judged before they are timed; whatever one does, it is told and ended."""

import io
import os

import pytest
from rich.console import Console

from benchmarks.peers import busy, catalogue, rounds, table
from benchmarks.peers.catalogue import Candidate
from benchmarks.peers.problem import draw
from benchmarks.peers.process import Process
from benchmarks.peers.record import Row
from nnkernels.bench.workers import WorkerHungError

EFFORT = rounds.Effort(rounds=2, seconds=0.002, patience=60.0)
TEXTBOOK = next(peer for peer in catalogue.PEERS if peer.name == "textbook")


def plant(name: str, **changes) -> Candidate:
    return Candidate(name, name, f"planted_candidates:{name}", **changes)


def measure(*candidates: Candidate, batches: str = "consecutive") -> list[Row]:
    task = rounds.training_task("W4", batches, quick=True)
    return rounds.measure(task, [(c, 1) for c in candidates], EFFORT, lambda text: None)


def shown(rows: list[Row]) -> str:
    text = io.StringIO()
    table.show(Console(file=text, width=120, markup=False), "heading", rows)
    return text.getvalue()


def ends(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("batches", ["consecutive", "shuffled"])
def test_those_that_agree_with_float64_are_timed(batches: str) -> None:
    for row in measure(catalogue.own("numpy"), TEXTBOOK, batches=batches):
        assert (row.status, len(row.samples), row.drift_steps) == ("ok", EFFORT.rounds, 20)
        assert row.error < 1e-5
        assert min(row.samples) > 0


@pytest.mark.parametrize(
    ("name", "error"),
    [("Wrong", pytest.approx(1e-3, rel=0.1)), ("NotFinite", None), ("Incomplete", None)],
)
def test_a_wrong_candidate_is_caught_and_not_timed(planted, name: str, error) -> None:
    row, right = measure(plant(name), TEXTBOOK)
    assert (row.status, row.error, row.samples, row.drift) == ("wrong", error, [], None)
    assert "1e-04 is allowed" in row.reason
    assert right.samples
    assert "WRONG" in shown([row, right])


def test_drift_is_printed_and_not_judged(planted) -> None:
    (row,) = measure(plant("Drifting"))
    assert (row.status, len(row.samples)) == ("ok", EFFORT.rounds)
    assert row.drift > 0.1 > row.error


def test_a_missing_peer_is_a_row_with_the_remedy() -> None:
    peer = catalogue.checked(plant("Absent", needs=("no_such_module",)))
    (row,) = measure(peer)
    assert row.status == "missing"
    assert "MISSING" in shown([row])
    assert "no_such_module is not installed: python -m pip install '.[peers]'" in shown([row])


def test_what_fails_is_told_and_the_others_go_on(planted) -> None:
    names = ("Crashing", "Tiring", "CannotSay")
    *failed, right = measure(*map(plant, names), TEXTBOOK)
    assert [row.status for row in failed] == ["failed", "failed", "unable"]
    reasons = ["its process ended with exit code 7", "enough", "it has no such loss"]
    assert [row.reason for row in failed] == reasons
    assert len(right.samples) == EFFORT.rounds


def test_a_hanging_worker_is_ended_at_its_deadline(planted) -> None:
    process = Process(1, {}, None)
    try:
        arguments = {"workload": "W4", "quick": True, "shuffled": False}
        job = {"target": "planted_candidates:Hanging", "options": {}, "threads": 1}
        process.seconds(60, "load", problem=(f"{draw.__module__}:draw", arguments), **job)
        assert os.getsid(process.pid) == process.pid
        with pytest.raises(WorkerHungError, match=r"no answer within 0\.2 s"):
            process.seconds(0.2, "run", steps=1)
        assert ends(process.pid)
    finally:
        process.close()


def test_the_busy_process_ends_with_its_block() -> None:
    with busy.busy_process() as pid:
        assert not ends(pid)
    assert ends(pid)


def test_the_slowdown_is_of_most_threads_against_fewest() -> None:
    names = ("nnkernels", "nnkernels numpy", "ours")
    rows = [Row("W1", "consecutive", n, *names, samples=[s]) for n, s in ((1, 2.0), (2, 2.5))]
    assert busy.slowdowns(rows) == [(*rows, 1.25)]
    assert busy.slowdowns(rows[:1]) == []
