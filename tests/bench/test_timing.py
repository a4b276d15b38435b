"""Priming and sampling, on runners whose time is a script."""

import gc

import numpy as np
import pytest

from nnkernels.bench.harness import Track, interleave, prime, timing


class Clock:
    """A clock that runners advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Scripted:
    """Takes ``seconds`` a call, the first calls longer as ``warm`` says."""

    def __init__(self, clock: Clock, seconds: float, warm: list[float] | None = None) -> None:
        self.clock, self.seconds, self.warm = clock, seconds, list(warm or [])
        self.calls = 0
        self.log: list[int] = []

    def run(self, loops: int) -> None:
        for _ in range(loops):
            self.clock.now += self.warm.pop(0) if self.warm else self.seconds
        self.calls += loops
        self.log.append(loops)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock.perf_counter)
    return clock


def test_a_first_call_that_compiles_does_not_choose_the_loops(clock: Clock) -> None:
    runner = Scripted(clock, 1e-4, warm=[0.3])
    track = Track(runner)
    prime(track, first=1.0, limit=2.0)
    assert track.loops == 80
    assert track.compile_s == pytest.approx(0.9999)
    assert track.prime_calls == runner.calls


def test_priming_ends_at_its_limit(clock: Clock) -> None:
    runner = Scripted(clock, 1e-3, warm=[0.1 * 2**i for i in range(20)])
    prime(Track(runner), first=0.05, limit=1.0)
    assert clock.now < 3.0


def test_a_slow_call_is_a_sample(clock: Clock) -> None:
    track = Track(Scripted(clock, 0.5))
    prime(track, first=0.5, limit=1.0)
    assert track.loops == 1
    assert not track.rewarm


def test_caches_are_warmed_before_a_sample_and_outside_of_it(clock: Clock) -> None:
    runner = Scripted(clock, 0.004)
    track = Track(runner)
    prime(track, first=0.004, limit=1.0)
    runner.log, runner.warm = [], [0.05]
    timing.take(track)
    assert runner.log == [1, 2]
    assert track.samples == pytest.approx([0.004])


def test_samples_are_seconds_a_call_in_turns(clock: Clock) -> None:
    fast, slow = Track(Scripted(clock, 0.001), loops=8), Track(Scripted(clock, 0.004), loops=2)
    order = []
    for name, track in (("fast", fast), ("slow", slow)):
        run = track.runner.run
        track.runner.run = lambda n, run=run, name=name: (order.append(name), run(n))
    rng = np.random.default_rng(0)
    interleave([fast, slow], rng, seconds=9, least=3, most=10, enough=lambda: False)
    assert fast.samples == pytest.approx([0.001] * 10)
    assert slow.samples == pytest.approx([0.004] * 10)
    assert all(set(order[i : i + 2]) == {"fast", "slow"} for i in range(0, 20, 2))
    assert len({tuple(order[i : i + 2]) for i in range(0, 20, 2)}) == 2


@pytest.mark.parametrize(
    ("seconds", "enough", "rounds"), [(-1.0, False, 3), (99.0, True, 3), (99.0, False, 7)]
)
def test_sampling_ends(clock: Clock, seconds: float, enough: bool, rounds: int) -> None:
    track = Track(Scripted(clock, 0.001))
    rng = np.random.default_rng(0)
    interleave([track], rng, seconds=seconds, least=3, most=7, enough=lambda: enough)
    assert len(track.samples) == rounds


def test_garbage_is_not_collected_inside_a_sample(clock: Clock) -> None:
    seen = []
    runner = Scripted(clock, 0.001)
    runner.run = lambda loops: seen.append(gc.isenabled())
    timing.take(Track(runner))
    assert seen == [False]
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_an_error(clock: Clock) -> None:
    runner = Scripted(clock, 0.001)
    runner.run = lambda loops: 1 / 0
    with pytest.raises(ZeroDivisionError):
        timing.take(Track(runner))
    assert gc.isenabled()


def test_interrupted_samples_are_counted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    switches = iter([5, 5, 5, 6])
    usage = type("Usage", (), {"ru_nivcsw": property(lambda self: next(switches))})
    monkeypatch.setattr(timing.resource, "getrusage", lambda who: usage())
    track = Track(Scripted(clock, 0.001))
    timing.take(track)
    timing.take(track)
    assert track.contended == 1


def test_threads_are_held_and_given_back() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads()
    with timing.held_to(1):
        assert threads() == {1}
    assert threads() == before
