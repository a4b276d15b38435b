"""Losses against PyTorch, mpmath, finite differences, printed figures and extreme inputs."""

from __future__ import annotations

import numpy as np
import pytest

import nnkernels
from nnkernels import ops
from nnkernels.errors import LabelError, ShapeError, UnknownNameError
from nnkernels.spec import get_op

ROWS, CLASSES = 4, 5
REDUCTIONS = ["mean", "sum"]

REGRESSION = ["mse", "mae", "huber", "sum_squared_error"]
BINARY = ["binary_cross_entropy", "binary_cross_entropy_with_logits"]
CATEGORICAL = ["categorical_cross_entropy", "nll_loss", "softmax_cross_entropy"]


def cases():
    """Name, parameters and kind of target."""
    for name in [*REGRESSION, *BINARY, *CATEGORICAL]:
        targets = ("labels", "rows") if name in CATEGORICAL else ("pair",)
        for target in targets:
            if name == "sum_squared_error":
                yield name, {}, target
                continue
            for reduction in REDUCTIONS:
                yield name, {"reduction": reduction}, target
    yield "huber", {"reduction": "mean", "delta": 0.4}, "pair"


ALL = list(cases())
IDS = ["-".join([name, *map(str, params.values()), target]) for name, params, target in ALL]


def draw(rng, name, target):
    """A prediction and a target that fit the loss."""
    x = rng.normal(size=(ROWS, CLASSES))
    rows = rng.dirichlet(np.ones(CLASSES), ROWS)
    if name == "binary_cross_entropy":
        return rng.uniform(0.01, 0.99, x.shape), rng.random(x.shape)
    if name == "binary_cross_entropy_with_logits":
        return 3 * x, rng.random(x.shape)
    if name in CATEGORICAL:
        x = {"categorical_cross_entropy": rows, "nll_loss": np.log(rows)}.get(name, 3 * x)
        labels = rng.integers(0, CLASSES, ROWS)
        return x, labels if target == "labels" else rng.dirichlet(np.ones(CLASSES), ROWS)
    return x, rng.normal(size=x.shape)


def loss_and_gradient(name, params, pred, target, grad):
    operator = get_op(name)
    results = operator.evaluate(pred, target, **operator.full_params(params))
    first = results[1] if name == "softmax_cross_entropy" else pred
    derivative = operator.derivative
    gradient = derivative.evaluate(
        np.asarray(grad), first, target, **derivative.full_params(params)
    )
    return float(results[0]), gradient[0]


# --- PyTorch -----------------------------------------------------------------------------------


def torch_loss(torch, name, params, x, t):
    functional = torch.nn.functional
    if name == "sum_squared_error":
        return (x - t).square().sum() / len(x)
    if name in ("categorical_cross_entropy", "nll_loss"):
        logs = x.log() if name == "categorical_cross_entropy" else x
        if t.ndim == 1:
            return functional.nll_loss(logs, t, **params)
        total = -(t * logs).sum()
        return total / len(x) if params["reduction"] == "mean" else total
    twin = {"mse": "mse_loss", "mae": "l1_loss", "huber": "huber_loss"}
    twin["softmax_cross_entropy"] = "cross_entropy"
    return getattr(functional, twin.get(name, name))(x, t, **params)


@pytest.mark.parametrize(("name", "params", "target"), ALL, ids=IDS)
def test_a_hundred_float64_draws_agree_with_pytorch(name, params, target):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for _ in range(100):
        x, t = draw(rng, name, target)
        grad = rng.normal()
        pred = torch.tensor(x, requires_grad=True)
        expected = torch_loss(torch, name, params, pred, torch.tensor(t))
        expected.backward(torch.tensor(grad, dtype=torch.float64))
        loss, gradient = loss_and_gradient(name, params, x, t, grad)
        assert loss == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
        np.testing.assert_allclose(gradient, pred.grad.numpy(), rtol=1e-12, atol=1e-12)


# --- finite differences ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "params", "target"), ALL, ids=IDS)
def test_derivatives_agree_with_central_differences(name, params, target):
    rng = np.random.default_rng(13)
    x, t = draw(rng, name, target)
    direction = rng.normal(size=x.shape) * (0.1 if name == "categorical_cross_entropy" else 1)
    _, gradient = loss_and_gradient(name, params, x, t, 1.7)
    h = 1e-6
    high, low = (loss_and_gradient(name, params, x + s * h * direction, t, 1.0)[0] for s in (1, -1))
    wanted = 1.7 * (high - low) / (2 * h)
    assert (gradient * direction).sum() == pytest.approx(wanted, rel=1e-6, abs=1e-8)


def test_targets_that_do_not_add_up_to_one_have_the_right_gradient():
    rng = np.random.default_rng(17)
    x, t, direction = rng.normal(size=(3, 2, 4))
    _, gradient = loss_and_gradient("softmax_cross_entropy", {}, x, np.abs(t), 1.0)
    h = 1e-6
    high, low = (
        loss_and_gradient("softmax_cross_entropy", {}, x + s * h * direction, np.abs(t), 1.0)[0]
        for s in (1, -1)
    )
    assert (gradient * direction).sum() == pytest.approx((high - low) / (2 * h), rel=1e-6)


# --- mpmath ------------------------------------------------------------------------------------


def reference_loss(name, pred, target):
    operator = get_op(name)
    return float(operator.evaluate(pred, target, **operator.full_params({}))[0])


