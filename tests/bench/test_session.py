"""A run: what is timed, what is not, and what is said about it."""

from dataclasses import replace

import numpy as np
import pytest

import nnkernels
from nnkernels import plugins
from nnkernels.bench import harness, session
from nnkernels.bench.session import Effort, Plan, Session, choose_backends
from nnkernels.errors import BackendError, BackendUnavailableError, UnknownNameError

TINY = Effort(0.05, 2, 3, 0.01)
RELU = next(case for case in harness.cases("quick") if case.workload == "relu")


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def begin(self, case, number, total) -> None:
        self.events.append(("begin", f"{case.id} {number}/{total}"))

    def finish(self, case, found) -> None:
        self.events.append(("finish", case.id))


def measure(*kernels, cases=(RELU,), **plan):
    numpy = nnkernels.get_backend("numpy")
    backends = {"numpy": numpy} | {k.__name__: numpy.replace(relu=k) for k in kernels}
    made = Session(Plan(cases, backends, {}, TINY, **plan), Recorder())
    made.run()
    return {r.backend: r for r in made.found}, made


def test_a_right_kernel_is_timed_and_rated() -> None:
    rows, _ = measure()
    row = rows["numpy"]
    assert row.status == "ok"
    assert row.correctness.ok
    times = row.times.call
    assert 2 <= len(times.samples) <= 3
    assert row.rates.byte_s == pytest.approx(row.cost.bytes / times.median)
    assert row.rates.item_s == pytest.approx(2048 / times.median)
    assert row.loops >= 1
    assert row.prime_calls >= 2


def test_a_wrong_kernel_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def wrong(x, *, out):
        calls.append(1)
        np.maximum(x, 0, out=out)
        out[0, 7] += 1

    rows, _ = measure(wrong)
    assert rows["wrong"].status == "incorrect"
    assert "result 0[0, 7]" in rows["wrong"].reason
    assert rows["wrong"].times.call is None
    assert rows["wrong"].rates.byte_s is None
    assert len(calls) == 1
    assert rows["numpy"].status == "ok"


def test_a_kernel_that_goes_wrong_later_is_found_out() -> None:
    calls = []

    def tiring(x, *, out):
        calls.append(1)
        np.maximum(x, 0 if len(calls) < 3 else 1, out=out)

    rows, _ = measure(tiring)
    assert rows["tiring"].status == "incorrect"
    assert rows["tiring"].times.call is None


def test_a_kernel_that_raises_fails_alone_and_names_no_folder() -> None:
    def broken(x, *, out):
        raise RuntimeError("lost /home/ann/kernel.so")

    rows, _ = measure(broken)
    assert (rows["broken"].status, rows["broken"].reason) == (
        "failed",
        "RuntimeError: lost …/kernel.so",
    )
    assert rows["broken"].correctness is None
    assert rows["numpy"].status == "ok"


def test_a_baseline_is_measured_in_the_same_run() -> None:
    w4 = next(case for case in harness.cases("quick") if case.workload == "W4")
    rows, made = measure(cases=(w4, RELU))
    assert rows["textbook"].times.call is not None
    assert rows["textbook"].workload == "W4"
    assert [r.backend for r in made.found] == ["numpy", "textbook", "numpy"]
    assert made.listener.events == [
        ("begin", f"{w4.id} 0/2"),
        ("finish", w4.id),
        ("begin", f"{RELU.id} 1/2"),
        ("finish", RELU.id),
    ]


def test_an_interrupted_run_keeps_what_it_has() -> None:
    def interrupt():
        raise KeyboardInterrupt

    made = Session(
        Plan((RELU, replace(RELU, make=interrupt)), choose_backends([], None)[0], {}, TINY),
        Recorder(),
    )
    with pytest.raises(KeyboardInterrupt):
        made.run()
    record = made.record()
    assert not record.complete
    assert [r.workload for r in record.results] == ["relu"]


def test_the_record_says_how_it_was_measured() -> None:
    _, made = measure(threads=1, argv=["bench", "-o", "/home/ann/x.json"], seed=7)
    record = made.record()
    assert record.complete
    assert record.settings.threads == 1
    assert record.settings.budget_s == TINY.budget
    assert record.argv == ["bench", "-o", "…/x.json"]
    assert record.seed == 7
    assert record.created.endswith("Z")


def test_threads_reach_backends_that_do_not_choose_their_own() -> None:
    chosen, _ = choose_backends(["numpy", "numpy(threads=2)"], 1)
    assert [b.threads for b in chosen.values()] == [1, 2]
    assert [b.threads for b in choose_backends(["numpy"], None)[0].values()] == [None]


def test_backends_that_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"numpy": None, "reference": None, "broken": "no library at /home/ann/lib.so"}
    monkeypatch.setattr(plugins, "availability", lambda: known)
    chosen, skipped = choose_backends([], None)
    assert list(chosen) == ["numpy"]
    assert skipped == {"broken": "no library at …/lib.so"}


@pytest.mark.parametrize("error", [BackendError("broken"), BackendUnavailableError("no GPU")])
def test_a_named_backend_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(session.nnkernels, "get_backend", fail)
    with pytest.raises(BackendUnavailableError, match=str(error)):
        choose_backends(["cupy"], None)


def test_an_unknown_backend() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'numpy'"):
        choose_backends(["nunpy"], None)
