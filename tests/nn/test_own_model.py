"""Networks of the user's own: an operator declared on the spot, a hand-built skip connection."""

from __future__ import annotations

import numpy as np
import pytest

import nnkernels
from nnkernels import get_backend
from nnkernels.errors import BackendError, ProgramError, ShapeError
from nnkernels.nn import MLP, Activation, Linear, Model, Trainer
from nnkernels.program import Builder, State, differentiate
from nnkernels.spec import OPERATORS, Cost, Error, op


@pytest.fixture
def softsign():
    """``x / (1 + |x|)``, as a user would declare it; forgotten afterwards."""

    @op("(...)->(...)", error=Error(2), cost=Cost(2), saves=("x",))
    def softsign(x, *, out=None):
        return x / (1 + np.abs(x))

    @softsign.backward(error=Error(4))
    def softsign_backward(grad, x, *, out=None):
        return grad / np.square(1 + np.abs(x))

    yield softsign
    del OPERATORS["softsign"], OPERATORS["softsign_backward"]


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_an_operator_of_the_users_own_trains_in_an_mlp(softsign, classes, backend):
    model = MLP([4, 8, 3], activation=softsign, dtype="float64", seed=1)
    trainer = Trainer(model, "adam", learning_rate=0.05, backend=backend)
    loss, gradients = trainer.gradients(*classes)
    numerical = _slope(trainer, classes, "linear0.weight", (1, 2))
    assert gradients["linear0.weight"][1, 2] == pytest.approx(numerical, rel=1e-6)
    history = trainer.fit(*classes, epochs=20, batch_size=11, progress=False)
    assert history["loss"][-1] < loss / 2


def _slope(trainer, data, name, at, step=1e-6):
    weights = trainer.weights()
    losses = []
    for shift in (step, -step):
        changed = weights[name].copy()
        changed[at] += shift
        trainer.set_weights({name: changed})
        losses.append(trainer.gradients(*data)[0])
    trainer.set_weights(weights)
    return (losses[0] - losses[1]) / (2 * step)


def test_it_is_an_activation_by_name(softsign):
    model = MLP([2, Linear(2), Activation("softsign")], loss="mse")
    model.set_parameters({"linear0.weight": np.eye(2)})
    np.testing.assert_allclose(Trainer(model).outputs([[-1.0, 3.0]]), [[-0.5, 0.75]])


def residual(builder: Builder, x: int, training: bool) -> int:
    """``tanh(x w + b) + x``, then a linear layer."""
    inputs = builder.slots[x].shape[1]
    w, b = builder.parameter("w", (inputs, inputs)), builder.parameter("b", (inputs,))
    hidden = builder.call("add", builder.call("tanh", builder.call("linear", x, w, b)), x)
    v, c = builder.parameter("v", (inputs, 3)), builder.parameter("c", (3,))
    return builder.call("linear", hidden, v, c)


def arrays():
    rng = np.random.default_rng(7)
    return {
        "w": rng.normal(size=(4, 4)) / 2,
        "b": np.zeros(4),
        "v": rng.normal(size=(4, 3)) / 2,
        "c": np.zeros(3),
    }


def descend(x, y, epochs, rate):
    """The same network in plain NumPy, full batch; the losses before every step."""
    p, losses = arrays(), []
    for _ in range(epochs):
        hidden = np.tanh(x @ p["w"] + p["b"])
        top = hidden + x
        scores = top @ p["v"] + p["c"]
        scores = scores - scores.max(1, keepdims=True)
        probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        losses.append(-np.log(probabilities[np.arange(len(y)), y]).mean())
        grad = (probabilities - np.eye(3)[y]) / len(y)
        back = (grad @ p["v"].T) * (1 - hidden**2)
        steps = {"w": x.T @ back, "b": back.sum(0), "v": top.T @ grad, "c": grad.sum(0)}
        p = {name: p[name] - rate * steps[name] for name in p}
    return losses, p


def test_a_skip_connection_trains_through_the_trainer(classes):
    model = Model(residual, arrays(), inputs=4, outputs=3, dtype="float64")
    trainer = Trainer(model, "sgd", learning_rate=0.1)
    history = trainer.fit(*classes, epochs=10, batch_size=None, shuffle=False, progress=False)
    losses, final = descend(*classes, 10, 0.1)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)
    for name, array in final.items():
        np.testing.assert_allclose(model.parameters[name], array, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_a_skip_connection_trains_as_a_program_of_ones_own(classes, backend):
    chosen, (x, y) = nnkernels.get_backend(backend), classes
    builder = Builder(len(x), "float64")
    features = builder.input("x", x.shape)
    labels = builder.input("y", y.shape, "int64", interval=(0, 3))
    loss, _ = builder.call("softmax_cross_entropy", residual(builder, features, True), labels)
    differentiate(builder, loss)
    with builder.update_phase():
        flat = builder.flat("parameters"), builder.flat("gradients")
        builder.call("sgd", *flat, builder.entry("learning_rate"))
    program = builder.program(guard=loss, loss=loss)

    state = State(program.layout, chosen.device)
    for name, array in arrays().items():
        state.set(name, array)
    state.set("learning_rate", 0.1)
    executable = chosen.bind(program, state)
    executable.feed(x=x, y=y)
    got = []
    for _ in range(10):
        assert executable.run(1) == 1
        got.append(float(executable.fetch("loss")))
    np.testing.assert_allclose(got, descend(x, y, 10, 0.1)[0], rtol=1e-12)


# --- what a forward pass of the user's must keep ------------------------------------------------


def trained(forward, **options):
    options = {"inputs": 2, "outputs": 2, "parameters": {"w": np.ones((2, 2))}, **options}
    return Trainer(Model(forward, options.pop("parameters"), **options))


def test_a_prediction_of_another_shape_is_refused_at_once():
    with pytest.raises(ShapeError, match=r"forward returned shape \(1, 3\), expected \(1, 2\)"):
        trained(
            lambda b, x, training: b.call("matmul", x, b.parameter("w", (2, 3))),
            parameters={"w": np.ones((2, 3))},
        )


def test_a_parameter_without_initial_value_is_refused():
    def forward(builder, x, training):
        hidden = builder.call("matmul", x, builder.parameter("w", (2, 2)))
        return builder.call("matmul", hidden, builder.parameter("q", (2, 2)))

    with pytest.raises(ProgramError, match="'q', which has no initial value"):
        trained(forward)


def test_a_forward_pass_must_return_a_slot():
    with pytest.raises(ProgramError, match="must return the prediction's slot, got None"):
        trained(lambda builder, x, training: None)


def test_a_kernel_that_fails_in_training_is_named():
    def broken(x, *, out):
        raise RuntimeError("on fire")

    backend = get_backend("numpy").replace(tanh=broken)
    trainer = Trainer(MLP([2, 3, 2], activation="tanh"), backend=backend)
    with pytest.raises(BackendError, match=r"tanh \(activation1\) on numpy\[.*on fire"):
        trainer.fit(np.ones((4, 2)), np.zeros(4, int), batch_size=4)
