"""Recorded restarts, drawn again: calm ones show power, wild ones do not, equal code no alarms."""

import numpy as np
import pytest

from nnkernels.bench.gate.resampling import CHOICES, Recorded


def recorded(spread: float, restarts: int = 24, seed: int = 0) -> Recorded:
    rng = np.random.default_rng(seed)
    own = spread * rng.standard_normal((restarts, 1))
    return Recorded(own + 0.005 * rng.standard_normal((restarts, 12)))


def test_the_spread_is_of_the_medians() -> None:
    logs = np.array([[0.0, 0.1, 9.0], [0.0, 0.2, -9.0], [0.0, 0.3, 1.0]])
    assert Recorded(logs).spread == pytest.approx(np.std([0.1, 0.0, 0.3], ddof=1))


def test_draws_come_from_whole_restarts() -> None:
    logs = np.repeat(np.arange(4.0)[:, None], 5, axis=1)
    drawn = Recorded(logs).draw(6, 50, np.random.default_rng(1))
    assert drawn.shape == (50, 6)
    assert set(np.unique(drawn)) == {0.0, 1.0, 2.0, 3.0}


def test_calm_restarts() -> None:
    rng = np.random.default_rng(2)
    aa, small, large = recorded(0.003).powers((0.0, 0.05, 0.1), 8, rng, draws=500)
    assert (aa.inject, aa.method, aa.comparisons) == (0.0, "resampled", 500)
    assert aa.slower == aa.faster == 0
    assert large.slower == 500
    assert 0 < small.slower <= large.slower
    assert all(p.slower + p.faster + p.unsure <= 500 for p in (aa, small, large))


def test_noisier_workloads_need_more_restarts() -> None:
    rng = np.random.default_rng(3)
    needed = [recorded(s).recommended(rng, draws=300) for s in (0.001, 0.012, 0.2)]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1] == CHOICES[-1]


def test_what_is_no_measurement_is_unsure() -> None:
    rng = np.random.default_rng(4)
    (power,) = Recorded(np.full((8, 3), np.inf)).powers((0.1,), 8, rng, draws=10)
    assert power.unsure == power.comparisons == 10