LOGITS = np.concatenate([-np.logspace(-6, 2, 25), np.logspace(-6, 2, 25)])


@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_cross_entropy_with_logits_is_exact_in_the_tails(target):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(100):
        for x in map(float, LOGITS):
            p = 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
            wanted = float(-target * mpmath.log(p) - (1 - target) * mpmath.log(1 - p))
            name = "binary_cross_entropy_with_logits"
            got = reference_loss(name, np.array([[x]]), np.array([[target]]))
            assert got == pytest.approx(wanted, rel=4e-16, abs=0)


def test_cross_entropy_of_probabilities_agrees_with_mpmath():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        for p in map(
            float, np.concatenate([np.logspace(-40, -1e-9, 25), 1 - np.logspace(-9, -1, 25)])
        ):
            wanted = float(-0.75 * mpmath.log(p) - 0.25 * mpmath.log(1 - mpmath.mpf(p)))
            got = reference_loss("binary_cross_entropy", np.array([[p]]), np.array([[0.75]]))
            assert got == pytest.approx(wanted, rel=4e-16)


def test_softmax_cross_entropy_agrees_with_mpmath():
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(2)
    with mpmath.workdps(100):
        for _ in range(50):
            x = rng.choice([-1, 1], 4) * 10 ** rng.uniform(-6, 2, 4)
            total = mpmath.fsum(mpmath.exp(mpmath.mpf(float(v))) for v in x)
            wanted = float(mpmath.log(total) - mpmath.mpf(float(x[2])))
            got = reference_loss("softmax_cross_entropy", x[None], np.array([2]))
            assert got == pytest.approx(wanted, rel=4e-16, abs=4e-16)


# --- printed figures and extreme inputs --------------------------------------------------------


@pytest.mark.parametrize("target", [np.array([1]), np.array([[0.0, 1.0, 0.0]])])
def test_the_printed_cross_entropy_of_one_row(target):
    probs = np.array([[0.2, 0.3, 0.5]])
    assert ops.categorical_cross_entropy(probs, target) == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_a_probability_of_zero_costs_a_hundred(backend):
    probs, yes = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    with nnkernels.use(backend):
        assert ops.binary_cross_entropy(probs, yes) == 100
        assert ops.binary_cross_entropy(yes, yes) == 0
        assert ops.categorical_cross_entropy(probs, np.array([0])) == 100
        gradient = ops.binary_cross_entropy_backward(np.array(1.0), probs, yes)
        np.testing.assert_allclose(gradient, [[-0.5e12, 0.5e12]])
        gradient = ops.categorical_cross_entropy_backward(np.array(1.0), probs, np.array([0]))
        np.testing.assert_allclose(gradient, [[-1e12, 0]])


@pytest.mark.parametrize("backend", ["numpy", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [100.0, 1e30])
def test_losses_of_huge_logits_are_finite(size, dtype, backend):
    logits = np.array([[size, -size], [-size, size]], dtype)
    with nnkernels.use(backend):
        loss, probs = ops.softmax_cross_entropy(logits, np.array([0, 0]))
        assert loss == pytest.approx(size, rel=1e-6)
        np.testing.assert_allclose(probs, np.eye(2), atol=1e-80)
        binary = ops.binary_cross_entropy_with_logits(logits, np.eye(2, dtype=dtype))
        assert binary == pytest.approx(0, abs=1e-40)
        wrong = ops.binary_cross_entropy_with_logits(logits, 1 - np.eye(2, dtype=dtype))
        assert wrong == pytest.approx(size, rel=1e-6)


def test_nan_in_the_prediction_reaches_every_loss():
    rng = np.random.default_rng(1)
    for name, params, target in ALL:
        x, t = draw(rng, name, target)
        for backend in ("numpy", "reference"):
            bad = np.full_like(x, np.nan)
            result = get_op(name).on(nnkernels.get_backend(backend), bad, t, **params)
            assert np.isnan(result[0] if isinstance(result, tuple) else result)


# --- composition -------------------------------------------------------------------------------


def doubled_log_softmax(x):
    """Twice what it should be."""
    shifted = x - x.max(-1, keepdims=True)
    return 2 * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


@pytest.mark.parametrize("target", ["labels", "rows"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_swapped_log_softmax_changes_the_fused_loss(reduction, target):
    x, t = draw(np.random.default_rng(4), "softmax_cross_entropy", target)
    numpy = nnkernels.get_backend("numpy")
    fused, probs = numpy.softmax_cross_entropy(x, t, reduction=reduction)
    swapped = numpy.replace(log_softmax=doubled_log_softmax)
    double, same = swapped.softmax_cross_entropy(x, t, reduction=reduction)
    assert double == pytest.approx(2 * fused)
    np.testing.assert_allclose(same, probs)


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATEGORICAL)
def test_a_label_out_of_range_is_named(name):
    x, _ = draw(np.random.default_rng(0), name, "labels")
    with pytest.raises(LabelError, match=rf"{name}: target\[2\] is 5"):
        get_op(name)(x, np.array([0, 1, CLASSES, 2]))


@pytest.mark.parametrize(("name", "params", "target"), ALL, ids=IDS)
def test_a_batch_must_hold_a_row(name, params, target):
    x, t = draw(np.random.default_rng(0), name, target)
    with pytest.raises(ShapeError, match="at least one element"):
        get_op(name)(x[:0], t[:0], **params)


def test_an_unknown_reduction_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'mean'"):
        ops.mse(np.ones((2, 2)), np.ones((2, 2)), reduction="meen")
