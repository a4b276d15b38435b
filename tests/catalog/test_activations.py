"""Activations against PyTorch, mpmath, finite differences and their declared special values."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import nnkernels
from nnkernels import ops
from nnkernels.errors import InputError, ShapeError, UnknownNameError
from nnkernels.spec import OPERATORS, Error, get_op, op

CASES = [
    ("identity", {}),
    ("step", {}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("relu", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"slope": 2.5}),
    ("leaky_relu", {"slope": 0.0}),
    ("elu", {}),
    ("elu", {"alpha": 1.7}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("softplus", {}),
    ("softplus", {"beta": 0.7}),
    ("softmax", {}),
    ("log_softmax", {}),
]
IDS = [name + "".join(f"-{v}" for v in params.values()) for name, params in CASES]
FLOATS = ["float32", "float64"]


def forward_and_backward(name, params, x, grad):
    """Outputs of the public operator and of its derivative."""
    operator = get_op(name)
    y = operator(x, **params)
    saved = [{"x": x, "y": y}[s] for s in operator.saves]
    return y, operator.derivative(grad, *saved, **params)


# --- PyTorch -----------------------------------------------------------------------------------


def torch_twin(torch, name, params):
    functional = torch.nn.functional
    return {
        "identity": lambda x: x * 1,
        "step": lambda x: torch.heaviside(x.detach(), torch.zeros((), dtype=x.dtype)) + 0 * x,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": lambda x: functional.leaky_relu(x, params.get("slope", 0.01)),
        "elu": lambda x: functional.elu(x, **params),
        "gelu": lambda x: functional.gelu(x, **params),
        "silu": functional.silu,
        "softplus": lambda x: functional.softplus(x, **params),
        "softmax": lambda x: torch.softmax(x, -1),
        "log_softmax": lambda x: torch.log_softmax(x, -1),
    }[name]


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_a_hundred_float64_draws_agree_with_pytorch(name, params):
    torch = pytest.importorskip("torch")
    twin = torch_twin(torch, name, params)
    rng = np.random.default_rng(7)
    for _ in range(100):
        x, grad = rng.normal(0, 3, (3, 5)), rng.normal(size=(3, 5))
        t = torch.tensor(x, requires_grad=True)
        expected = twin(t)
        expected.backward(torch.tensor(grad))
        y, gradient = forward_and_backward(name, params, x, grad)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_softplus_is_exact_beyond_pytorchs_threshold():
    torch = pytest.importorskip("torch")
    x = np.array([20.5, 25.0, 30.0])
    linear = torch.nn.functional.softplus(torch.tensor(x)).numpy()
    np.testing.assert_array_equal(linear, x)
    difference = ops.softplus(x) - x
    np.testing.assert_allclose(difference, np.exp(-x), rtol=0, atol=1e-14)


# --- mpmath ------------------------------------------------------------------------------------

POINTS = np.concatenate([
    -np.logspace(-6, 2, 24), [0.0, -9.0, -37.5, -700.0, 36.7, 710.0], np.logspace(-6, 2, 24)
])  # fmt: skip


def exact(mp, name, params):
    """The function and its derivative in arbitrary precision, written as in the textbook."""

    def logistic(v):
        return 1 / (1 + mp.exp(-v))

    alpha, beta = params.get("alpha", 1), mp.mpf(params.get("beta", 1.0))
    if params.get("approximate") == "tanh":
        root = mp.sqrt(2 / mp.pi)
        cubic = mp.mpf("0.044715")
        return lambda x: x / 2 * (1 + mp.tanh(root * (x + cubic * x**3)))
    return {
        "sigmoid": logistic,
        "tanh": mp.tanh,
        "elu": lambda x: x if x > 0 else alpha * (mp.exp(x) - 1),
        "gelu": lambda x: x / 2 * (1 + mp.erf(x / mp.sqrt(2))),
        "silu": lambda x: x * logistic(x),
        "softplus": lambda x: mp.log(1 + mp.exp(beta * x)) / beta,
    }[name]


SMOOTH = [
    case
    for case in zip(CASES, IDS, strict=True)
    if case[0][0] in ("sigmoid", "tanh", "elu", "gelu", "silu", "softplus")
]


def within(operator, got, wanted, inputs, params):
    """Whether ``got`` keeps the operator's own float64 bound around ``wanted``."""
    full = operator.full_params(params)
    (bound,) = operator.error.bound((wanted,), inputs, full, np.dtype("float64"))
    return np.abs(got - wanted) <= bound


@pytest.mark.parametrize(("name", "params"), [c for c, _ in SMOOTH], ids=[i for _, i in SMOOTH])
def test_the_reference_is_exact_in_the_tails(name, params):
    mpmath = pytest.importorskip("mpmath")
    operator = get_op(name)
    with mpmath.workdps(1200):  # 1 + erf(-700 / sqrt 2) needs all of them
        function = exact(mpmath.mp, name, params)
        points = [mpmath.mpf(float(x)) for x in POINTS]
        wanted = np.array([float(function(x)) for x in points])
    (got,) = operator.evaluate(POINTS, **operator.full_params(params))
    assert within(operator, got, wanted, (POINTS,), params).all()


