"""Searching for crossovers with real workers, whose kernels cost what they say."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nnkernels.bench import crossover, machine
from nnkernels.bench.breakeven import BreakEven
from nnkernels.bench.crossover import Search, cpus_for, plan_of, reason
from nnkernels.bench.harness.sweeps import sweep
from nnkernels.bench.session import hired
from nnkernels.bench.statistics import paired_ratio

RELU = replace(sweep("relu[elements]"), high=1 << 18)


class Recorder:
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.found: list = []

    def measure(self, sweep, size, done) -> None:
        assert 0 <= done <= 1
        self.sizes.append(size)

    def finish(self, found) -> None:
        self.found += found


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted kernels, for workers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def planted(kernel: str) -> str:
    return f"numpy[relu=planted_costs:{kernel}]"


def duel(a: str, b: str, found=RELU, budget: float = 1.0, **options) -> Search:
    plan = plan_of(planted(a), planted(b), budget, 1, **options)
    with hired(plan) as crew:
        made = Search(plan, [found], crew, Recorder())
        made.run()
    return made


def test_the_size_is_found_where_the_costs_are_equal() -> None:
    search = duel("quick_start", "slow_start", seed=3)
    (found,) = search.found
    assert (found.verdict, found.scenario, found.reason) == ("found", "resident", None)
    assert found.size == pytest.approx(100_000, rel=0.1)
    low, high = found.interval
    assert low <= 100_000 <= high < 1.2 * low
    assert (found.workload, found.sweep, found.dtype) == ("relu", "elements", "float32")
    assert found.b.endswith("slow_start]")
    assert len(found.points) == len(set(search.listener.sizes))
    for point in found.points:
        assert point.items == point.size
        assert point.a_s == pytest.approx(10e-6 + 4e-9 * point.size)
        assert point.ratio == pytest.approx(point.b_s / point.a_s)
        assert point.ci[0] <= point.ratio <= point.ci[1]
    record = search.record()
    assert (record.kind, record.complete, record.seed) == ("crossover", True, 3)
    assert record.crossovers == search.found
    assert len(record.results) == 2 * len(search.listener.sizes)
    assert {row.status for row in record.results} == {"ok"}
    assert search.listener.found == search.found


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [("best", "slow_start", "never"), ("quick_start", "best", "always")],
)
def test_a_winner_of_all_sizes(a: str, b: str, verdict: str) -> None:
    (found,) = duel(a, b, replace(RELU, high=4096)).found
    assert (found.verdict, found.size, found.interval) == (verdict, None, None)


def test_the_other_way_round_it_is_faster_only_up_to_there() -> None:
    (found,) = duel("slow_start", "quick_start").found
    assert (found.verdict, found.size) == ("unclear", None)
    assert found.reason.endswith("faster only up to 92,682")


def test_what_is_wrong_at_a_size_is_not_measured_there() -> None:
    search = duel("quick_start", "best_until_it_is_wrong", replace(RELU, high=4096))
    (found,) = search.found
    assert max(point.size for point in found.points) <= 1000
    assert "incorrect, relu: result 0[0] is " in found.reason
    assert {row.status for row in search.record().results} == {"ok", "incorrect"}


def test_an_interrupted_search_keeps_what_it_has() -> None:
    class Impatient(Recorder):
        def finish(self, found) -> None:
            raise KeyboardInterrupt

    plan = plan_of(planted("best"), "numpy", 0.1, 1)
    small = replace(RELU, high=100)
    with hired(plan) as crew:
        made = Search(plan, [small, small], crew, Impatient())
        with pytest.raises(KeyboardInterrupt):
            made.run()
    record = made.record()
    assert not record.complete
    assert len(record.crossovers) == 1
    assert record.settings.threads == 1


@pytest.mark.parametrize(
    ("names", "threads", "expected"),
    [
        (("numpy", "numba"), None, None),
        (("numpy", "numba"), 1, [5]),
        (("numba(threads=1)", "numba(threads=2)"), None, [4, 5]),
        (("numba(threads=1)", "numba"), 2, [4, 5]),
        (("numba(threads=1)", "numba(threads=9)"), None, None),
    ],
)
def test_both_run_on_as_many_cpus_as_the_one_with_more_threads(
    monkeypatch, names, threads, expected
) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: [2, 4, 5])
    assert cpus_for(names, threads) == expected


def test_workers_are_held_to_those_cpus() -> None:
    plan = plan_of("numpy", "numpy(threads=1)", 1.0, 1)
    with hired(plan) as crew:
        allowed = [os.sched_getaffinity(candidate.worker.pid) for candidate in crew]
    assert allowed == [set(plan.cpus)] * 2 and len(plan.cpus) == 1


def test_pairs_not_medians_are_compared() -> None:
    """Both slow down together; in every pair the second takes half of the first."""
    a = [1.0, 2.0, 9.0, 3.0, 5.0, 7.0, 1.0, 4.0]
    assert paired_ratio(a, [x / 2 for x in a]) == pytest.approx((0.5, 0.5, 0.5))


def test_what_else_there_is_to_say() -> None:
    assert reason(BreakEven("always"), "b") is None
    assert reason(BreakEven("unclear"), "b") == "at no size could the two be told apart"
    assert reason(BreakEven("unclear", wins_below=2000), "b") == "b is faster only up to 2,000"
    found = BreakEven("found", 90.0, (80, 100), (60, 80), 30)
    assert reason(found, "b") == (
        "b is faster too up to 30; from 60 to 80 the two are equally fast"
    )


def test_more_pairs_are_not_taken_of_what_is_known_well_enough() -> None:
    search = duel("quick_start", "best", replace(RELU, high=100), budget=100.0)
    samples = {len(row.times.call.samples) for row in search.rows}
    assert samples == {crossover.PAIRS[0]}


def test_where_data_must_travel_both_crossovers_are_found(monkeypatch) -> None:
    from nnkernels import plugins
    from nnkernels.bench import harness
    from nnkernels.bench.harness import registry

    for where, name in ((registry, "_added"), (plugins, "_registered"), (plugins, "_loaded")):
        monkeypatch.setattr(where, name, dict(getattr(where, name)))
    harness.add(Path(__file__).with_name("unsynchronised.py"))
    small = replace(RELU, high=100)
    plan = plan_of("numpy", "waiting", 1.0, 1)
    with hired(plan) as crew:
        search = Search(plan, [small], crew, Recorder())
        search.run()
    assert [found.scenario for found in search.found] == ["resident", "transfers"]
    resident, travelling = search.found
    assert {p.size for p in travelling.points} >= {p.size for p in resident.points}
    assert search.rows[0].times.e2e is None  # nothing travels to a CPU
    assert search.rows[1].times.e2e is not None
