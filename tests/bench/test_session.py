"""A run: what is timed, what is not, and what is said about it."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nnkernels import plugins
from nnkernels.bench import harness, results, rows, session
from nnkernels.bench.session import Effort, Plan, Session, choose_backends, hired
from nnkernels.errors import BackendUnavailableError, InputError, UnknownNameError

TINY = Effort(0.05, 2, 3, 0.01)
RELU = next(case for case in harness.cases("quick") if case.workload == "relu")
TANH = next(case for case in harness.cases("quick") if case.workload == "tanh")


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def begin(self, case, number, total) -> None:
        self.events.append(("begin", f"{case.id} {number}/{total}"))

    def finish(self, case, found) -> None:
        self.events.append(("finish", case.id))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted kernels, for workers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def planted(kernel: str) -> str:
    return f"numpy[relu=planted_kernels:{kernel}]"


def measure(*kernels, cases=(RELU,), effort=TINY, **plan):
    """Rows of the first case by the kernel's name, and the session."""
    names = ["numpy", *map(planted, kernels)]
    made_plan = Plan(cases, "quick", names, {}, effort, **plan)
    with hired(made_plan) as crew:
        made = Session(made_plan, crew, Recorder())
        made.run()
    first = [r for r in made.found if r.workload == cases[0].workload]
    return {r.backend.rpartition(":")[2].rstrip("]"): r for r in first}, made


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


def test_a_wrong_kernel_is_never_timed() -> None:
    rows, _ = measure("wrong")
    assert rows["wrong"].status == "incorrect"  # it would have "failed" in a second call
    assert "result 0[0, 7]" in rows["wrong"].reason
    assert rows["wrong"].times.call is None
    assert rows["wrong"].rates.byte_s is None
    assert rows["numpy"].status == "ok"


def test_a_kernel_that_goes_wrong_later_is_found_out() -> None:
    rows, _ = measure("tiring")
    assert rows["tiring"].status == "incorrect"
    assert rows["tiring"].times.call is None


@pytest.mark.parametrize(
    ("workload", "kernel", "reason"),
    [("relu", "unwritten", "result 0[31, 63] is nan"), ("matmul", "half", "result 0[0, 0] is ")],
)
def test_unwritten_and_inexact_results_are_never_timed(workload, kernel, reason) -> None:
    case = next(c for c in harness.cases("quick") if c.workload == workload)
    plan = Plan((case,), "quick", [f"numpy[{workload}=planted_kernels:{kernel}]"], {}, TINY)
    with hired(plan) as crew:
        made = Session(plan, crew, Recorder())
        made.run()
    (row,) = made.found
    assert row.status == "incorrect"
    assert reason in row.reason
    assert row.times.call is None


def test_compiling_costs_no_samples_and_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = []

    def three_rounds(takers, rng, *, seconds, **rest) -> None:
        deadlines.append(time.perf_counter() + seconds)
        for _ in range(3):
            for take in takers:
                take()

    class Clock(Recorder):
        def begin(self, case, number, total) -> None:
            self.began = time.perf_counter()

    monkeypatch.setattr(session, "interleave", three_rounds)
    clock, budget = Clock(), 20.0
    plan = Plan((RELU,), "quick", [planted("compiling")], {}, Effort(budget, 2, 3, 0.01))
    with hired(plan) as crew:
        made = Session(plan, crew, clock)
        made.run()
    (row,) = made.found
    assert row.compile_s >= 0.9
    assert max(row.times.call.samples) < 0.5
    given = deadlines[-1] - clock.began  # as much time for samples as without the compiling
    assert given == pytest.approx(budget + row.compile_s, abs=0.3)


@pytest.mark.parametrize(
    ("kernel", "threads", "status"),
    [("crowding", 1, "ok"), ("scaling", 2, "ok"), ("wrong_with_two", 2, "incorrect")],
)
def test_the_fastest_number_of_threads_is_found_for_each(
    monkeypatch: pytest.MonkeyPatch, kernel: str, threads: int, status: str
) -> None:
    monkeypatch.setattr(session, "some_counts", lambda cores: [1, 2])
    found, made = measure(kernel, cases=(RELU, TANH))
    assert found[kernel].status == status
    if status == "ok":
        assert found[kernel].threads == threads
        assert len(found[kernel].times.call.samples) <= TINY.most
    assert {r.threads for r in made.found if r.workload == "tanh"} <= {1, 2}
    assert made.record().settings.threads is None


def test_a_number_of_threads_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "some_counts", lambda cores: [1, 2])
    rows, _ = measure("crowding", threads=2)
    assert {row.threads for row in rows.values()} == {2}
    name = "numpy(threads=2)[relu=planted_kernels:crowding]"
    plan = Plan((RELU,), "quick", [name], {}, TINY)
    with hired(plan) as crew:
        made = Session(plan, crew, Recorder())
        made.run()
    assert [r.threads for r in made.found] == [2]


def test_some_numbers_of_threads() -> None:
    assert session.some_counts(1) == [1]
    assert session.some_counts(2) == [1, 2]
    assert session.some_counts(4) == [1, 2, 4]
    assert session.some_counts(64) == [1, 16, 32, 64]


def ceiling(value: float) -> results.Ceiling:
    return results.Ceiling("cpu", None, None, "copy_bw", value, "B/s", "", "memory", 1 << 10)


