"""Optimizers and clipping beyond the conformance suite's sizes and steps."""

import math

import numpy as np
import pytest

from nnkernels.spec import get_op

CLIP = get_op("clip_by_global_norm")


@pytest.mark.parametrize("size", [1, 40, 64, 1_000_003])
def test_norm_of_a_float32_vector_whose_squares_overflow(size, compiled):
    grad = np.random.default_rng(1).uniform(1e30, 2e30, size).astype(np.float32)
    exact = math.sqrt(math.fsum(np.square(grad.astype(np.float64))))
    expected = grad.astype(np.float64) / exact
    norm, _ = CLIP.on(compiled, grad, max_norm=1.0)
    np.testing.assert_allclose(norm, exact, rtol=1e-15)
    np.testing.assert_allclose(grad, expected, rtol=5e-7)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_norm_that_is_not_finite(value, compiled):
    grad = np.ones(1000, np.float32)
    grad[777] = value
    with np.errstate(invalid="ignore"):
        _, expected = CLIP.evaluate(grad, max_norm=1.0)
    norm, _ = CLIP.on(compiled, grad, max_norm=1.0)
    assert not np.isfinite(norm)
    np.testing.assert_array_equal(grad, expected)


def test_a_norm_below_the_limit_changes_no_bit(compiled):
    grad = np.random.default_rng(2).standard_normal(5000).astype(np.float32)
    before = grad.copy()
    CLIP.on(compiled, grad, max_norm=1e6)
    assert np.array_equal(grad, before)


@pytest.mark.parametrize("step", [1, 2, 1000, 10**6, 2**62])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_bias_corrections_of_early_and_late_steps(name, step, compiled):
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(100) for _ in range(3)] + [rng.uniform(0, 1, 100)]
    arguments = [*arrays, np.array(1e-3), np.array(step)]
    op = get_op(name)
    expected = op.evaluate(*arguments, **op.full_params({}))
    op.on(compiled, *arguments)
    for got, want in zip([arrays[0], arrays[2], arrays[3]], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-15)


def test_averages_are_weighted_sums(compiled):
    """``a x + (1 - a) y`` where y is much larger: ``a (x - y) + y`` would lose x."""
    param, grad, average = np.zeros(64), np.full(64, 1e6), np.full(64, 1.0)
    alpha = 1 - 2.0**-53
    get_op("rmsprop").on(compiled, param, grad, average, np.array(1e-3), alpha=alpha)
    np.testing.assert_allclose(average, alpha + (1 - alpha) * 1e12, rtol=4e-16)
