"""Calibration: what it counts, what it recommends, and where that is kept."""

from types import SimpleNamespace

import numpy as np
import pytest
from msgspec import structs

from nnkernels.bench import machine, results
from nnkernels.bench.gate import calibration
from nnkernels.bench.gate.calibration import Calibration, SelfTest, Trial, recorded_of
from nnkernels.bench.gate.pairs import Effort
from nnkernels.bench.gate.session import Plan
from nnkernels.bench.gate.sides import own
from nnkernels.errors import ResultError

NAMES = ("relu", "adam")
PLAN = Plan((own(), own()), "default", Effort(4, 3, 0.001, 0.1), backends=["numpy"])


class Silent:
    def __init__(self) -> None:
        self.shares: list[float] = []

    def proceed(self, stage, done, total) -> None:
        self.shares.append(done / total)


def comparison(workload: str, verdict: str | None, restarts: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    a = np.full(3 * restarts, 1e-4)
    b = a * np.exp(0.002 * rng.standard_normal(len(a)))
    return results.Comparison(
        workload=workload,
        size="1",
        dtype="float32",
        backend="numpy",
        a="this",
        b="this",
        status="ok" if verdict else "failed",
        reason=None,
        **dict.fromkeys(("a_s", "b_s", "ratio", "ci_low", "ci_high", "p", "p_holm")),
        **dict.fromkeys(("min_detectable", "more_restarts")),
        restarts=[],
        pairs=len(a),
        contended=0,
        stage="screen",
        margin=0.03,
        verdict=verdict,
        a_samples=list(a),
        b_samples=list(b),
        process=[n for n in range(restarts) for _ in range(3)],
    )


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Gates that call an injected slowdown of 10 % slower, and one relu in four faster."""
    made = SimpleNamespace(plans=[], words=None)

    class FakeGate:
        def __init__(self, plan, listener) -> None:
            made.plans.append(plan)
            self.plan, self.listener = plan, listener

        def run(self) -> None:
            self.listener.proceed("screen", 5, 5)

        def record(self):
            return run(self.plan, len(made.plans))

    def run(plan, number):
        slowed = plan.inject(SimpleNamespace(case=SimpleNamespace(workload="relu"))) >= 0.1
        words = made.words or {"relu": "slower" if slowed else "same", "adam": "unsure"}
        found = [comparison(name, words[name], seed=number) for name in NAMES]
        empty = Calibration(plan, [], Silent()).record()
        return structs.replace(empty, kind="ab", complete=True, comparisons=found)

    monkeypatch.setattr(calibration, "Gate", FakeGate)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return made


def test_trials_go_on_until_there_are_enough_comparisons(gate) -> None:
    listener = Silent()
    made = Calibration(PLAN, [Trial(0.0, 5), Trial(0.1, 4)], listener)
    made.run()
    assert [plan.alone for plan in gate.plans] == [False] * 3 + [True] * 2
    assert len({plan.seed for plan in gate.plans}) == 5
    run = made.record()
    assert run.complete
    relu, adam = run.calibration
    live = {p.inject: p for p in relu.power if p.method == "live"}
    assert (live[0.0].comparisons, live[0.0].slower, live[0.0].faster) == (3, 0, 0)
    assert (live[0.1].comparisons, live[0.1].slower) == (2, 2)
    assert {p.unsure for p in adam.power if p.method == "live"} == {3, 2}
    resampled = [p for p in relu.power if p.method == "resampled"]
    assert [p.inject for p in resampled] == [0.0, 0.1]
    assert resampled[1].slower == resampled[1].comparisons
    assert relu.restarts == 6
    assert all(0 <= share <= 1 for share in listener.shares)
    assert len(run.comparisons) == 10


def test_what_is_kept_is_found_again(gate) -> None:
    assert calibration.recommended(1) == {}
    made = Calibration(PLAN, [Trial(0.0, 2)], Silent())
    made.run()
    path = calibration.store(made.record())
    assert machine.fingerprint(machine.identity())[:16] in path.name
    assert calibration.recommended(1) == {("relu", "numpy"): 6, ("adam", "numpy"): 6}
    assert calibration.recommended(2) == {}
    assert results.read(path).comparisons == []
    path.write_text("{")
    with pytest.raises(ResultError):
        calibration.recommended(1)


def test_nothing_compared_ends_it(gate) -> None:
    gate.words = dict.fromkeys(NAMES)
    with pytest.raises(ResultError, match="nothing could be compared"):
        Calibration(PLAN, [Trial(0.0, 5)], Silent()).run()


def test_too_few_restarts_are_not_resampled() -> None:
    assert recorded_of([comparison("relu", "same", restarts=2)]) is None
    assert recorded_of([comparison("relu", "same", restarts=2)] * 2).logs.shape == (4, 3)


@pytest.mark.parametrize(
    ("slowed", "equal", "troubles"),
    [
        ({"sigmoid": "slower", "relu": "same"}, {"sigmoid": "same", "relu": "unsure"}, 0),
        ({"sigmoid": "unsure", "relu": "same"}, {"sigmoid": "same", "relu": "same"}, 1),
        ({"sigmoid": "slower", "relu": "faster"}, {"sigmoid": "same", "relu": "same"}, 1),
        ({"sigmoid": "slower", "relu": "same"}, {"sigmoid": "slower", "relu": "same"}, 1),
        ({"sigmoid": "slower", "relu": None}, {"sigmoid": "same", "relu": "same"}, 1),
        ({"relu": "same"}, {"relu": "same"}, 1),
    ],
)
def test_the_self_test_wants_exactly_the_injected_one(slowed, equal, troubles) -> None:
    runs = [
        structs.replace(
            Calibration(PLAN, [], Silent()).record(),
            comparisons=[comparison(name, word) for name, word in words.items()],
        )
        for words in (slowed, equal)
    ]
    assert len(SelfTest(*runs).troubles()) == troubles
