import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.bench.statistics import half_width, median_ranks, summarise


def coverage(low: int, count: int) -> float:
    """Probability that the median lies between the ranks, by counting coin tosses."""
    return 1 - 2 * sum(math.comb(count, k) for k in range(low + 1)) / 2**count


@given(st.integers(6, 400))
def test_ranks_cover_the_median_and_no_narrower_ones_do(count: int) -> None:
    low, high = median_ranks(count)
    assert high == count - 1 - low
    assert coverage(low, count) >= 0.95
    assert coverage(low + 1, count) < 0.95


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_samples_give_their_extremes(count: int) -> None:
    assert median_ranks(count) == (0, count - 1)


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60), st.randoms())
def test_summary_is_ordered_and_does_not_depend_on_the_order(samples, random) -> None:
    times = summarise(samples, 0)
    assert times.min <= times.ci[0] <= times.median <= times.ci[1]
    assert times.min <= times.p05 <= times.p95
    assert times.mad >= 0
    shuffled = list(samples)
    random.shuffle(shuffled)
    again = summarise(shuffled, 0)
    assert (again.median, again.ci, again.mad) == (times.median, times.ci, times.mad)
    assert times.samples == samples
    assert times.process == [0] * len(samples)


def test_known_samples() -> None:
    times = summarise([5.0, 1.0, 4.0, 2.0, 3.0, 100.0, 3.5], contended=2, process=3)
    assert (times.median, times.mad, times.min, times.contended) == (3.5, 1.5, 1.0, 2)
    assert times.ci == (1.0, 100.0)
    assert times.process == [3] * 7
    assert half_width(times.ci, times.median) == pytest.approx(99 / 7)
    assert not times.converged


def test_equal_samples_have_converged_only_when_there_are_enough() -> None:
    assert not summarise([1.0] * 5, 0).converged
    assert summarise([1.0] * 6, 0).converged


def test_no_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([], 0)
