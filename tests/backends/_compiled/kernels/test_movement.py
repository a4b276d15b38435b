"""Rows longer than the block that is compared at once."""

import numpy as np
import pytest

from nnkernels.spec import get_op


@pytest.mark.parametrize("columns", [1, 2, 63, 64, 65, 129, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_argmax_is_numpys_among_equals_infinities_and_nan(columns, dtype, compiled):
    rng = np.random.default_rng(columns)
    x = rng.choice([-np.inf, -1.0, -0.0, 0.0, 2.0], (400, columns)).astype(dtype)
    x[100:200] = -np.inf
    x[200:][rng.random((200, columns)) < 3 / columns] = np.nan
    x[300:][rng.random((100, columns)) < 1 / columns] = np.inf
    np.testing.assert_array_equal(get_op("argmax").on(compiled, x), x.argmax(1))


def test_count_correct_takes_the_first_of_equals_on_both_sides(compiled):
    scores = np.zeros((500, 130), np.float32)
    scores[::2, 128] = 1
    targets = np.zeros((500, 130), np.float32)
    targets[::5, 128:] = 1
    expected = (scores.argmax(1) == targets.argmax(1)).sum()
    count = get_op("count_correct")
    assert count.on(compiled, scores, targets) == expected
    assert count.on(compiled, scores, targets.argmax(1)) == expected


def test_gathered_rows_keep_their_bits(compiled):
    """NaN with a payload, negative zeros: rows are moved, not computed with."""
    bits = np.random.default_rng(3).integers(0, 2**32, (50, 33), dtype=np.uint32)
    rows = np.array([49, 0, 0, 7, 49])
    taken = get_op("gather_rows").on(compiled, bits.view(np.float32), rows)
    assert np.array_equal(taken.view(np.uint32), bits[rows])
