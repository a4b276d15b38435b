"""Losses of compiled backends: logits of any magnitude, long sums, NaN."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.spec import get_op

FLOATS = ["float32", "float64"]


@pytest.fixture
def run(compiled):
    """``run("mse", pred, target)``."""
    return lambda name, *inputs, **params: get_op(name).on(compiled, *inputs, **params)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [False, True], ids=["labels", "rows"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("columns", [2, 10, 67])
def test_cross_entropy_of_logits_of_any_magnitude(columns, scale, rows, dtype, run):
    rng = np.random.default_rng(columns)
    logits = np.concatenate([rng.normal(size=(columns, columns)), np.ones((1, columns))])
    logits = (logits * scale).astype(dtype)
    target = np.arange(columns + 1) % columns
    if rows:
        target = np.eye(columns, dtype=dtype)[target]
    got = run("softmax_cross_entropy", logits, target)
    op, wide = get_op("softmax_cross_entropy"), (logits.astype("float64"), target)
    exact = op.evaluate(*wide, reduction="mean")
    bounds = op.error.bound(exact, wide, {"reduction": "mean"}, logits.dtype)
    for a, b, bound in zip(got, exact, bounds, strict=True):
        assert (np.abs(a - b) <= bound).all()


@pytest.mark.parametrize("rows", [False, True], ids=["labels", "rows"])
@pytest.mark.parametrize("top", [1e4, 1e12, 1e30])
def test_what_the_sum_adds_is_kept_beside_large_logits(top, rows, run):
    target = np.eye(2)[[0, 1, 1]] if rows else np.array([0, 1, 1])
    loss, _ = run("softmax_cross_entropy", np.full((3, 2), top), target)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-15)


@pytest.mark.parametrize("shape", [(1_000_000, 1), (1, 1_000_000), (1000, 1000)], ids=str)
@pytest.mark.parametrize("name", ["mse", "mae", "binary_cross_entropy_with_logits"])
def test_sums_of_a_million_equal_terms_lose_nothing(name, shape, run):
    """Added in float32 one after the other they would be off by a percent."""
    pred, target = np.full(shape, 0.7, "float32"), np.full(shape, 0.4, "float32")
    one = run(name, pred[:1, :1].copy(), target[:1, :1].copy())
    np.testing.assert_allclose(run(name, pred, target), one, rtol=2**-22)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [1, 9, 70])
@pytest.mark.parametrize("alone", [False, True], ids=["loss and probs", "one of them"])
def test_nan_spoils_the_loss_but_only_its_rows_probabilities(alone, columns, dtype, run):
    logits = np.tile(np.linspace(-2, 2, columns, dtype=dtype), (columns + 1, 1))
    logits[np.arange(columns), np.arange(columns)] = np.nan
    target = np.full(columns + 1, columns // 2)
    probs, loss = np.empty_like(logits), np.empty((), dtype)
    outs = [(loss, None), (None, probs)] if alone else [(loss, probs)]
    for out in outs:
        run("softmax_cross_entropy", logits, target, out=out)
    assert np.isnan(loss)
    assert np.isnan(probs[:-1]).all()
    assert not np.isnan(probs[-1]).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "name", ["mse", "mae", "huber", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
)
@pytest.mark.parametrize("place", [0, 50, 99])
def test_nan_anywhere_is_nan_in_the_loss_and_its_gradient(name, place, dtype, run):
    pred, target = np.full((20, 5), 0.3, dtype), np.full((20, 5), 0.6, dtype)
    pred.flat[place] = np.nan
    assert np.isnan(run(name, pred, target))
    gradient = run(f"{name}_backward", np.ones((), dtype), pred, target)
    assert np.flatnonzero(np.isnan(gradient)).tolist() == [place]


@pytest.mark.parametrize("dtype", FLOATS)
def test_certain_probabilities_have_a_finite_loss(dtype, run):
    p, t = np.array([[0.0, 1.0, 0.0, 1.0]], dtype), np.array([[1.0, 0.0, 0.0, 1.0]], dtype)
    assert run("binary_cross_entropy", p, t, reduction="sum") == 200
    assert run("categorical_cross_entropy", p, t) == 100
    assert run("categorical_cross_entropy", p, np.array([2])) == 100
