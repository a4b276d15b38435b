"""Expanding and fusing: a swapped kernel is never bypassed, and what explain says is what runs."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels
from nnkernels import Kernel
from nnkernels.errors import KernelMissingError
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import Step, predict_program, train_program
from nnkernels.program import Builder, State, specialise
from nnkernels.program.rewrite import expand, fuse, why_not_fused
from nnkernels.spec import get_op

X = np.random.default_rng(0).normal(size=(6, 4))
Y = np.array([0, 1, 2, 0, 1, 2])


def doubled_relu(x, *, out):
    np.maximum(x, 0, out=out)
    np.multiply(out, 2, out=out)


def doubled_matmul(a, b, *, transpose_a, transpose_b, out):
    np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out=out)
    np.multiply(out, 2, out=out)


def fused(x, w, b, *, activation, out):
    """A fused kernel that can be told from its parts: it adds 100."""
    y, z = out
    linear = x @ w + b
    y[...] = get_op(activation).reference(linear) + 100
    if z is not None:
        z[...] = linear


@pytest.fixture
def fusing(numpy_backend):
    kernels = {**numpy_backend.kernels, "linear_activation": Kernel(fused, owner="numpy")}
    return replace(numpy_backend, kernels=kernels)


def keeping_identity(backend):
    """``backend``, not fusing the output's identity with the last layer."""
    return backend.replace(identity=plain_identity)


def plain_identity(x, *, out):
    np.copyto(out, x)


def model(**options) -> MLP:
    return MLP([4, 5, 3], dtype="float64", seed=1, **options)


def run(program, network, backend, **fed):
    state = State(program.layout, backend.device)
    for name, array in network.parameters.items():
        state.set(name, array)
    executable = backend.bind(program, state)
    executable.feed(**fed)
    assert executable.run(1) == 1
    return executable, state


def outputs(network, backend):
    result = np.empty((6, network.outputs))
    run(predict_program(network, 6, link=None), network, backend, x=X, prediction=result)
    return result


def forward(network, slope=1.0, product=1.0):
    w1, b1, w2, b2 = network.parameters.values()
    hidden = slope * np.maximum(product * X @ w1 + b1, 0)
    return product * hidden @ w2 + b2


def forward_fused(network):
    """Both layers on :func:`fused`: the second one's activation is the output's identity."""
    w1, b1, w2, b2 = network.parameters.values()
    return (np.maximum(X @ w1 + b1, 0) + 100) @ w2 + b2 + 100


def names(program):
    return [i.op for i in program.instructions]


@pytest.mark.parametrize("base", ["numpy", "reference", "fusing"])
def test_a_swapped_relu_changes_every_executor(base, fusing):
    backend = keeping_identity(fusing) if base == "fusing" else nnkernels.get_backend(base)
    network = model()
    swapped = backend.replace(relu=doubled_relu)
    np.testing.assert_allclose(outputs(network, swapped), forward(network, slope=2), rtol=1e-13)


@pytest.mark.parametrize("base", ["numpy", "reference", "fusing"])
def test_a_swapped_matmul_changes_linear(base, fusing):
    backend = keeping_identity(fusing) if base == "fusing" else nnkernels.get_backend(base)
    network = model()
    swapped = backend.replace(matmul=doubled_matmul)
    np.testing.assert_allclose(outputs(network, swapped), forward(network, product=2), rtol=1e-13)


@pytest.mark.parametrize("base", ["numpy", "reference"])
def test_a_swapped_matmul_changes_linear_backward(base):
    network = MLP([4, 3], loss="mse", dtype="float64")
    target = np.zeros((6, 3))
    program = train_program(network, 6, Step())
    plain, swapped = (
        run(program, network, backend, x=X, y=target)[1]
        for backend in (
            nnkernels.get_backend(base),
            nnkernels.get_backend(base).replace(matmul=doubled_matmul),
        )
    )
    # The bias starts at 0: the output doubles, so does its gradient, and X^T G doubles again.
    weight, bias = "linear0.weight.gradient", "linear0.bias.gradient"
    np.testing.assert_allclose(swapped.get(weight), 4 * plain.get(weight), rtol=1e-13)
    np.testing.assert_allclose(swapped.get(bias), 2 * plain.get(bias), rtol=1e-13)


def test_a_fused_kernel_is_used_when_all_it_covers_has_one_owner(fusing):
    network = model()
    assert "linear_activation" in names(fuse(predict_program(network, 6, link=None), fusing))
    np.testing.assert_allclose(outputs(network, fusing), forward_fused(network), rtol=1e-13)


@pytest.mark.parametrize("swap", [{"relu": doubled_relu}, {"matmul": doubled_matmul}])
def test_a_fused_kernel_is_left_when_a_part_is_swapped(fusing, swap):
    program = predict_program(model(), 6, link=None)
    swapped = keeping_identity(fusing).replace(**swap)
    assert "linear_activation" not in names(specialise(program, swapped))


def test_a_swapped_fused_kernel_is_used_whatever_it_covers(numpy_backend):
    swapped = numpy_backend.replace(linear_activation=fused, relu=doubled_relu)
    network = model()
    np.testing.assert_allclose(outputs(network, swapped), forward_fused(network), rtol=1e-13)


