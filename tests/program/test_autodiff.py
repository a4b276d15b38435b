"""Reverse mode against central differences in float64."""

from __future__ import annotations

import numpy as np
import pytest

import nnkernels
from nnkernels.errors import ProgramError
from nnkernels.nn import MLP
from nnkernels.nn.lowering import gradient_program
from nnkernels.program import Builder, State, differentiate


def total(b: Builder, slot: int) -> int:
    """Half a sum of squares, so that every gradient is different."""
    return b.call("l2_penalty", slot, strength=0.5)


def skip_connection(b: Builder) -> int:
    x, w, bias = b.parameter("x", (4, 3)), b.parameter("w", (3, 3)), b.parameter("b", (3,))
    return total(b, b.call("add", x, b.call("tanh", b.call("linear", x, w, bias))))


def shared_weight(b: Builder) -> int:
    x, w, bias = b.parameter("x", (4, 3)), b.parameter("w", (3, 3)), b.parameter("b", (3,))
    first = b.call("sigmoid", b.call("linear", x, w, bias))
    return total(b, b.call("linear", first, w, bias))


def parameter_twice_in_one(b: Builder) -> int:
    a = b.parameter("a", (3, 3))
    return total(b, b.call("matmul", a, a))


def added_to_itself(b: Builder) -> int:
    x = b.parameter("x", (2, 3))
    y = b.call("tanh", x)
    return total(b, b.call("add", y, y))


def parameter_added_to_itself(b: Builder) -> int:
    x = b.parameter("x", (2, 3))
    return total(b, b.call("add", x, x))


def used_three_times(b: Builder) -> int:
    x = b.parameter("x", (2, 3))
    y = b.call("add", b.call("tanh", x), b.call("sigmoid", x))
    return total(b, b.call("add", y, x))


def diamond(b: Builder) -> int:
    x = b.parameter("x", (2, 3))
    root = b.call("tanh", x)
    left, right = b.call("softmax", root), b.call("gelu", root)
    return total(b, b.call("add", b.call("add", left, root), right))


def penalties(b: Builder) -> int:
    w = b.parameter("w", (3, 2))
    loss = b.call("add", total(b, b.call("tanh", w)), b.call("l1_penalty", w, strength=0.3))
    return b.call("add", loss, b.call("l2_penalty", w, strength=0.2))


def transposed(b: Builder) -> int:
    x, w = b.parameter("x", (2, 3)), b.parameter("w", (4, 3))
    return total(b, b.call("matmul", x, w, transpose_b=True))


GRAPHS = [
    skip_connection,
    shared_weight,
    parameter_twice_in_one,
    added_to_itself,
    parameter_added_to_itself,
    used_three_times,
    diamond,
    penalties,
    transposed,
]


@pytest.mark.parametrize("backend", ["numpy", "reference"])
@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
def test_gradients_agree_with_central_differences(make, backend, graph):
    built = graph(make, nnkernels.get_backend(backend))
    gradients = built.gradients()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, built.numerical(name), rtol=1e-6, atol=1e-7)


def test_gradients_do_not_add_up_over_steps(graph, numpy_backend):
    built = graph(used_three_times, numpy_backend)
    first = built.gradients()
    np.testing.assert_array_equal(built.gradients()["x"], first["x"])


def test_an_unused_parameter_has_gradient_zero(graph, numpy_backend):
    def make(b: Builder) -> int:
        b.parameter("idle", (2, 2))
        return total(b, b.parameter("x", (3,)))

    gradients = graph(make, numpy_backend).gradients()
    np.testing.assert_array_equal(gradients["idle"], np.zeros((2, 2)))
    assert gradients["x"].any()


def test_inputs_get_no_gradient():
    b = Builder(2, "float64")
    x = b.input("x", (2, 3))
    y = b.call("linear", x, b.parameter("w", (3, 1)), b.parameter("b", (1,)))
    differentiate(b, total(b, y))
    (backward,) = [i for i in b.instructions if i.op == "linear_backward"]
    assert backward.outputs[0] is None
    assert None not in backward.outputs[1:]


def test_a_loss_that_is_no_scalar_is_refused():
    b = Builder(2)
    x = b.parameter("x", (3,))
    with pytest.raises(ProgramError, match="scalar"):
        differentiate(b, b.call("relu", x))


def test_an_operator_without_derivative_passes_nothing_on(graph, numpy_backend):
    def make(b: Builder) -> int:
        x = b.parameter("x", (3,))
        return b.call("add", total(b, b.call("step", x)), total(b, x))

    built = graph(make, numpy_backend)
    np.testing.assert_allclose(built.gradients()["x"], built.state.get("x"))


def test_a_loss_on_a_second_output_is_refused():
    b = Builder(2, "float64")
    x, y = b.parameter("x", (2, 3)), b.input("y", (2,), "int64", interval=(0, 3))
    loss, probabilities = b.call("softmax_cross_entropy", x, y)
    loss = b.call("add", loss, total(b, probabilities))
    with pytest.raises(ProgramError, match="softmax_cross_entropy"):
        differentiate(b, loss)


MODELS = {
    "plain": {},
    "batch norm": {"norm": "batch"},
    "layer norm": {"norm": "layer"},
    "dropout": {"dropout": 0.4},
    "penalties": {"l1": 0.01, "l2": 0.02},
    "mse": {"loss": "mse", "activation": "gelu"},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_gradients_of_a_model(options, numpy_backend):
    rng = np.random.default_rng(3)
    model = MLP([4, 5, 3], **{"activation": "tanh", **options}, dtype="float64", seed=2)
    labels = model.loss.takes_labels
    program = gradient_program(model, 6, labels=labels)
    state = State(program.layout, numpy_backend.device)
    for name, array in model.parameters.items():
        state.set(name, array)
    state.set("seed", 7)
    run = numpy_backend.bind(program, state)
    run.feed(
        x=rng.normal(size=(6, 4)), y=rng.integers(0, 3, 6) if labels else rng.normal(size=(6, 3))
    )

    def loss() -> float:
        run.run(1)
        return float(run.fetch("loss"))

    loss()
    gradients = {name: state.get(f"{name}.gradient") for name in model.parameters}
    for name, gradient in gradients.items():
        value = state.view(name).reshape(-1)
        for at in range(0, value.size, 3):
            old = value[at].copy()
            value[at] = old + 1e-6
            above = loss()
            value[at] = old - 1e-6
            slope = (above - loss()) / 2e-6
            value[at] = old
            assert gradient.flat[at] == pytest.approx(slope, rel=1e-5, abs=1e-8), name