@pytest.mark.parametrize(
    ("seen", "after", "status"), [(1e15, 1e15, "ok"), (1.0, 1.0, "failed"), (1.0, 1e15, "ok")]
)
def test_rates_are_judged_and_ceilings_measured_again_first(seen, after, status) -> None:
    asked = []

    def again() -> list[results.Ceiling]:
        asked.append(1)
        return [ceiling(after)]

    plan = Plan((RELU,), "quick", ["numpy"], {}, TINY)
    with hired(plan) as crew:
        made = Session(plan, crew, Recorder(), ceilings=[ceiling(seen)], again=again)
        made.run()
    record = made.record()
    (row,) = record.results
    assert row.status == status
    assert record.ceilings == [ceiling(max(seen, after))]
    assert len(asked) == (seen == 1.0)
    assert bool(rows.cases(record)) == (status == "ok")
    if status == "ok":
        assert (row.rates.bound, row.rates.pct_peak > 0) == ("memory", True)
    else:
        assert row.correctness.ok
        assert row.reason.startswith("impossible rate: ")


def test_a_kernel_that_raises_fails_alone_and_names_no_folder() -> None:
    rows, _ = measure("broken")
    assert (rows["broken"].status, rows["broken"].reason) == (
        "failed",
        "RuntimeError: lost …/kernel.so",
    )
    assert rows["broken"].correctness is None
    assert rows["numpy"].status == "ok"


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        ("crashing", "its process ended with exit code 7"),
        ("crashing_later", "its process ended with exit code 7"),
        ("garbling", "its process answered garbage"),
    ],
)
def test_a_lost_worker_fails_one_row_and_is_replaced(kernel: str, reason: str) -> None:
    effort = Effort(5.0, 40, 40, 0.01)
    rows, made = measure(kernel, cases=(RELU, TANH), effort=effort)
    assert rows[kernel].status == "failed"
    assert rows[kernel].reason.startswith(reason)
    assert rows[kernel].times.call is None
    assert rows["numpy"].status == "ok"
    assert [r.status for r in made.found if r.workload == "tanh"] == ["ok", "ok"]


def test_a_worker_that_hangs_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PATIENCE", 5.0)
    rows, made = measure("hanging", cases=(RELU, TANH))
    assert (rows["hanging"].status, rows["hanging"].reason) == ("failed", "no answer within 5 s")
    assert [(r.status, r.reason) for r in made.found if r.workload == "tanh"] == [
        ("ok", None),
        ("failed", "not tried, because it had hung before: no answer within 5 s"),
    ]


def test_a_worker_that_is_killed_in_between_is_replaced() -> None:
    class Killer(Recorder):
        def finish(self, case, found) -> None:
            if len(made.found) == 1:
                os.kill(crew[0].worker.pid, signal.SIGKILL)

    plan = Plan((RELU, TANH, RELU), "quick", ["numpy"], {}, TINY)
    with hired(plan) as crew:
        made = Session(plan, crew, Killer())
        made.run()
    assert [r.status for r in made.found] == ["ok", "failed", "ok"]
    assert made.found[1].reason == "its process was killed by SIGKILL"


def test_arrays_that_do_not_fit_are_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Worker, "ask_arrays", lambda *args, **slot: [])
    rows, _ = measure()
    assert rows["numpy"].status == "failed"
    assert rows["numpy"].reason.startswith("its process answered garbage: zip()")


def test_a_worker_that_runs_something_else_is_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "identify", lambda: {**harness.identify(), "numpy": "1.0"})
    rows, _ = measure()
    assert rows["numpy"].status == "failed"
    assert "runs another nnkernels" in rows["numpy"].reason


def test_a_backend_that_crashes_when_it_is_loaded(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "crashing_import.py").write_text("import os\nos._exit(5)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = Plan((RELU,), "quick", ["numpy", "numpy[relu=crashing_import:f]"], {}, TINY)
    with hired(plan) as crew:
        made = Session(plan, crew, Recorder())
        made.run()
    assert [(r.status, r.reason) for r in made.found] == [
        ("ok", None),
        ("failed", "its process ended with exit code 5"),
    ]


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

    plan = Plan((RELU, replace(RELU, make=interrupt)), "quick", ["numpy"], {}, TINY)
    with hired(plan) as crew:
        made = Session(plan, crew, Recorder())
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


def test_backends_that_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"numpy": None, "reference": None, "broken": "no library at /home/ann/lib.so"}
    monkeypatch.setattr(plugins, "availability", lambda: known)
    assert choose_backends([]) == (["numpy"], {"broken": "no library at …/lib.so"})


def test_a_backend_that_is_named_twice_is_one_candidate() -> None:
    assert choose_backends(["numpy", "reference", "numpy"]) == (["numpy", "reference"], {})


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nunpy", UnknownNameError, "Did you mean 'numpy'"),
        ("numpy[relu=nowhere:x]", InputError, "cannot be imported"),
        ("numpy[", InputError, "cannot be read"),
        ("absent", BackendUnavailableError, "no GPU"),
        ("broken", BackendUnavailableError, "failed to load"),
    ],
)
def test_names_that_cannot_be_used(tmp_path: Path, monkeypatch, name, error, message) -> None:
    plant_backends(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        pytest.raises(error, match=message),
        hired(Plan((RELU,), "quick", ["numpy", name], {}, TINY)),
    ):
        raise AssertionError("nothing is measured")


def plant_backends(folder: Path) -> None:
    """A distribution with a backend that cannot work here, and one that raises."""
    (folder / "planted_backends.py").write_text(
        "from nnkernels.errors import BackendUnavailableError\n"
        "def absent():\n    raise BackendUnavailableError('no GPU')\n"
        "def broken():\n    raise OSError('no library')\n"
    )
    info = folder / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[nnkernels.backends]\nabsent = planted_backends:absent\nbroken = planted_backends:broken\n"
    )
