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
    seconds, _ = timing.take(track, track.loops)
    assert runner.log == [1, 2]
    assert seconds == pytest.approx(0.004)


def test_samples_are_seconds_a_call(clock: Clock) -> None:
    seconds, _ = timing.take(Track(Scripted(clock, 0.001)), 8)
    assert seconds == pytest.approx(0.001)


def test_candidates_take_turns_in_random_order() -> None:
    order: list[str] = []
    takers = [lambda: order.append("a"), lambda: order.append("b")]
    rng = np.random.default_rng(0)
    interleave(takers, rng, seconds=9, least=3, most=10, enough=lambda: False)
    rounds = [tuple(order[i : i + 2]) for i in range(0, 20, 2)]
    assert len(order) == 20
    assert set(rounds) == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize(
    ("seconds", "enough", "rounds"), [(-1.0, False, 3), (99.0, True, 3), (99.0, False, 7)]
)
def test_sampling_ends(seconds: float, enough: bool, rounds: int) -> None:
    taken: list[int] = []
    rng = np.random.default_rng(0)
    takers = [lambda: taken.append(1)]
    interleave(takers, rng, seconds=seconds, least=3, most=7, enough=lambda: enough)
    assert len(taken) == rounds


def test_garbage_is_not_collected_inside_a_sample(clock: Clock) -> None:
    seen = []
    runner = Scripted(clock, 0.001)
    runner.run = lambda loops: seen.append(gc.isenabled())
    timing.take(Track(runner), 1)
    assert seen == [False]
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_an_error(clock: Clock) -> None:
    runner = Scripted(clock, 0.001)
    runner.run = lambda loops: 1 / 0
    with pytest.raises(ZeroDivisionError):
        timing.take(Track(runner), 1)
    assert gc.isenabled()


def test_interrupted_samples_are_counted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    switches = iter([5, 5, 5, 6])
    usage = type("Usage", (), {"ru_nivcsw": property(lambda self: next(switches))})
    monkeypatch.setattr(timing.resource, "getrusage", lambda who: usage())
    track = Track(Scripted(clock, 0.001))
    assert [timing.take(track, 1)[1] for _ in range(2)] == [False, True]


def test_threads_are_held_and_given_back() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads()
    with timing.held_to(1):
        assert threads() == {1}
    assert threads() == before


@pytest.mark.parametrize(("threads", "waits"), [(None, 3), (2, 3), (1, 0)])
def test_the_next_in_turn_finds_no_thread_at_work(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, threads: int | None, waits: int
) -> None:
    used = iter([0.0, 0.005, 0.005, 0.009, 0.009, 0.009])
    slept: list[float] = []
    monkeypatch.setattr(timing.time, "process_time", lambda: next(used))
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    timing.settle(threads)
    assert slept == [timing.RESTING] * waits


def test_threads_that_never_rest_are_not_waited_for_long(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(timing.time, "process_time", clock.perf_counter)
    monkeypatch.setattr(timing.time, "sleep", sleep)
    timing.settle(None)
    assert clock.now < 2 * timing.SETTLE_SECONDS
