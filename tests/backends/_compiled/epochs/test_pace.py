"""How many steps run at once, by how many threads: chosen by a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkernels.backends._compiled.epochs.pace import CHUNK_S, LONG_STEP_S, PROBE_S, Pace


class Machine:
    """Runs chunks in no time, but tells how long a step takes with so many threads."""

    def __init__(self, threads, **step_s):
        self.pace = Pace(threads)
        self.step_s = {int(name[1:]): seconds for name, seconds in step_s.items()}
        self.now, self.spent, self.chunks = 0.0, dict.fromkeys(self.step_s, 0.0), []

    def work(self, seconds):
        end = self.now + seconds
        while self.now < end:
            threads, steps = self.pace.next()
            took = steps * self.step_s[threads]
            self.pace.took(threads, steps, took)
            self.chunks.append((threads, steps, took))
            self.now += took
            self.spent[threads] += took

    def share(self, threads, seconds):
        """The part of the next ``seconds`` that is run by so many threads."""
        self.spent = dict.fromkeys(self.step_s, 0.0)
        self.work(seconds)
        return self.spent[threads] / sum(self.spent.values())


def test_the_first_chunk_is_one_step():
    assert Pace(1).next() == (1, 1)
    assert Pace(4).next() == (4, 1)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_faster_number_of_threads_goes_on(threads):
    fast = Machine(threads, **{"t1": 2e-4, f"t{threads}": 1e-4})
    fast.work(1)
    assert fast.share(threads, 20) > 0.95
    slow = Machine(threads, **{"t1": 1e-4, f"t{threads}": 1e-2})
    slow.work(1)
    assert slow.share(1, 20) > 0.9


def test_it_changes_with_the_load_and_back():
    machine = Machine(2, t1=2e-4, t2=1e-4)
    machine.work(3)
    machine.step_s[2] = 3e-3  # another process takes a processor away
    machine.work(5)
    assert machine.share(1, 10) > 0.9
    machine.step_s[2] = 1e-4
    machine.work(5)
    assert machine.share(2, 10) > 0.9


def test_tries_that_change_nothing_become_rare():
    machine = Machine(2, t1=2e-4, t2=1e-4)
    machine.work(30)
    before = len(machine.chunks)
    machine.work(30)
    tries = {1: 0, 2: 0}
    previous = 2
    for threads, _, _ in machine.chunks[before:]:
        tries[threads] += threads != previous
        previous = threads
    assert 1 <= tries[1] <= 30


def test_long_steps_are_rarely_tried_with_the_other_number():
    machine = Machine(2, t1=3 * LONG_STEP_S, t2=2 * LONG_STEP_S)
    machine.work(1)
    assert machine.share(2, 20) > 0.9


def test_a_slow_first_step_decides_nothing():
    """Cold caches and fresh memory: the first step of a large network takes twice its time."""
    machine = Machine(2, t1=0.3, t2=0.6)
    machine.work(0.1)
    machine.step_s[2] = 0.15
    assert machine.share(2, 20) > 0.9


def test_one_thread_has_nothing_to_choose():
    machine = Machine(1, t1=1e-5)
    machine.work(5)
    assert {threads for threads, *_ in machine.chunks} == {1}


STEP_S = st.floats(1e-7, 1.0)


@settings(max_examples=100, deadline=None)
@given(one=STEP_S, many=STEP_S, threads=st.integers(1, 8))
def test_chunks_are_short_whatever_steps_take(one, many, threads):
    """None lasts longer than its target, or than one step."""
    times = {"t1": one, f"t{threads}": many}
    machine = Machine(threads, **times)
    while len(machine.chunks) < 60:
        machine.work(1e-9)
    for used, steps, took in machine.chunks:
        assert steps >= 1
        assert steps == 1 or took <= max(CHUNK_S, PROBE_S * many / one, PROBE_S * one / many) * 1.01
        assert used in (1, threads)
    assert machine.chunks[0][1] == 1


@pytest.mark.parametrize("seconds", [0.0, 1e-12])
def test_a_clock_that_stands_still(seconds):
    pace = Pace(2)
    for _ in range(20):
        threads, steps = pace.next()
        assert steps >= 1
        pace.took(threads, steps, seconds)
