"""From the restarts of a workload to a verdict: pure statistics, nothing here measures.

The unit of replication is the restart: two fresh processes, whose memory layout and placement stay
with them for life. Of a restart enters one number, ``d``: the median over its pairs of
ln(t_b / t_a). A test over restarts is Tukey and McLaughlin's t on the trimmed mean (an eighth off
either end; Wilcox, Introduction to Robust Estimation and Hypothesis Testing, 4.3), which one
restart gone astray does not decide. All tests are one-sided at :data:`ALPHA`, against a ratio of 1
plus or minus :data:`MARGIN`; Holm's correction makes one family of a run's candidates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

Change = Literal["slower", "faster"]
Word = Literal["slower", "faster", "same", "unsure"]

MARGIN = 0.03
"""Slowdowns up to this fraction are nobody's business."""

BOUND = math.log1p(MARGIN)
ALPHA = 0.01
CONFIDENCE = 1 - 2 * ALPHA
"""Of the interval of a ratio: two one-sided bounds, those of the tests."""

POWER = 0.95
TRIM = 0.125
LEAST = 4
"""Restarts below which nothing is said."""

PLAUSIBLE = 20.0
"""A larger |d| (a ratio of 5e8) is no measurement, nor is NaN."""

MOST_MORE = 500
"""More further restarts than this are not worth naming."""

Floats = Any
"""A float, or an array of them."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Trimmed mean of ``d``, its standard error, and the degrees of freedom; or arrays of them."""

    mean: Floats
    error: Floats
    dof: int
    count: int

    def p_slower(self) -> Floats:
        """Probability of such restarts if B took at most 1 + margin times as long."""
        return stats.t.sf(self._distance(BOUND), self.dof)

    def p_faster(self) -> Floats:
        """Probability of such restarts if B took at least 1 / (1 + margin) times as long."""
        return stats.t.cdf(self._distance(-BOUND), self.dof)

    def p_same(self) -> Floats:
        """Probability of such restarts if B were outside of the margins (TOST)."""
        above = stats.t.sf(self._distance(-BOUND), self.dof)
        return np.maximum(above, stats.t.cdf(self._distance(BOUND), self.dof))

    def _distance(self, bound: float) -> Floats:
        """From ``bound`` in standard errors; without any error the sign alone, infinitely far."""
        away = np.subtract(self.mean, bound)
        with np.errstate(all="ignore"):
            return np.where(away == 0, 0.0, np.divide(away, self.error))

    def interval(self) -> tuple[float, float]:
        """Of the ratio t_b / t_a."""
        half = float(stats.t.isf(ALPHA, self.dof)) * self.error
        return math.exp(self.mean - half), math.exp(self.mean + half)


def trimmed_off(count: int) -> int:
    """How many of ``count`` restarts are cut off at either end."""
    return int(TRIM * count)


def estimate(restarts: Floats) -> Estimate | None:
    """What restarts say, along the last axis; None where they are too few, or not all plausible."""
    d = np.asarray(restarts, np.float64)
    count = d.shape[-1]
    if count < LEAST or not (np.abs(d) < PLAUSIBLE).all():
        return None
    cut = trimmed_off(count)
    ordered = np.sort(d, axis=-1)
    kept = ordered[..., cut : count - cut]
    winsorised = np.clip(ordered, kept[..., :1], kept[..., -1:])
    share = 1 - 2 * cut / count
    error = winsorised.std(axis=-1, ddof=1) / (share * math.sqrt(count))
    return Estimate(kept.mean(axis=-1), error, count - 2 * cut - 1, count)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one workload; see ``results.Comparison``."""

    word: Word
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    min_detectable: float | None = None
    more_restarts: int | None = None


def nominate(restarts: Sequence[float]) -> Change | None:
    """What the screening restarts of one workload make it a candidate for."""
    found = estimate(restarts)
    if found is None:
        return None
    if found.p_slower() <= ALPHA:
        return "slower"
    return "faster" if found.p_faster() <= ALPHA else None


def p_of(change: Change, restarts: Sequence[float]) -> float:
    """How probable ``restarts`` are without the change; 1 where they say nothing."""
    found = estimate(restarts)
    if found is None:
        return 1.0
    return float(found.p_slower() if change == "slower" else found.p_faster())


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: at most alpha where the family's false-alarm rate is."""
    order = np.argsort(ps, kind="stable")
    steps = np.asarray(ps, np.float64)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def screened(restarts: Sequence[float]) -> Verdict:
    """The verdict on a workload that is no candidate: same, or unsure."""
    found = estimate(restarts)
    if found is None:
        return Verdict("unsure")
    same = bool(found.p_same() <= ALPHA)
    return _verdict("same" if same else "unsure", found, float(found.p_slower()), None)


def confirmed(change: Change, restarts: Sequence[float], p_holm: float) -> Verdict:
    """The verdict on a candidate, by fresh restarts and its corrected p-value."""
    found = estimate(restarts)
    if found is None:
        return Verdict("unsure", p_holm=p_holm)
    word: Word = change if p_holm <= ALPHA else "unsure"
    return _verdict(word, found, p_of(change, restarts), p_holm)


def _verdict(word: Word, found: Estimate, p: float, p_holm: float | None) -> Verdict:
    return Verdict(
        word,
        ratio=math.exp(found.mean),
        interval=found.interval(),
        p=p,
        p_holm=p_holm,
        min_detectable=min_detectable(found),
        more_restarts=more_restarts(found) if word == "unsure" else None,
    )


@functools.cache
def _noncentrality(dof: int) -> float:
    """Standard errors beyond the bound from which both stages see a change with :data:`POWER`."""
    critical = float(stats.t.isf(ALPHA, dof))
    each = math.sqrt(POWER)
    missed = functools.partial(_missed, critical, dof, each)
    return float(optimize.brentq(missed, 0.0, 20 * critical))


def _missed(critical: float, dof: int, power: float, distance: float) -> float:
    return float(stats.nct.sf(critical, dof, distance)) - power


def min_detectable(found: Estimate) -> float:
    """The smallest slowdown, a fraction, that such restarts show with :data:`POWER`.

    By the noncentral t distribution, for a workload that is the only candidate of its run.
    """
    return math.exp(BOUND + _noncentrality(found.dof) * found.error) - 1


def more_restarts(found: Estimate) -> int | None:
    """How many further restarts would settle it, if they are like these; None: too many to name."""
    counts = np.arange(found.count + 1, found.count + MOST_MORE + 1)
    cut = np.array([trimmed_off(int(n)) for n in counts])
    spread = found.error * (1 - 2 * trimmed_off(found.count) / found.count) * found.count**0.5
    errors = spread / ((1 - 2 * cut / counts) * np.sqrt(counts))
    enough = stats.t.isf(ALPHA, counts - 2 * cut - 1) * errors <= abs(abs(found.mean) - BOUND)
    settled = counts[enough]
    return int(settled[0]) - found.count if len(settled) else None
