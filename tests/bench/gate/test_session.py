"""The procedure, with workers that only pretend: what is compared, and what is said of it."""

import math
from collections.abc import Mapping
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from nnkernels.bench import harness, machine, results
from nnkernels.bench.gate import session
from nnkernels.bench.gate.pairs import Effort, Restart, RowError
from nnkernels.bench.gate.session import Gate, Plan, outcome
from nnkernels.bench.gate.sides import Side
from nnkernels.bench.workers import (
    CandidateError,
    Listed,
    Primed,
    WorkerHungError,
    WorkerLostError,
    Workloads,
)
from nnkernels.errors import BackendUnavailableError, InputError, UnknownNameError

EFFORT = Effort(restarts=4, rounds=2, sample=0.001, prime=0.01)
CASES = [case for case in harness.cases("quick") if harness.GATE in case.tags]
NAMES = [case.workload for case in CASES]
LISTED = [Listed(c.workload, c.size, c.dtype, c.tags) for c in CASES]


def side(label: str) -> Side:
    code = machine.code()
    return Side(label, "tree", "python", [], harness.__path__[0], code)


class World:
    """What all pairs of one run pretend; tests change it."""

    def __init__(self) -> None:
        self.a, self.b = list(LISTED), list(LISTED)
        self.declared: list[str] | None = None
        self.slowdown: dict[str, float] = {}
        self.noise = 0.002
        self.refused: dict[tuple[str, str, str], CandidateError] = {}
        self.wrong: dict[tuple[str, str], int] = {}
        self.failing: dict[str, tuple[int, CandidateError]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.pairs = 0
        self.rows: list[list[str]] = []
        self.rng = np.random.default_rng(1)
        self.interrupt_in: int | None = None


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    class FakePair:
        identities: Mapping[str, Mapping[str, str | None]] = {
            which: {"file": "x", "version": "1", "python": "3", "numpy": "2"} for which in "ab"
        }

        def __init__(self, setting) -> None:
            self.setting = setting
            made.pairs += 1

        def __enter__(self):
            return self

        def __exit__(self, *exc) -> None:
            pass

        def workloads(self):
            return {"a": Workloads(made.a, made.declared), "b": Workloads(made.b, None)}

        def _step(self, step, row):
            return {w: made.refused.get((step, w, row.case.workload)) for w in "ab"}

        def greet(self, row):
            return self._step("greet", row)

        def load(self, row):
            return self._step("load", row)

        def ready(self, rows) -> None:
            made.rows.append([row.case.workload for row in rows])

        def check(self, row, which, problem):
            key = (which, row.case.workload)
            if key in made.wrong:
                made.wrong[key] -= 1
                if made.wrong[key] < 0:
                    return "result 0[0, 7] is off"
            return None

        def prime(self, row, which, limit):
            return Primed(80 if which == "a" else 40, 3, 0.0)

        def measure(self, loops, rng, progress):
            if made.interrupt_in == made.pairs:
                raise KeyboardInterrupt
            for row in loops:
                when, error = made.failing.get(row.case.workload, (0, None))
                if when == made.pairs and error is not None:
                    raise RowError(row, "b", error)
            for _ in range(self.setting.effort.rounds):
                progress()
            return {row: self._restart(row) for row in loops}

        def _restart(self, row):
            slowdown = made.slowdown.get(row.case.workload, 0.0)
            slowdown += self.setting.inject.get(row, 0.0)
            d = math.log1p(slowdown) + made.noise * made.rng.standard_normal()
            times = made.seconds.get(row.case.workload, [1e-4, 1e-4])
            return Restart(times, [t * math.exp(d) for t in times], 1)

    monkeypatch.setattr(session, "Pair", FakePair)
    return made


class Recorder(list):
    def proceed(self, stage, done, total) -> None:
        self.append((stage, done, total))


def compare(**changes) -> tuple[results.Run, Recorder]:
    recorder = Recorder()
    fields = {"backends": ["numpy"], **changes}
    gate = Gate(Plan((side("old"), side("new")), "quick", EFFORT, **fields), recorder)
    gate.run()
    record = gate.record()
    assert msgspec.json.decode(results.encode(record), type=results.Run) == record
    return record, recorder


def words(run: results.Run) -> dict[str, str | None]:
    return {c.workload: c.verdict or c.status for c in run.comparisons}


def test_equal_sides_pass(world: World) -> None:
    run, recorder = compare()
    assert set(words(run).values()) == {"same"}
    assert list(words(run)) == NAMES
    assert outcome(run) == "passed"
    assert world.pairs == 2 + 4
    assert run.complete
    assert [s.label for s in run.sides] == ["old", "new"]
    stages = [stage for stage, _, _ in recorder]
    assert stages[0] == "start"
    assert stages[-1] == "screen 4/4"
    assert all(0 <= done <= total for _, done, total in recorder)


def test_a_slower_and_a_faster_workload_are_named_exactly(world: World) -> None:
    world.slowdown = {"relu": 0.1, "adam": -0.1}
    run, _ = compare()
    assert words(run) == {**dict.fromkeys(NAMES, "same"), "relu": "slower", "adam": "faster"}
    assert outcome(run) == "slower"
    found = {c.workload: c for c in run.comparisons}["relu"]
    assert found.stage == "confirm"
    assert len(found.restarts) == len(found.screened) == 4
    assert found.process == [n for n in range(8) for _ in range(2)]
    assert found.p <= found.p_holm <= 2 * found.p  # of two candidates
    assert found.ci_low > 1.03
    assert sorted(world.rows[-1]) == ["adam", "relu"]
    assert session.LAYOUT in run.warnings


def test_only_fresh_restarts_confirm(world: World) -> None:
    world.slowdown = {"relu": 0.1}

    class Fleeting(Recorder):
        def proceed(self, stage, done, total) -> None:
            if stage.startswith("screen 4"):
                world.slowdown = {}

    gate = Gate(Plan((side("a"), side("b")), "quick", EFFORT, backends=["numpy"]), Fleeting())
    gate.run()
    assert words(gate.record())["relu"] == "unsure"


def test_noise_is_unsure_and_strictness_is_the_callers(world: World) -> None:
    world.noise = 0.2
    run, _ = compare()
    assert "unsure" in words(run).values()
    assert outcome(run) == "unsure"
    assert all(c.more_restarts is None or c.more_restarts > 0 for c in run.comparisons)


@pytest.mark.parametrize(
    ("a", "b", "status", "result"),
    [(True, False, "gone", "incomplete"), (False, True, "new", "passed")],
)
def test_a_workload_of_one_side(world: World, a, b, status, result) -> None:
    others = [each for each in LISTED if each.workload != "relu"]
    world.a = LISTED if a else others
    world.b = LISTED if b else others
    run, _ = compare()
    assert words(run)["relu"] == status
    assert outcome(run) == result


def test_what_only_the_old_sides_own_gate_lists_is_gone(world: World) -> None:
    world.declared = [*NAMES, "swish9"]
    run, _ = compare()
    assert words(run)["swish9"] == "gone"
    assert outcome(run) == "incomplete"
    run, _ = compare(expression="relu")
    assert "swish9" not in words(run)


@pytest.mark.parametrize(
    ("step", "sides", "error", "status"),
    [
        ("greet", "a", CandidateError("no numba", "UnknownNameError"), "new"),
        ("greet", "b", CandidateError("no numba", "UnknownNameError"), "gone"),
        ("load", "a", CandidateError("no such", "AttributeError"), "new"),
        ("load", "b", CandidateError("no such", "AttributeError"), "failed"),
        ("load", "ab", CandidateError("no such", "AttributeError"), "failed"),
        ("load", "a", WorkerLostError("its process ended with exit code 7"), "failed"),
        ("load", "b", WorkerHungError("no answer within 5 s"), "failed"),
    ],
)
def test_what_a_side_refuses(world: World, step, sides, error, status) -> None:
    world.refused = {(step, which, "relu"): error for which in sides}
    run, _ = compare()
    assert words(run) == {**dict.fromkeys(NAMES, "same"), "relu": status}
    (reason,) = (c.reason for c in run.comparisons if c.workload == "relu")
    assert str(error) in reason
    assert outcome(run) == ("passed" if status == "new" else "incomplete")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("UnknownNameError", UnknownNameError), ("BackendUnavailableError", BackendUnavailableError)],
)
def test_a_backend_of_neither_side_is_an_error(world: World, kind, expected) -> None:
    world.refused = {("greet", which, "relu"): CandidateError("no", kind) for which in "ab"}
    with pytest.raises(expected):
        compare()


