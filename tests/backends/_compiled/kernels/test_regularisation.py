"""Dropout's bits at places that small arrays do not reach."""

import numpy as np
import pytest

from nnkernels.spec import get_op

DROPOUT = get_op("dropout")


@pytest.fixture
def both(compiled):
    """The backend's results and the reference's."""

    def run(x, seed, step, **params):
        arguments = (x, np.array(seed), np.array(step))
        full = DROPOUT.full_params(params)
        return DROPOUT.on(compiled, *arguments, **params), DROPOUT.evaluate(*arguments, **full)

    return run


@pytest.mark.parametrize("shape", [(7, 333), (1, 5000), (3, 2, 5), (1,), ()])
@pytest.mark.parametrize("first_row", [0, 1, 2**31 - 5, 2**48 + 3])
def test_masks_have_the_reference_bits_wherever_the_rows_begin(shape, first_row, both):
    """Also where an array begins or ends inside a block, and a block's number needs two words."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (y, mask), (_, expected) = both(x, -3, 2**40 + 5, p=0.3, layer=7, first_row=first_row)
    assert np.array_equal(mask, expected)
    np.testing.assert_array_equal(y, x * expected * np.float32(1 / 0.7))


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("p", [0.0, 2**-32, 0.5, 1 - 2**-32, 1 - 2**-53])
def test_extreme_probabilities_and_seeds(p, seed, both):
    x = np.ones((40, 101))
    (_, mask), (_, expected) = both(x, seed, 2**63 - 1, p=p, layer=2**32 - 2)
    assert np.array_equal(mask, expected)
    assert mask.all() or p > 0


def test_only_the_mask_or_only_the_values(compiled):
    x, seed, step = np.ones((30, 70)), np.array(4), np.array(5)
    y, mask = DROPOUT.on(compiled, x, seed, step)
    only_y, only_mask = np.empty_like(y), np.empty_like(mask)
    DROPOUT.on(compiled, x, seed, step, out=(only_y, None))
    DROPOUT.on(compiled, x, seed, step, out=(None, only_mask))
    assert np.array_equal(only_y, y)
    assert np.array_equal(only_mask, mask)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1_000_003])
def test_penalties_sum_every_element_once(size, compiled):
    """Whole numbers, so that sums are exact: every segment and block has each element once."""
    w = np.random.default_rng(2).integers(-9, 10, size).astype(np.float64)
    assert get_op("l1_penalty").on(compiled, w, strength=1.0) == np.abs(w).sum()
    assert get_op("l2_penalty").on(compiled, w, strength=1.0) == np.square(w).sum()
