"""Verdicts: right on data whose truth is known, and silent on data that say nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnkernels.bench.gate import verdicts
from nnkernels.bench.gate.verdicts import ALPHA, BOUND, LEAST, estimate, holm

FINITE = st.floats(-5, 5)
LISTS = st.lists(FINITE | st.floats(allow_nan=True, allow_infinity=True), max_size=30)
QUIET = [0.0, 0.001, -0.002, 0.001, 0.003, -0.001, 0.002, -0.003]


def decide(screen, confirm):
    """A run with one workload."""
    change = verdicts.nominate(screen)
    if change is None:
        return verdicts.screened(screen)
    (p,) = holm([verdicts.p_of(change, confirm)])
    return verdicts.confirmed(change, confirm, p)


@given(LISTS, LISTS)
def test_no_data_become_an_exception_or_a_verdict_by_mistake(screen, confirm) -> None:
    verdict = decide(screen, confirm)
    if len(screen) < LEAST or not (np.abs(screen) < verdicts.PLAUSIBLE).all():
        assert verdict == verdicts.Verdict("unsure")
    if verdict.word in ("slower", "faster"):
        assert np.isfinite(confirm).all()
        assert len(confirm) >= LEAST
        assert verdict.p_holm <= ALPHA
        both = [np.sort(each)[1:-1] if len(each) >= 8 else each for each in (screen, confirm)]
        sign = 1 if verdict.word == "slower" else -1
        assert all(sign * np.mean(each) > BOUND for each in both)
    for number in (verdict.ratio, verdict.p, verdict.min_detectable, *(verdict.interval or ())):
        assert number is None or math.isfinite(number)


@given(st.lists(FINITE, min_size=LEAST, max_size=40))
def test_the_trimmed_t_is_scipys(d) -> None:
    found = estimate(d)
    cut = verdicts.trimmed_off(len(d))
    share = cut / len(d)
    assert found.mean == pytest.approx(stats.trim_mean(d, share + 1e-9), abs=1e-9)
    if cut:
        ends = np.sort(d)[cut], np.sort(d)[-1 - cut]
        expected = np.clip(d, *ends).std(ddof=1) / ((1 - 2 * share) * math.sqrt(len(d)))
    else:
        expected = stats.sem(d)
        if found.error > 1e-6:
            p = stats.ttest_1samp(d, BOUND, alternative="greater").pvalue
            assert found.p_slower() == pytest.approx(p, abs=1e-9)
    assert found.error == pytest.approx(expected, abs=1e-9)
    assert found.dof == len(d) - 2 * cut - 1


def test_an_eighth_is_trimmed_as_scipy_does_it() -> None:
    d = np.random.default_rng(0).standard_normal(16)
    expected = stats.mstats.trimmed_stde(d, limits=(0.125, 0.125))
    assert estimate(d).error == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("shift", "word"), [(0.1, "slower"), (-0.1, "faster"), (0.0, "same"), (0.029, "unsure")]
)
def test_four_verdicts(shift, word) -> None:
    d = [shift + x for x in QUIET]
    verdict = decide(d, d[::-1])
    assert verdict.word == word
    assert verdict.ratio == pytest.approx(math.exp(shift), rel=1e-3)
    low, high = verdict.interval
    assert low < verdict.ratio < high
    assert (verdict.more_restarts is not None) == (word == "unsure")


def test_both_stages_must_agree() -> None:
    slow = [0.1 + x for x in QUIET]
    assert decide(slow, QUIET).word == "unsure"
    assert decide(QUIET, slow).word == "same"
    assert decide(slow, slow[:1]).word == "unsure"


def test_ties_are_exact() -> None:
    assert decide([0.1] * 8, [0.1] * 8).word == "slower"
    assert decide([0.0] * 8, []).word == "same"
    assert decide([BOUND] * 8, [BOUND] * 8).word == "unsure"


def test_one_wild_restart_decides_nothing() -> None:
    assert decide([*QUIET[:-1], 3.0], []).word == "same"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm(ps) -> None:
    adjusted = holm(ps)
    assert all(p <= a <= min(1.0, len(ps) * p) for p, a in zip(ps, adjusted, strict=True))
    pairs = sorted(zip(ps, adjusted, strict=True))
    assert [a for _, a in pairs] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def draws(rng: np.random.Generator, count: int, n: int, shift: float) -> np.ndarray:
    """Restarts with heavy tails: one in twelve goes astray by several percent."""
    d = shift + 0.007 * rng.standard_normal((count, n))
    astray = rng.random((count, n)) < 1 / 12
    return d + astray * 0.05 * rng.standard_normal((count, n))


@pytest.mark.parametrize(
    ("slowdown", "least", "most"), [(0.0, 0, 0.002), (0.03, 0, 0.002), (0.1, 0.97, 1)]
)
def test_false_alarms_and_power_on_synthetic_restarts(slowdown, least, most) -> None:
    rng = np.random.default_rng(5)
    stages = [estimate(draws(rng, 4000, 8, math.log1p(slowdown))) for _ in range(2)]
    alarms = np.logical_and.reduce([s.p_slower() <= ALPHA for s in stages])
    assert least <= alarms.mean() <= most


def test_the_least_detectable_slowdown_is_found_as_often_as_promised() -> None:
    rng = np.random.default_rng(6)
    error = 0.008 / math.sqrt(7)
    least = verdicts.min_detectable(verdicts.Estimate(0.0, error, 6, 7))
    shift = math.log1p(least)
    stages = [estimate(shift + 0.008 * rng.standard_normal((8000, 7))) for _ in range(2)]
    found = np.logical_and.reduce([s.p_slower() <= ALPHA for s in stages])
    assert found.mean() == pytest.approx(0.95, abs=0.01)


def test_more_restarts_settle_it() -> None:
    rng = np.random.default_rng(7)
    found = estimate(0.02 + 0.012 * rng.standard_normal(8))
    more = verdicts.more_restarts(found)
    assert 1 <= more < 100
    assert verdicts.more_restarts(verdicts.Estimate(BOUND, 0.1, 5, 8)) is None
