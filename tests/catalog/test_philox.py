import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.catalog import philox
from nnkernels.errors import InputError

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
ONES = (0xFFFFFFFF,) * 4
KNOWN = [  # Random123, kat_vectors: philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (ONES, ONES[:2], (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_known_answers(counter, key, expected):
    state = np.array(counter, np.uint64)[:, None].repeat(3, 1)
    philox.encrypt(state, np.empty((2, 3), np.uint64), *key)
    assert state.T.tolist() == [list(expected)] * 3


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_words_lay_out_counter_and_key_as_documented(counter, key, expected):
    seed = key[1] << 32 | key[0]
    block = counter[1] << 32 | counter[0]
    got = philox.words(4 * block, 4, counter[2], counter[3], seed)
    assert got.tolist() == list(expected)


def test_seeds_and_steps_count_in_twos_complement():
    expected = philox.words(0, 4, 7, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
    np.testing.assert_array_equal(philox.words(0, 4, 7, -1, -1), expected)


@given(st.integers(0, 2**40), st.integers(0, 50), st.integers(0, 50))
def test_any_part_of_the_stream_is_the_same_words(first, before, count):
    whole = philox.words(first, before + count, 1, 2, 3)
    np.testing.assert_array_equal(philox.words(first + before, count, 1, 2, 3), whole[before:])


@given(st.integers(0, 300), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_shuffled_is_a_permutation(n, seed, epoch):
    order = philox.shuffled(n, seed, epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_shuffled_order_is_fixed_and_depends_on_seed_and_epoch():
    assert philox.shuffled(8, 0, 0).tolist() == [6, 1, 5, 7, 0, 3, 4, 2]
    orders = {tuple(philox.shuffled(20, s, e)) for s in range(5) for e in range(5)}
    assert len(orders) == 25


def test_shuffled_is_the_order_of_the_documented_keys():
    words = philox.words(0, 1000, 0xFFFFFFFF, 3, 11)
    expected = sorted(range(1000), key=lambda i: (int(words[i]), i))
    assert philox.shuffled(1000, 11, 3).tolist() == expected


def test_every_place_is_reached_equally_often():
    places = np.array([philox.shuffled(10, 1, epoch)[0] for epoch in range(2000)])
    counts = np.bincount(places, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


@pytest.mark.parametrize("n", [-1, 2**32])
def test_sizes_out_of_range_are_refused(n):
    with pytest.raises(InputError, match="shuffled"):
        philox.shuffled(n, 0, 0)
