"""Random draws: fixed bits, right moments."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.data import draws

SEEDS = st.integers(0, 2**64 - 1)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011)."""
    mask = 2**64 - 1
    for _ in range(10):
        first = 0xD2E7470EE14C6C93 * counter[0]
        second = 0xCA5A826395121157 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & mask,
            (first >> 64) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


@given(SEEDS, SEEDS)
def test_raw_words_are_those_of_philox(seed: int, stream: int) -> None:
    expected = philox([1, 0, 0, 0], [seed, stream]) + philox([2, 0, 0, 0], [seed, stream])
    assert draws.raw(seed, stream, 8).tolist() == expected


@given(SEEDS, st.integers(0, 9), st.integers(0, 20), st.integers(0, 20))
def test_a_longer_draw_begins_with_the_shorter(seed: int, stream: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert (
        draws.uniform(seed, stream, long, 3)[:short] == draws.uniform(seed, stream, short, 3)
    ).all()
    assert (draws.bell(seed, stream, long, 3)[:short] == draws.bell(seed, stream, short, 3)).all()


def test_streams_and_seeds_differ() -> None:
    drawn = {draws.raw(seed, stream, 1)[0] for seed in range(10) for stream in range(10)}
    assert len(drawn) == 100


def test_uniform_fills_the_unit_interval() -> None:
    values = draws.uniform(1, 0, 20_000, 1)
    assert 0 <= values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01


def test_bell_has_mean_0_and_deviation_1() -> None:
    values = draws.bell(1, 0, 40_000, 1)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert 3 < np.abs(values).max() < 3.5


@given(SEEDS, st.integers(0, 50))
def test_permutation_holds_each_number_once(seed: int, count: int) -> None:
    order = draws.permutation(seed, 0, count)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(count))


def test_permutation_shuffles() -> None:
    assert (draws.permutation(0, 0, 100) != np.arange(100)).any()
