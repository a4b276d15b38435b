"""What is made of the times."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.peers import catalogue, record, session
from benchmarks.peers.record import Row
from nnkernels.bench import machine


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


def test_a_record_can_be_read_again(tmp_path: Path) -> None:
    made = record.Record(
        schema=record.SCHEMA,
        created="now",
        argv=[],
        quick=True,
        complete=True,
        code=machine.code(),
        machine=machine.describe(machine.Start()),
        warnings=[],
        libraries=record.libraries(),
        rows=[row("ours", "ours", 1, 1.0)],
        ratios=[],
        busy=[],
        targets=[],
    )
    record.write(tmp_path / "run.json", made)
    data = (tmp_path / "run.json").read_bytes()
    assert msgspec.json.decode(data, type=record.Record) == made


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
