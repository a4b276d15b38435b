import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnkernels as nn
from nnkernels.backends.numpy.updates import BLOCK
from nnkernels.errors import DTypeError, InputError, ShapeError
from nnkernels.spec import get_op

BACKENDS = ("numpy", "reference")
STATE = {"sgd": 0, "momentum": 1, "rmsprop": 1, "adam": 2, "adamw": 2}
TORCH_STATE = {
    "momentum": ("momentum_buffer",),
    "rmsprop": ("square_avg",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}
CASES = [
    ("sgd", {}, "SGD", {}),
    ("sgd", {"weight_decay": 0.1}, "SGD", {"weight_decay": 0.1}),
    ("momentum", {}, "SGD", {"momentum": 0.9}),
    ("momentum", {"beta": 0.5, "weight_decay": 0.1}, "SGD", {"momentum": 0.5, "weight_decay": 0.1}),
    ("momentum", {"nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
    (
        "momentum",
        {"nesterov": True, "weight_decay": 0.1},
        "SGD",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    ("rmsprop", {}, "RMSprop", {}),
    (
        "rmsprop",
        {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        "RMSprop",
        {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1},
    ),
    ("adam", {}, "Adam", {}),
    (
        "adam",
        {"beta1": 0.8, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.1},
        "Adam",
        {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1},
    ),
    ("adamw", {}, "AdamW", {}),
    ("adamw", {"weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}),
    ("adamw", {"weight_decay": 0.0}, "AdamW", {"weight_decay": 0.0}),
]


def update(backend, name, param, grad, state, lr, step, **params):
    counter = [step] if name.startswith("adam") else []
    return get_op(name).on(nn.get_backend(backend), param, grad, *state, lr, *counter, **params)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "params", "optimizer", "options"), CASES)
def test_100_steps_follow_pytorch(backend, name, params, optimizer, options):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    param = rng.standard_normal((7, 5))
    theirs = torch.tensor(param, requires_grad=True)
    stepper = getattr(torch.optim, optimizer)([theirs], lr=0.01, **options)
    state = [np.zeros_like(param) for _ in range(STATE[name])]
    for step in range(1, 101):
        grad = rng.standard_normal(param.shape)
        theirs.grad = torch.tensor(grad)
        stepper.step()
        update(backend, name, param, grad, state, 0.01, step, **params)
        np.testing.assert_allclose(param, theirs.detach().numpy(), rtol=1e-12, atol=1e-12)
    kept = stepper.state[theirs]
    for ours, key in zip(state, TORCH_STATE.get(name, ()), strict=True):
        np.testing.assert_allclose(ours, kept[key].numpy(), rtol=1e-12, atol=1e-12)


def arguments(name, shape, dtype="float32"):
    rng = np.random.default_rng(2)
    draw = [rng.standard_normal(shape).astype(dtype) for _ in range(2)]
    return [*draw, *(rng.random(shape).astype(dtype) for _ in range(STATE[name]))]


def assert_within_contract(name, arrays, results, lr=0.01, step=3, **params):
    op = get_op(name)
    full = op.full_params(params)
    wide = [a.astype("float64") for a in arrays] + [np.asarray(lr)]
    wide += [np.asarray(step)] if name.startswith("adam") else []
    expected = op.evaluate(*wide, **full)
    bounds = op.error.bound(expected, tuple(wide), full, arrays[0].dtype)
    for got, want, bound in zip(results, expected, bounds, strict=True):
        assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_every_element_of_every_block_is_updated(name, size):
    arrays = arguments(name, size)
    work = [a.copy() for a in arrays]
    results = update("numpy", name, work[0], work[1], work[2:], 0.01, 3, weight_decay=0.1)
    results = results if isinstance(results, tuple) else (results,)
    assert_within_contract(name, arrays, results, weight_decay=0.1)


@pytest.mark.parametrize("name", STATE)
def test_strided_arrays_are_updated_in_place_like_contiguous_ones(name):
    arrays = arguments(name, (6, 9, 4), "float64")
    plain = [a.copy() for a in arrays]
    update("numpy", name, plain[0], plain[1], plain[2:], 0.01, 3)
    layouts = (
        np.asfortranarray,
        lambda a: np.repeat(a, 2, 1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
    )
    for layout in layouts:
        work = [layout(a) for a in arrays]
        update("numpy", name, work[0], work[1], work[2:], 0.01, 3)
        for got, want in zip(work, plain, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_gradient_is_unchanged_and_results_are_the_arguments(name, weight_decay):
    param, grad, *state = arguments(name, 100)
    before = grad.copy()
    results = update("numpy", name, param, grad, state, 0.01, 1, weight_decay=weight_decay)
    results = results if isinstance(results, tuple) else (results,)
    np.testing.assert_array_equal(grad, before)
    assert all(r is a for r, a in zip(results, (param, *state), strict=True))


@pytest.mark.parametrize("name", STATE)
def test_bound_update_allocates_no_arrays(name):
    param, grad, *state = arguments(name, 3 * BLOCK)
    counter = [1] if name.startswith("adam") else []
    call = nn.bind(name, param, grad, *state, 0.01, *counter, backend="numpy", weight_decay=0.1)
    call()
    tracemalloc.start()
    try:
        call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000  # views and numbers; a block would be 262,144 bytes


@pytest.mark.parametrize("name", STATE)
def test_a_nan_gradient_reaches_the_parameter(name):
    param, grad, *state = arguments(name, 10)
    grad[3] = np.nan
    update("numpy", name, param, grad, state, 0.01, 1)
    np.testing.assert_array_equal(np.isnan(param), np.arange(10) == 3)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_learning_rates_are_refused_and_change_nothing(lr):
    param, grad = np.ones(3), np.ones(3)
    with pytest.raises(InputError, match="lr"):
        nn.ops.sgd(param, grad, lr)
    np.testing.assert_array_equal(param, 1)


def test_bad_arguments_are_refused():
    param, grad = np.ones(3), np.ones(3)
    with pytest.raises(InputError, match="step"):
        nn.ops.adam(param, grad, np.zeros(3), np.zeros(3), 0.1, 0)
    with pytest.raises(InputError, match="weight_decay"):
        nn.ops.sgd(param, grad, 0.1, weight_decay=-1.0)
    with pytest.raises(ShapeError):
        nn.ops.sgd(param, np.ones(4), 0.1)
    with pytest.raises(DTypeError, match="in place"):
        nn.ops.sgd([1.0, 2.0], np.ones(2), 0.1)


# --- clipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_clip_by_value_follows_pytorch_and_keeps_nan(backend):
    torch = pytest.importorskip("torch")
    grad = np.array([-3.0, -0.5, 0.0, 0.5, 3.0, np.inf, -np.inf, np.nan])
    theirs = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    theirs.grad = torch.tensor(grad)
    torch.nn.utils.clip_grad_value_([theirs], 0.7)
    nn.ops.clip_by_value.on(nn.get_backend(backend), grad, limit=0.7)
    np.testing.assert_array_equal(grad, theirs.grad.numpy())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_clip_by_global_norm_follows_pytorch(backend, max_norm):
    torch = pytest.importorskip("torch")
    grad = np.random.default_rng(3).standard_normal(20_000)
    theirs = torch.zeros(grad.size, dtype=torch.float64, requires_grad=True)
    theirs.grad = torch.tensor(grad)
    expected = torch.nn.utils.clip_grad_norm_([theirs], max_norm).item()
    norm, _ = nn.ops.clip_by_global_norm.on(nn.get_backend(backend), grad, max_norm=max_norm)
    assert norm.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_norm_of_extreme_float32_gradients_is_right(size):
    grad = np.full(10_000, size, np.float32)
    norm, clipped = nn.ops.clip_by_global_norm(grad, max_norm=1.0)
    assert norm.item() == pytest.approx(100 * size, rel=1e-6)
    assert clipped is grad
    np.testing.assert_allclose(grad, 0.01 if size > 1 else size, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_that_is_not_finite_stays_so(backend, bad):
    grad = np.array([1.0, bad, 2.0], np.float32)
    norm, _ = nn.ops.clip_by_global_norm.on(nn.get_backend(backend), grad, max_norm=1.0)
    np.testing.assert_equal(norm.item(), bad)
    assert np.isnan(grad[1])


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), max_size=30),
    st.floats(1e-3, 1e3),
)
def test_a_clipped_gradient_keeps_its_direction_and_the_limit(values, max_norm):
    grad = np.array(values, np.float64)
    before = grad.copy()
    norm, _ = nn.ops.clip_by_global_norm(grad, max_norm=max_norm)
    assert np.linalg.norm(grad) <= max_norm * (1 + 1e-12)
    assert norm.item() == pytest.approx(np.linalg.norm(before), rel=1e-12)
    factor = min(1.0, max_norm / (norm.item() + 1e-6))
    np.testing.assert_allclose(grad, before * factor, rtol=1e-12)
