"""What is made of the times."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.peers import catalogue, record, session
from benchmarks.peers.record import Row
from nnkernels.bench import machine, results
from nnkernels.bench.harness import Cost
from nnkernels.bench.recording import Recorder


def row(title: str, kind: str, threads: int, seconds: float, status: str = "ok") -> Row:
    return Row("W1", "shuffled", threads, title, title, kind, status=status, samples=[seconds])


def test_the_ratio_is_to_the_best_stock_peer_with_as_many_threads_or_fewer() -> None:
    rows = [
        row("ours", "ours", 1, 1.0),
        row("ours", "ours", 2, 0.5),
        row("fast", "stock", 1, 2.0),
        row("fast", "stock", 2, 3.0),
        row("slow", "stock", 2, 4.0),
        row("hack", "hack", 1, 0.1),
        row("other of ours", "ours", 1, 0.1, status="wrong"),
    ]
    found = [(r.threads, r.title, r.best, r.best_threads, r.ratio) for r in record.ratios(rows)]
    assert found == [(1, "ours", "fast", 1, 2.0), (2, "ours", "fast", 1, 4.0)]


def test_without_a_peer_there_is_no_ratio() -> None:
    assert record.ratios([row("ours", "ours", 1, 1.0), row("fast", "stock", 2, 1.0)]) == []


def test_median_and_spread() -> None:
    made = row("ours", "ours", 1, 1.0)
    made.samples = [2.0, 1.0, 4.0]
    assert (made.median, made.spread) == (2.0, 0.75)


def test_settings_that_slow_blas_down_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in session.SLOW:
        monkeypatch.delenv(name, raising=False)
    assert session.warnings() == []
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    (warning,) = session.warnings()
    assert "OPENBLAS_L2_SIZE=512" in warning
    assert "env -u OPENBLAS_L2_SIZE" in warning


SUBJECT = record.Subject("784-10-b32", {"batch": 32}, Cost(100.0, 50.0, 32))


@pytest.mark.parametrize(
    ("status", "told", "timed"),
    [
        ("ok", "ok", True),
        ("wrong", "incorrect", True),
        ("missing", "skipped", False),
        ("unable", "skipped", False),
        ("failed", "failed", False),
    ],
)
def test_a_row_is_one_of_our_results(tmp_path: Path, status: str, told: str, timed: bool) -> None:
    made = row("jax-loop", "stock", 2, 2.0, status=status)
    made.subject, made.error, made.limit, made.drift = SUBJECT, 1e-6, 1e-4, 0.1
    if not timed:
        made.samples = []
    run = Recorder([], 0, 1.0).record("peers", [record.result(made)], complete=True)
    results.write(tmp_path / "run.json", run)
    found = results.read(tmp_path / "run.json")
    assert found == run
    (result,) = found.results
    assert (result.workload, result.size) == ("W1", "784-10-b32-shuffled")
    assert (result.backend, result.threads, result.status) == ("jax-loop", 2, told)
    assert (result.peer.kind, result.peer.drift) == ("stock", 0.1)
    if timed:
        assert (result.times.call.median, result.rates.item_s) == (2.0, 16.0)
        assert result.correctness.ok == (status == "ok")
    else:
        assert (result.times.call, result.correctness) == (None, None)


def test_a_target_is_kept(tmp_path: Path) -> None:
    made = record.Target("numba", "nnkernels numba", "ours", 2, seconds=[1.5, None])
    run = Recorder([], 0, 1.0).record("peers", [], complete=True, targets=[record.target(made)])
    results.write(tmp_path / "run.json", run)
    (found,) = results.read(tmp_path / "run.json").targets
    assert (found.backend, found.seconds, found.peer.title) == (
        "numba",
        [1.5, None],
        "nnkernels numba",
    )


def hack() -> catalogue.Candidate:
    return next(peer for peer in catalogue.PEERS if peer.kind == "hack")


@pytest.mark.parametrize(
    ("cpu", "compiler", "reason"),
    [("Intel Xeon", "/bin/cc", "not AMD's"), ("AMD EPYC", None, "no C compiler")],
)
def test_the_hack_is_missing_where_it_cannot_be(
    monkeypatch: pytest.MonkeyPatch, cpu: str, compiler: str | None, reason: str
) -> None:
    facts = msgspec.structs.replace(machine.identity(), cpu=cpu)
    monkeypatch.setattr(machine, "identity", lambda: facts)
    monkeypatch.setattr(catalogue.shutil, "which", lambda name: compiler)
    with catalogue.shimmed([hack()]) as (found,):
        assert reason in found.missing