@pytest.mark.parametrize(("which", "checks"), [("a", 0), ("b", 0), ("b", 1)])
def test_wrong_results_are_not_compared(world: World, which, checks) -> None:
    world.wrong = {(which, "relu"): checks}
    run, _ = compare()
    assert words(run)["relu"] == "incorrect"
    assert outcome(run) == "incomplete"
    (reason,) = (c.reason for c in run.comparisons if c.workload == "relu")
    assert reason.startswith("A" if which == "a" else "B")


@pytest.mark.parametrize("pair", [3, 5])
def test_a_crash_ends_one_row_and_its_restart_is_repeated(world: World, pair: int) -> None:
    world.failing = {"relu": (pair, WorkerLostError("its process was killed by SIGSEGV"))}
    run, recorder = compare()
    assert words(run) == {**dict.fromkeys(NAMES, "same"), "relu": "failed"}
    assert outcome(run) == "incomplete"
    assert world.pairs == 2 + 4 + 1
    assert {len(c.restarts) for c in run.comparisons if c.workload != "relu"} == {4}
    assert max(done for _, done, _ in recorder) == 2 * 5


def test_a_slowdown_beside_a_crash_is_incomplete(world: World) -> None:
    world.slowdown = {"adam": 0.2}
    world.failing = {"relu": (3, WorkerLostError("gone"))}
    run, _ = compare()
    assert words(run)["adam"] == "slower"
    assert outcome(run) == "incomplete"