def test_a_foreign_fused_kernel_is_not_used(numpy_backend):
    kernels = {**numpy_backend.kernels, "linear_activation": Kernel(fused, owner="stranger")}
    backend = replace(numpy_backend, kernels=kernels)
    assert "linear_activation" not in names(
        specialise(predict_program(model(), 6, link=None), backend)
    )


def test_fusing_keeps_the_sum_that_the_derivative_reads(fusing):
    network = model(activation="gelu")
    program = fuse(train_program(network, 6, Step(labels=True)), fusing)
    (layer,) = [i for i in program.instructions if i.op == "linear_activation"]
    (backward,) = [i for i in program.instructions if i.op == "gelu_backward"]
    assert layer.outputs[1] is not None
    assert layer.outputs[1] in backward.inputs


def test_fusing_drops_the_sum_that_nobody_reads(fusing):
    program = fuse(train_program(model(), 6, Step(labels=True)), fusing)
    (layer,) = [i for i in program.instructions if i.op == "linear_activation"]
    assert layer.outputs[1] is None


def reason(backend, activation="relu", between=(), **params):
    b = Builder(2)
    z = b.call("linear", b.input("x", (2, 3)), b.parameter("w", (3, 3)), b.parameter("b", (3,)))
    for name in between:
        z = b.call(name, z)
    b.call(activation, z, **params)
    return why_not_fused(*b.instructions[-2:], backend)


def test_reasons_against_fusing(fusing, numpy_backend):
    assert reason(fusing) is None
    assert reason(fusing, between=["tanh"]) == ""
    assert "elementwise" in reason(fusing, "softmax")
    assert "parameters" in reason(fusing, "leaky_relu", slope=0.3)
    assert "relu" in reason(fusing.replace(relu=doubled_relu))
    assert "linear" in reason(fusing.replace(matmul=doubled_matmul))


def test_an_activation_of_the_update_phase_is_not_fused(fusing):
    b = Builder(2)
    z = b.call("linear", b.input("x", (2, 3)), b.parameter("w", (3, 3)), b.parameter("b", (3,)))
    with b.update_phase():
        b.call("relu", z)
    assert why_not_fused(*b.instructions, fusing) == ""


def test_a_backend_without_a_kernel_is_refused_before_anything_runs(numpy_backend):
    kernels = {k: v for k, v in numpy_backend.kernels.items() if k != "relu"}
    bare = replace(numpy_backend, kernels=kernels, fallback=None)
    program = predict_program(model(), 6, link=None)
    with pytest.raises(KernelMissingError, match="relu"):
        bare.bind(program, State(program.layout, bare.device))


def test_gradients_that_nobody_wants_are_not_computed(numpy_backend):
    swapped = numpy_backend.replace(matmul=doubled_matmul)
    program = expand(train_program(MLP([4, 3]), 6, Step(labels=True)), swapped)
    # Forward and the weight's gradient; none for the input's.
    assert names(program).count("matmul") == 2


def traced(backend, log):
    """``backend`` with every kernel noting its operator; wrapped, so that it is still found."""

    def note(name, function):
        @functools.wraps(function)
        def kernel(*args, **kwargs):
            log.append((name, nnkernels.backend.function_name(function)))
            function(*args, **kwargs)

        return kernel

    kernels = {n: replace(k, function=note(n, k.function)) for n, k in backend.kernels.items()}
    return replace(backend, kernels=kernels)


@pytest.mark.parametrize(
    "swap",
    [{}, {"relu": doubled_relu}, {"matmul": doubled_matmul}, {"linear_activation": fused}],
    ids=["plain", "relu", "matmul", "fused"],
)
def test_explain_lists_what_runs(numpy_backend, swap):
    log: list[tuple[str, str]] = []
    swapped = traced(numpy_backend.replace(**swap), log)
    backend = replace(swapped, fallback=None)
    network = model(l2=0.1)
    step = Step(Adam(), ("accuracy",), labels=True, clip_norm=1.0)
    program = train_program(network, 6, step)
    run(program, network, backend, x=X, y=Y)
    choices = nnkernels.explain(program, backend)
    assert log == [(c.op, c.kernel) for c in choices]
    assert all(c.file.endswith(".py") and c.line > 0 for c in choices)


ACTIVATIONS = st.sampled_from(["relu", "tanh", "sigmoid", "gelu", "softmax", "elu"])
LAYERS = st.lists(st.tuples(st.integers(1, 6), ACTIVATIONS), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(LAYERS, st.sampled_from([None, "batch", "layer"]))
def test_expanding_changes_no_result(layers, norm):
    """Composed of matmul and bias_add, a network computes what its whole layers compute."""
    numpy_backend = nnkernels.get_backend("numpy")

    def plain_matmul(a, b, *, transpose_a, transpose_b, out):
        np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out=out)

    sizes, activations = zip(*layers, strict=True)
    network = MLP([4, *sizes, 3], activation=activations, norm=norm, dtype="float64", seed=4)
    program = train_program(network, 6, Step(Adam(), labels=True))
    _, whole = run(program, network, numpy_backend, x=X, y=Y)
    _, split = run(program, network, numpy_backend.replace(matmul=plain_matmul), x=X, y=Y)
    for name in network.parameters:
        gradient = f"{name}.gradient"
        np.testing.assert_allclose(whole.get(gradient), split.get(gradient), rtol=1e-9, atol=1e-12)
