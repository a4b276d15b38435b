"""Chunks of steps grow towards a tenth of a second."""

from __future__ import annotations

import pytest

from nnkernels.backends.cupy.steps.pace import CHUNK_S, Pace


def test_chunks_grow_carefully_up_to_the_time_they_should_take():
    pace, sizes = Pace(), []
    for _ in range(8):
        sizes.append(pace.next(10**9))
        pace.took(sizes[-1], 1e-5 * sizes[-1])
    assert sizes[:5] == [1, 8, 64, 512, 4096]
    assert sizes[-1] == pytest.approx(CHUNK_S / 1e-5, abs=1)


def test_a_short_run_does_not_make_the_next_one_cautious():
    pace = Pace()
    for steps in (1, 8, 64):
        pace.took(steps, 1e-5 * steps)
    pace.took(1, 1e-5)
    assert pace.next(10**9) > 64


def test_slow_steps_are_queued_one_by_one():
    pace = Pace()
    pace.took(1, 1e-5)
    pace.took(8, 8.0)
    assert pace.next(100) == 1


def test_a_clock_that_stood_still_is_no_reason_to_stop_growing():
    pace = Pace()
    pace.took(1, 0.0)
    assert pace.next(100) == 8


def test_never_more_than_there_are():
    pace = Pace()
    pace.took(1, 1e-6)
    assert pace.next(3) == 3
