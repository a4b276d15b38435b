"""What a list of samples says: median, spread, and how sure the median is."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy import stats

from nnkernels.bench.results import Times

CONFIDENCE = 0.95
CONVERGED = 0.005
"""Half-width of the median's interval, relative to it, at which sampling may end."""


@functools.lru_cache(maxsize=1024)
def median_ranks(count: int, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """0-based ranks of the ordered samples that enclose the median with ``confidence``.

    By the binomial distribution, without assumptions about the samples' own (Hahn and Meeker,
    Statistical Intervals, section 5.2). Fewer than six samples cannot give 95 %: then smallest and
    largest.
    """
    tail = (1 - confidence) / 2
    low = int(stats.binom.ppf(tail, count, 0.5))
    low -= bool(stats.binom.cdf(low, count, 0.5) > tail)
    low = max(low, 0)
    return low, count - 1 - low


def summarise(samples: Sequence[float], contended: int, process: int = 0) -> Times:
    """Median, its interval, median absolute deviation, extremes and 5 % quantiles.

    ``process`` is the number of the process that took the samples.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("summarise: no samples; a workload that was not timed has no times")
    ordered = np.sort(np.asarray(samples, np.float64))
    median = float(np.median(ordered))
    low, high = median_ranks(len(ordered))
    p05, p95 = (float(q) for q in np.quantile(ordered, (0.05, 0.95)))
    ci = (float(ordered[low]), float(ordered[high]))
    return Times(
        unit="s",
        samples=list(samples),
        process=[process] * len(samples),
        median=median,
        mad=float(np.median(np.abs(ordered - median))),
        min=float(ordered[0]),
        p05=p05,
        p95=p95,
        ci=ci,
        converged=len(ordered) > 5 and half_width(ci, median) <= CONVERGED,
        contended=contended,
    )


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Median of ``b / a`` over pairs that were taken in turns, and its interval."""
    ordered = np.sort(np.log(b) - np.log(a))
    low, high = median_ranks(len(ordered))
    median, first, last = np.exp([np.median(ordered), ordered[low], ordered[high]])
    return float(median), float(first), float(last)


def half_width(ci: tuple[float, float], median: float) -> float:
    """Half the width of the interval, relative to the median."""
    return (ci[1] - ci[0]) / 2 / median if median else 0.0
