import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnkernels as nn
from nnkernels.errors import InputError, ShapeError
from nnkernels.spec import get_op

BACKENDS = ("numpy", "reference")
SHAPES = [(2, 1), (7, 5), (32, 33), (128, 10)]


def close(got, want, tolerance=1e-12):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def draw(shape, width):
    rng = np.random.default_rng(4)
    x, grad = rng.standard_normal((2, *shape))
    gamma, beta = rng.standard_normal((2, width))
    return x, grad, gamma, beta


def torch_normalised(kind, x, gamma, beta, grad, eps):
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    functional = torch.nn.functional
    if kind == "batch_norm":
        y = functional.batch_norm(tensors[0], None, None, *tensors[1:], training=True, eps=eps)
    else:
        y = functional.layer_norm(tensors[0], gamma.shape, *tensors[1:], eps=eps)
    y.backward(torch.tensor(grad))
    return y.detach().numpy(), [t.grad.numpy() for t in tensors]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_values_and_gradients_follow_pytorch(backend, kind, shape, eps):
    chosen = nn.get_backend(backend)
    x, grad, gamma, beta = draw(shape, shape[-1])
    expected, gradients = torch_normalised(kind, x, gamma, beta, grad, eps)
    y, mean, variance = get_op(kind).on(chosen, x, gamma, beta, eps=eps)
    close(y, expected)
    axis = 0 if kind == "batch_norm" else -1
    close(mean, x.mean(axis))
    close(variance, x.var(axis))
    backward = get_op(f"{kind}_backward")
    got = backward.on(chosen, grad, x, gamma, mean, variance, eps=eps)
    for ours, theirs in zip(got, gradients, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(6,), (3, 4, 6), (0, 6), (2, 0, 6)])
def test_layer_norm_takes_any_leading_dimensions(backend, shape):
    chosen = nn.get_backend(backend)
    x, grad, gamma, beta = draw(shape, 6)
    expected, gradients = torch_normalised("layer_norm", x, gamma, beta, grad, 1e-5)
    y, mean, variance = nn.ops.layer_norm.on(chosen, x, gamma, beta)
    assert mean.shape == variance.shape == shape[:-1]
    close(y, expected)
    got = nn.ops.layer_norm_backward.on(chosen, grad, x, gamma, mean, variance)
    for ours, theirs in zip(got, gradients, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_running_statistics_and_inference_follow_pytorch(backend, momentum):
    torch = pytest.importorskip("torch")
    chosen = nn.get_backend(backend)
    module = torch.nn.BatchNorm1d(5, momentum=momentum, dtype=torch.float64)
    running_mean, running_var = np.zeros(5), np.ones(5)
    gamma, beta = np.ones(5), np.zeros(5)
    rng = np.random.default_rng(5)
    for rows in (2, 3, 32):
        x = rng.standard_normal((rows, 5)) * 3 + 1
        module(torch.tensor(x))
        _, mean, variance = nn.ops.batch_norm.on(chosen, x, gamma, beta)
        nn.ops.update_running_statistics.on(
            chosen, running_mean, running_var, mean, variance, rows=rows, momentum=momentum
        )
        close(running_mean, module.running_mean.numpy())
        close(running_var, module.running_var.numpy())
    module.eval()
    y = nn.ops.batch_norm_inference.on(chosen, x, gamma, beta, running_mean, running_var)
    close(y, module(torch.tensor(x)).detach().numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_of_one_row_gives_beta_and_keeps_the_running_variance(backend):
    chosen = nn.get_backend(backend)
    x, gamma, beta = np.array([[3.0, -4.0]]), np.ones(2), np.array([0.5, 2.0])
    y, mean, variance = nn.ops.batch_norm.on(chosen, x, gamma, beta)
    np.testing.assert_array_equal(y, [beta])
    grads = nn.ops.batch_norm_backward.on(chosen, np.ones((1, 2)), x, gamma, mean, variance)
    np.testing.assert_array_equal(grads[0], 0)
    running_mean, running_var = np.zeros(2), np.array([1.0, 2.0])
    nn.ops.update_running_statistics.on(chosen, running_mean, running_var, mean, variance, rows=1)
    close(running_mean, 0.1 * x[0])
    np.testing.assert_array_equal(running_var, [1, 2])


def test_variance_of_columns_far_from_zero_does_not_cancel():
    x = (1e4 + np.random.default_rng(6).standard_normal((256, 3))).astype(np.float32)
    _, _, variance = nn.ops.batch_norm(x, np.ones(3, np.float32), np.zeros(3, np.float32))
    np.testing.assert_allclose(variance, x.astype(np.float64).var(0), rtol=1e-4)


@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_forward_and_backward_keep_the_contract(kind, dtype, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x, grad = (rng.standard_normal((2, rows, columns)) * 10.0 ** rng.uniform(-6, 2)).astype(dtype)
    gamma, beta = rng.standard_normal((2, columns)).astype(dtype)
    results = check_contract(kind, x, gamma, beta)
    check_contract(f"{kind}_backward", grad, x, gamma, *results[1:])


def test_no_columns_are_no_work():
    x, none = np.ones((5, 0), np.float32), np.ones(0, np.float32)
    results = check_contract("batch_norm", x, none, none)
    check_contract("batch_norm_backward", x, x, none, *results[1:])


def check_contract(name, *inputs):
    op = get_op(name)
    results = op.on(nn.get_backend("numpy"), *inputs)
    wide = tuple(a.astype(np.float64) for a in inputs)
    expected = op.evaluate(*wide, **op.params)
    bounds = op.error.bound(expected, wide, op.params, inputs[0].dtype)
    for got, want, bound in zip(results, expected, bounds, strict=True):
        assert got.dtype == inputs[0].dtype
        assert (np.abs(got - want) <= bound).all()
    return results


@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("skipped", [{0}, {1}, {2}, {1, 2}, {0, 1}])
def test_results_that_are_not_wanted_change_no_others(kind, skipped):
    x, grad, gamma, beta = draw((7, 5), 5)
    forward = get_op(kind)(x, gamma, beta)
    arguments = {kind: (x, gamma, beta), f"{kind}_backward": (grad, x, gamma, *forward[1:])}
    for name, inputs in arguments.items():
        full = get_op(name)(*inputs)
        outs = tuple(None if i in skipped else np.empty_like(a) for i, a in enumerate(full))
        get_op(name)(*inputs, out=outs)
        for got, want in zip(outs, full, strict=True):
            assert got is None or np.array_equal(got, want)


@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm"])
def test_nan_reaches_its_group_and_no_other(kind):
    x, _, gamma, beta = draw((4, 3), 3)
    x[1, 2] = np.nan
    y = get_op(kind)(x, gamma, beta)[0]
    expected = np.zeros((4, 3), bool)
    expected[(slice(None), 2) if kind == "batch_norm" else (1, slice(None))] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_bad_arguments_are_refused():
    one = np.ones(3)
    with pytest.raises(ShapeError, match="batch_norm"):
        nn.ops.batch_norm(np.ones((0, 3)), one, one)
    with pytest.raises(ShapeError, match="gamma"):
        nn.ops.layer_norm(np.ones((2, 4)), one, one)
    with pytest.raises(InputError, match="eps"):
        nn.ops.batch_norm(np.ones((2, 3)), one, one, eps=0.0)
    with pytest.raises(InputError, match="rows"):
        nn.ops.update_running_statistics(one.copy(), one.copy(), one, one, rows=0)