def test_nothing_compared_is_no_pass(world: World) -> None:
    world.a = []
    run, _ = compare()
    assert set(words(run).values()) == {"new"}
    assert outcome(run) == "incomplete"


def test_an_interrupted_run_has_no_verdicts(world: World) -> None:
    world.interrupt_in = 5
    gate = Gate(Plan((side("a"), side("b")), "quick", EFFORT, backends=["numpy"]), Recorder())
    with pytest.raises(KeyboardInterrupt):
        gate.run()
    run = gate.record()
    assert not run.complete
    assert {c.verdict for c in run.comparisons} == {None}
    assert {c.reason for c in run.comparisons} == {"interrupted"}
    assert {len(c.restarts) for c in run.comparisons} == {2}
    assert outcome(run) == "incomplete"


def test_rows_have_their_own_number_of_restarts(world: World) -> None:
    run, _ = compare(restarts={("relu", "numpy"): 6, ("adam", "numpy"): 5})
    counts = {c.workload: len(c.restarts) for c in run.comparisons}
    assert counts == {**dict.fromkeys(NAMES, 4), "relu": 6, "adam": 5}
    assert world.rows[-1] == ["relu"]


def test_injection_goes_to_single_rows(world: World) -> None:
    run, _ = compare(inject=lambda row: 0.15 * (row.case.workload == "relu"))
    assert words(run) == {**dict.fromkeys(NAMES, "same"), "relu": "slower"}


def test_alone_there_is_no_correction(world: World) -> None:
    world.slowdown = dict.fromkeys(NAMES, 0.2)
    run, _ = compare(alone=True)
    assert all(c.p == c.p_holm for c in run.comparisons)
    assert set(words(run).values()) == {"slower"}


def test_two_backends_of_one_version(world: World) -> None:
    sides = [Side(n, "backend", "python", [], ".", machine.code(), n) for n in ("numpy", "numba")]
    plan = Plan(tuple(sides), "quick", EFFORT)
    assert plan.pairs_of_backends == [("numpy", "numba")]
    gate = Gate(plan, Recorder())
    gate.run()
    assert {(c.a, c.b, c.backend) for c in gate.record().comparisons} == {
        ("numpy", "numba", "numba")
    }


def test_a_side_that_cannot_be_driven(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self):
        raise WorkerLostError("its process ended with exit code 1")

    monkeypatch.setattr(session.Pair, "workloads", lost)
    with pytest.raises(InputError, match="cannot drive old or new: its process ended"):
        compare()


def test_loops_are_shared_and_come_from_the_faster_side(world: World) -> None:
    gate = Gate(Plan((side("a"), side("b")), "quick", EFFORT, backends=["numpy"]), Recorder())
    gate.run()
    assert {s.loops for s in gate.subjects} == {10}  # 80 loops of 8 ms, for 1 ms


def test_a_busy_machine_is_told(world: World) -> None:
    run, _ = compare()
    assert any("interrupted" in w and "pairs" in w for w in run.warnings)


def test_nothing_that_matches(world: World) -> None:
    with pytest.raises(InputError, match="matches no workload"):
        compare(expression="nonsense9")


def test_the_gates_set_is_large_enough() -> None:
    declared = {"matmul", "linear_backward", "relu", "relu_backward", "sigmoid"}
    declared |= {"sigmoid_backward", "softmax_cross_entropy", "adam", "dropout", "batch_norm"}
    assert declared | {"W1", "W2", "W4"} <= set(NAMES)
    assert len(NAMES) >= 14


def test_outcomes_need_no_gate() -> None:
    assert outcome(SimpleNamespace(complete=True, comparisons=[])) == "incomplete"
