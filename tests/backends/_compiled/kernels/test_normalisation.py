"""What the conformance suite's small arrays do not show of the normalising kernels."""

import numpy as np
import pytest

from nnkernels.spec import get_op


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("name", ["batch_norm", "layer_norm"])
def test_variance_of_values_far_from_zero(name, rng, compiled):
    """The differences are squared, not the values; the mean may be off by a few of its last bits.

    Sums of the values' squares would leave the variance no right digit.
    """
    x = (1e4 + rng.standard_normal((600, 600))).astype(np.float32)
    ones, zeros = np.ones(600, np.float32), np.zeros(600, np.float32)
    y, _, variance = get_op(name).on(compiled, x, ones, zeros)
    wide = x.astype(np.float64)
    expected, _, exact = get_op(name).evaluate(wide, ones, zeros, eps=1e-5)
    np.testing.assert_allclose(variance, exact, rtol=1e-5)
    np.testing.assert_allclose(y, expected, atol=4 * np.spacing(np.float32(1e4)))


def test_sums_over_many_rows_keep_float32_accuracy(rng, compiled):
    """Sums of 32 rows each: adding 100,000 rows one by one would lose two digits more."""
    grad = rng.uniform(0.5, 1.5, (100_000, 3)).astype(np.float32)
    x = rng.standard_normal((100_000, 3)).astype(np.float32)
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    _, _, grad_beta = get_op("batch_norm_backward").on(compiled, grad, x, ones, zeros, ones)
    np.testing.assert_allclose(grad_beta, grad.sum(0, dtype=np.float64), rtol=5e-6)


@pytest.mark.parametrize("name", ["batch_norm", "layer_norm"])
def test_infinite_variance_gives_what_arithmetic_gives(name, compiled):
    """An estimated reciprocal root would be NaN where dividing gives 0."""
    x = np.array([[-3e38, 3e38], [3e38, -3e38]], np.float32)
    _, mean, variance = get_op(name).on(compiled, x, np.ones(2, np.float32), np.ones(2, np.float32))
    assert np.array_equal(mean, [0, 0])
    assert np.array_equal(variance, [np.inf, np.inf])
    running = np.full(2, np.inf, np.float32)
    one = np.ones((1, 2), np.float32)
    y = get_op("batch_norm_inference").on(compiled, one, one[0], one[0], one[0] * 0, running)
    assert np.array_equal(y, [[1, 1]])
