"""The search for a break-even size, on candidates whose cost is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.bench.breakeven import BreakEven, Ratio, search, spaced

SIZES = spaced(8, 1 << 20)
Cost = Callable[[int], float]


def linear(start: float, each: float) -> Cost:
    return lambda n: start + each * n


def exact(a: Cost, b: Cost, tolerance: float = 0.001):
    """Measures without noise, and counts what it is asked."""

    def measure(size: int) -> Ratio:
        measure.asked.append(size)
        value = b(size) / a(size)
        return Ratio(value, value * (1 - tolerance), value * (1 + tolerance))

    measure.asked = []
    return measure


def noisy(a: Cost, b: Cost, spread: float, seed: int, *, bounded: bool):
    """Measures with noise; ``bounded``: the interval always encloses the truth."""
    rng = np.random.default_rng(seed)

    def measure(size: int) -> Ratio:
        noise = rng.uniform(-1, 1) if bounded else rng.standard_normal()
        value = b(size) / a(size) * math.exp(spread * noise)
        half = math.exp(spread if bounded else 1.96 * spread)
        return Ratio(value, value / half, value * half)

    return measure


@pytest.mark.parametrize("true", [11, 20, 100, 1234, 54_321, 900_000])
@pytest.mark.parametrize("shared", [0, 0.5])
@pytest.mark.parametrize("flat", [0.05, 0.5, 0.8])
def test_the_size_is_found_within_10_percent(true: int, shared: float, flat: float) -> None:
    slow = linear(shared * true, 1)
    measure = exact(slow, linear(slow(true) - flat * true, flat), 1e-4)
    found = search(measure, SIZES)
    assert found.verdict == "found"
    assert found.size == pytest.approx(true, rel=0.1)
    low, high = found.interval
    assert low <= true <= high
    assert high - low <= 1 or high < 1.2 * low
    assert len(measure.asked) < 17 + 8


@given(
    true=st.floats(10, 1e6),
    flat=st.floats(0.01, 0.95),
    spread=st.floats(1e-4, 0.1),
    seed=st.integers(0, 2**32 - 1),
)
def test_intervals_that_hold_the_truth_give_an_answer_that_does(true, flat, spread, seed) -> None:
    def first(n: float) -> float:
        return 1 + n

    def second(n: float) -> float:
        return 1 + flat * n + (1 - flat) * true

    found = search(noisy(first, second, spread, seed, bounded=True), SIZES)
    if found.verdict == "found":
        low, high = found.ties[0] if found.ties else found.interval[0], found.interval[1]
        assert found.interval[0] <= found.size <= high
        # Ties begin at a measured size that is not lost; the truth may lie just before it.
        assert low / 1.2 <= true + 1 and true <= high + 1
    else:
        assert found.verdict in ("unclear", "never", "always")
        first_size, last_size = SIZES[0], SIZES[-1]
        assert found.verdict != "always" or true <= first_size
        assert found.verdict != "never" or not (second(last_size) / first(last_size) < 0.7)


@given(
    ratios=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40),
    spread=st.floats(1e-4, 1.0),
    holes=st.sets(st.sampled_from(SIZES)),
)
def test_any_measurements_end_in_an_answer(ratios, spread, holes) -> None:
    asked = 0

    def measure(size: int) -> Ratio | None:
        nonlocal asked
        asked += 1
        value = ratios[asked % len(ratios)]
        return None if size in holes else Ratio(value, value / (1 + spread), value * (1 + spread))

    found = search(measure, SIZES)
    assert isinstance(found, BreakEven)
    assert (found.size is not None) == (found.verdict == "found")
    assert asked < 17 * 3 + 40


def test_ordinary_noise_seldom_moves_the_answer() -> None:
    a, b, true = linear(0, 1.0), linear(500, 0.5), 1000
    found = [search(noisy(a, b, 0.02, seed, bounded=False), SIZES) for seed in range(200)]
    near = [f.verdict == "found" and abs(f.size / true - 1) < 0.2 for f in found]
    assert sum(near) >= 180


def test_never_and_always() -> None:
    assert search(exact(linear(1, 1), linear(2, 1.5)), SIZES) == BreakEven("never")
    assert search(exact(linear(2, 1.5), linear(1, 1)), SIZES) == BreakEven("always")


def test_a_winner_of_small_sizes_only_is_named_as_that() -> None:
    found = search(exact(linear(500, 0.5), linear(0, 1.0)), SIZES)
    assert (found.verdict, found.size) == ("unclear", None)
    assert found.wins_below == max(size for size in SIZES if size < 1000)


def test_equal_candidates_are_not_told_apart() -> None:
    assert search(exact(linear(1, 1), linear(1, 1)), SIZES) == BreakEven("unclear")


def test_equal_up_to_a_size_and_faster_from_there() -> None:
    """As more threads are, which small sizes do not use."""
    found = search(exact(linear(0, 1), lambda n: n if n < 3000 else 0.6 * n), SIZES)
    assert found.verdict == "found"
    assert found.size == pytest.approx(3000, rel=0.1)
    assert found.ties[0] == SIZES[0] and found.ties[1] < 3000


def test_slower_then_equal_then_faster() -> None:
    def second(n: int) -> float:
        return n + 10 if n < 100 else n if n < 3000 else 0.6 * n

    found = search(exact(linear(0, 1), second, 1e-6), SIZES)
    assert found.size == pytest.approx(3000, rel=0.1)
    assert found.ties[0] == pytest.approx(100, rel=0.2)


def test_two_regions_where_the_second_wins() -> None:
    def second(n: int) -> float:
        return 2 * n if 100 < n < 5000 else n / 2

    found = search(exact(linear(0, 1), second), SIZES)
    assert found.size == pytest.approx(5000, rel=0.1)
    assert found.wins_below < 100


def test_one_wild_measurement_is_repeated() -> None:
    measure = exact(linear(0, 1.0), linear(500, 0.5))
    wild = {SIZES[-2]: Ratio(5, 4, 6), SIZES[1]: Ratio(0.1, 0.05, 0.2)}

    found = search(lambda size: wild.pop(size, None) or measure(size), SIZES)
    assert found.size == pytest.approx(1000, rel=0.1)


def test_sizes_are_whole_and_a_factor_apart() -> None:
    assert spaced(8, 2048) == [round(8 * 2 ** (i / 2)) for i in range(17)]
    assert spaced(1, 4)[:4] == [1, 2, 3, 4]