@pytest.mark.parametrize(("name", "params"), [c for c, _ in SMOOTH], ids=[i for _, i in SMOOTH])
def test_the_derivative_is_exact_in_the_tails(name, params):
    mpmath = pytest.importorskip("mpmath")
    operator = get_op(name)
    points = POINTS[np.abs(POINTS) < 40]
    with mpmath.workdps(800):
        function = exact(mpmath.mp, name, params)
        h = mpmath.mpf(10) ** -20  # error of the central difference: h², relative to everything
        slopes = [
            (function(x + h) - function(x - h)) / (2 * h) if x else mpmath.diff(function, 0)
            for x in (mpmath.mpf(float(p)) for p in points)
        ]
    away = points != 0  # elu's one-sided slopes differ at 0
    full = operator.full_params(params)
    saved = {"x": points, "y": operator.evaluate(points, **full)[0]}
    if operator.saves == ("y",):  # the derivative is exact for the rounded y, not for x
        away &= np.abs(points) < 1
    wanted = np.array([float(s) for s in slopes])
    inputs = (np.ones_like(points), saved[operator.saves[0]])
    (got,) = operator.derivative.evaluate(*inputs, **full)
    assert within(operator.derivative, got, wanted, inputs, params)[away].all()


def softmax_exactly(mp, row):
    exps = [mp.exp(mp.mpf(float(v))) for v in row]
    total = mp.fsum(exps)
    return [float(e / total) for e in exps], [float(mp.log(e / total)) for e in exps]


def test_softmax_and_its_logarithm_agree_with_mpmath():
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(3)
    x = rng.choice([-1, 1], (10, 5)) * 10 ** rng.uniform(-6, 2, (10, 5))
    with mpmath.workdps(120):
        rows = [softmax_exactly(mpmath.mp, row) for row in x]
    for position, name in enumerate(("softmax", "log_softmax")):
        wanted = np.array([row[position] for row in rows])
        (got,) = get_op(name).evaluate(x)
        assert within(get_op(name), got, wanted, (x,), {}).all()


def test_the_bound_refuses_gelu_by_one_plus_erf():
    from scipy.special import erf

    x = np.array([-9.0, -7.3])
    wanted = get_op("gelu").evaluate(x, approximate="none")[0]
    naive = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    assert not within(get_op("gelu"), naive, wanted, (x,), {}).any()


# --- special values and kinks ------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "reference"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_special_values_hold(name, dtype, backend):
    for point, value in get_op(name).special:
        x = np.full((2, 3), point, dtype)
        with nnkernels.use(backend):
            np.testing.assert_array_equal(get_op(name)(x), np.full((2, 3), value, dtype))


@pytest.mark.parametrize("backend", ["numpy", "reference"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_large_inputs_stay_finite(name, params, size, dtype, backend):
    x = np.array([[size, -size, 0.0]], dtype)
    with nnkernels.use(backend):
        for array in forward_and_backward(name, params, x, np.ones_like(x)):
            assert np.isfinite(array).all()


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_slopes_at_the_kink_are_those_of_the_left(backend):
    x, grad = np.zeros(2), np.array([3.0, -3.0])
    with nnkernels.use(backend):
        for name, slope in (("relu", 0.0), ("leaky_relu", 0.01), ("step", 0.0), ("elu", 1.0)):
            np.testing.assert_array_equal(forward_and_backward(name, {}, x, grad)[1], slope * grad)


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_leaky_relu_of_slope_zero_is_relu_at_minus_infinity(backend):
    x = np.array([-np.inf, np.inf, np.nan])
    with nnkernels.use(backend):
        np.testing.assert_array_equal(ops.leaky_relu(x, slope=0), [0, np.inf, np.nan])


# --- finite differences ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_derivatives_agree_with_central_differences(name, params):
    rng = np.random.default_rng(11)
    x = rng.normal(0, 2, (6, 4))
    x[np.abs(x) < 0.01] = 0.5  # kinks
    grad, direction = rng.normal(size=x.shape), rng.normal(size=x.shape)
    _, gradient = forward_and_backward(name, params, x, grad)
    operator, h = get_op(name), 1e-6
    rise = operator(x + h * direction, **params) - operator(x - h * direction, **params)
    wanted = (grad * rise).sum() / (2 * h)
    assert (gradient * direction).sum() == pytest.approx(wanted, rel=1e-7, abs=1e-8)


# --- errors, shapes, growth --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("leaky_relu", {"slope": -0.1}),
        ("leaky_relu", {"slope": float("nan")}),
        ("elu", {"alpha": 0}),
        ("softplus", {"beta": -1}),
    ],
)
def test_a_parameter_out_of_range_is_refused(name, params):
    with pytest.raises(InputError, match=f"{name}: {next(iter(params))} must lie in"):
        get_op(name)(np.ones(3), **params)


def test_an_unknown_form_of_gelu_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'tanh'"):
        ops.gelu(np.ones(3), approximate="tanhh")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_row_must_hold_a_class(name):
    with pytest.raises(ShapeError, match="at least one element along c"):
        get_op(name)(np.ones((3, 0)))


def test_softmax_rows_add_up_to_one():
    x = np.random.default_rng(0).normal(0, 50, (2, 3, 7)).astype("float32")
    np.testing.assert_allclose(ops.softmax(x).sum(-1), 1, rtol=1e-6)


def test_an_activation_needs_no_other_file():
    try:

        @op("(...)->(...)", error=Error(1), saves=("x",))
        def square_for_test(x, *, out=None):
            """``x²``."""
            return x * x

        @square_for_test.backward(error=Error(1))
        def square_for_test_backward(grad, x, *, out=None):
            """``2 grad x``."""
            return 2 * grad * x

        y, gradient = forward_and_backward("square_for_test", {}, np.full(2, 3.0), np.ones(2))
        np.testing.assert_array_equal(np.stack([y, gradient]), [[9, 9], [6, 6]])
    finally:
        for name in ("square_for_test", "square_for_test_backward"):
            OPERATORS.pop(name, None)


def test_scipy_is_imported_only_for_gelu():
    code = (
        "import sys, numpy as np, nnkernels; nnkernels.ops.silu(np.ones(2));"
        "assert 'scipy' not in sys.modules; nnkernels.ops.gelu(np.ones(2));"
        "assert 'scipy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
