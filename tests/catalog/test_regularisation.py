import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnkernels as nn
from nnkernels.backends.numpy.regularisation import BLOCKS
from nnkernels.catalog import philox
from nnkernels.catalog.regularisation import drop_threshold
from nnkernels.errors import InputError
from nnkernels.spec import get_op

BACKENDS = ("numpy", "reference")


def dropped(x, seed=1, step=2, backend="numpy", **params):
    return nn.ops.dropout.on(nn.get_backend(backend), x, seed, step, **params)


# --- dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_has_the_documented_bits(backend):
    x = np.ones((3, 5), np.float32)
    _, mask = dropped(x, seed=-7, step=2**32 + 9, p=0.3, layer=4, first_row=1001, backend=backend)
    for row, column in np.ndindex(3, 5):
        element = (1001 + row) * 5 + column
        block = philox.words(element // 4 * 4, 4, 4, 9, -7)
        assert mask[row, column] == (int(block[element % 4]) >= 0.3 * 2**32)


def test_mask_is_pinned():
    _, mask = dropped(np.ones(16), seed=0, step=0)
    # Words of the published zero vector: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
    assert mask[:4].tolist() == [False, True, True, True]


@given(
    st.integers(0, 40),
    st.integers(1, 7),
    st.integers(0, 2**33),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(0, 1, exclude_max=True),
)
def test_backends_agree_bit_for_bit(rows, width, first_row, seed, p):
    x = np.ones((rows, width))
    results = [dropped(x, seed, 5, b, p=p, first_row=first_row) for b in BACKENDS]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("first_row", [0, 1])
def test_long_arrays_continue_across_blocks(first_row):
    x = np.ones((2, 4 * BLOCKS + 3), np.float32)
    masks = [dropped(x, backend=b, first_row=first_row)[1] for b in BACKENDS]
    np.testing.assert_array_equal(*masks)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 9))
def test_ranks_get_the_rows_of_the_whole_mask(head, tail, width):
    _, whole = dropped(np.ones((head + tail, width)))
    _, first = dropped(np.ones((head, width)))
    _, second = dropped(np.ones((tail, width)), first_row=head)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_mean_are_kept(p):
    n = 100_000
    y, mask = dropped(np.ones(n), p=p)
    assert abs(mask.mean() - (1 - p)) < 4 * np.sqrt(p * (1 - p) / n)
    np.testing.assert_allclose(y[mask], 1 / (1 - p))
    assert not y[~mask].any()


def test_masks_of_steps_layers_and_seeds_are_independent():
    n = 100_000
    masks = [
        dropped(np.ones(n), **changes)[1]
        for changes in ({}, {"step": 3}, {"seed": 2}, {"layer": 1}, {"seed": 1 + 2**32})
    ]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs((a == b).mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_p_0_keeps_everything_and_thresholds_are_exact():
    x = np.random.default_rng(0).standard_normal((5, 3))
    y, mask = dropped(x, p=0.0)
    np.testing.assert_array_equal(y, x)
    assert mask.all()
    assert drop_threshold(0.5) == 2**31
    assert drop_threshold(2.0**-33) == 1
    assert drop_threshold(np.nextafter(1, 0)) == 2**32


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2]])
def test_layout_of_input_and_mask_does_not_matter(layout):
    x = np.random.default_rng(0).standard_normal((30, 7))
    y, mask = dropped(x)
    outs = (layout(np.zeros_like(x)), layout(np.zeros(x.shape, bool)))
    dropped(layout(x), out=outs)
    np.testing.assert_array_equal(outs[0], y)
    np.testing.assert_array_equal(outs[1], mask)
    dropped(x, out=(x, None))
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("outs", [(True, True), (True, False), (False, True)])
def test_bound_dropout_makes_no_large_arrays(outs):
    x = np.ones((200, 1000))
    arrays = (np.empty_like(x), np.empty(x.shape, bool))
    wanted = tuple(a if w else None for a, w in zip(arrays, outs, strict=True))
    call = nn.bind("dropout", x, 1, 2, out=wanted, backend="numpy")
    call()
    tracemalloc.start()
    try:
        call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150_000  # NumPy's cast buffer of 8,192 elements; the mask alone is 200,000 bytes


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_backward_is_the_same_map(backend):
    grad = np.random.default_rng(1).standard_normal((6, 5))
    _, mask = dropped(grad, p=0.3)
    got = nn.ops.dropout_backward.on(nn.get_backend(backend), grad, mask, p=0.3)
    np.testing.assert_allclose(got, np.where(mask, grad / 0.7, 0), rtol=1e-15)


@pytest.mark.parametrize(
    "params", [{"p": 1.0}, {"p": -0.1}, {"layer": 2**32 - 1}, {"first_row": -1}]
)
def test_bad_parameters_are_refused(params):
    with pytest.raises(InputError, match=next(iter(params))):
        dropped(np.ones(3), **params)


# --- penalties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "formula"),
    [("l1_penalty", lambda w: w.abs().sum()), ("l2_penalty", lambda w: w.square().sum())],
)
def test_penalties_and_gradients_agree_with_autograd(backend, name, formula):
    torch = pytest.importorskip("torch")
    chosen = nn.get_backend(backend)
    w = np.random.default_rng(2).standard_normal((4, 3, 2))
    theirs = torch.tensor(w, requires_grad=True)
    loss = 0.03 * formula(theirs)
    loss.backward(torch.tensor(1.7, dtype=torch.float64))
    got = get_op(name).on(chosen, w, strength=0.03)
    grad = get_op(f"{name}_backward").on(chosen, np.asarray(1.7), w, strength=0.03)
    assert got.item() == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_penalties_at_zero_and_of_nothing(backend):
    chosen = nn.get_backend(backend)
    slope = nn.ops.l1_penalty_backward.on(chosen, np.asarray(1.0), np.zeros(3))
    np.testing.assert_array_equal(slope, 0)
    assert nn.ops.l1_penalty.on(chosen, np.zeros((0, 3))).item() == 0
    assert nn.ops.l2_penalty.on(chosen, np.zeros((0, 3))).item() == 0


def test_penalty_sums_of_strided_float32_weights_are_accurate():
    w = np.random.default_rng(3).standard_normal((1000, 700)).astype(np.float32)
    exact = 0.01 * np.square(w.astype(np.float64)).sum()
    for view in (w, w.T, np.repeat(w, 2, 1)[:, ::2]):
        assert nn.ops.l2_penalty(view).item() == pytest.approx(exact, rel=5e-7)
