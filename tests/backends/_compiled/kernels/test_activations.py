"""Activations of compiled backends: rows of any magnitude, lost digits, tails."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.spec import get_op

FLOATS = ["float32", "float64"]


def share_of_bound(name, got, inputs, params=None):
    """The largest error of the results ``got`` over the bound that the operator declares."""
    op = get_op(name)
    full = op.full_params(params or {})
    wide = tuple(a.astype("float64") if a.dtype.kind == "f" else a for a in inputs)
    with np.errstate(all="ignore"):
        exact = op.evaluate(*wide, **full)
    got = got if isinstance(got, tuple) else (got,)
    bounds = op.error.bound(exact, wide, full, got[0].dtype)
    errors = [np.abs(a.astype("float64") - b) for a, b in zip(got, exact, strict=True)]
    return max(np.max(e / b) for e, b in zip(errors, bounds, strict=True))


# One row scaled and shifted, then rows with elements 1e4 or 1e30 apart, then equal elements.
BASE = np.linspace(-3, 3, 37) ** 3
ROWS = np.stack(
    [
        *(BASE * scale for scale in (1e-30, 1e-4, 1, 1e4, 1e30)),
        *(BASE + shift for shift in (-1e4, 1e4, 88.0, -104.0)),
        np.where(np.arange(37) % 3 == 0, 1e30, BASE),
        np.where(np.arange(37) == 20, 1e4, BASE),
        np.where(np.arange(37) == 20, -1e30, BASE),
        np.full(37, 1e4),
        np.full(37, -1e30),
    ]
)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [1, 2, 10, 37])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_of_very_different_magnitude(name, columns, dtype, compiled):
    x = np.ascontiguousarray(ROWS[:, :columns], dtype)
    assert share_of_bound(name, get_op(name).on(compiled, x), [x]) <= 1


def test_what_the_sum_adds_is_kept_beside_a_large_maximum(compiled):
    x = np.full((3, 2), [[1e4], [1e30], [-1e30]])
    np.testing.assert_allclose(get_op("log_softmax").on(compiled, x), -np.log(2), rtol=1e-15)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [1, 10, 67])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_spoil_their_row_alone(name, columns, dtype, bad, compiled):
    x = np.tile(np.linspace(-2, 2, columns, dtype=dtype), (columns + 1, 1))
    x[np.arange(columns), np.arange(columns)] = bad
    y = get_op(name).on(compiled, x)
    assert np.isnan(y[:-1]).all()
    assert not np.isnan(y[-1]).any()


IN_THE_TAIL = [
    ("elu_backward", {}),
    ("elu_backward", {"alpha": 1.7}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("gelu_backward", {"approximate": "tanh"}),
    ("sigmoid", {}),
    ("silu", {}),
    ("silu_backward", {}),
    ("softplus", {"beta": 0.35}),
    ("softplus_backward", {"beta": 0.35}),
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "params"), IN_THE_TAIL, ids=str)
def test_products_with_an_exponential_fade_out_gradually(name, params, dtype, compiled):
    """Where exp is subnormal, 100 times its value is not."""
    op = get_op(name)
    least = {"float32": 104, "float64": 746}[dtype]
    x = np.linspace(-3 * least, 10, 30_000).astype(dtype)
    inputs = [np.full_like(x, 100), x] if name.endswith("backward") else [x]
    got = op.on(compiled, *inputs, **params)
    assert share_of_bound(name, got, inputs, params) <= 1
