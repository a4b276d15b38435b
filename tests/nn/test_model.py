"""MLP and Model: layers, arrays, initial values, summary, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnkernels import ops
from nnkernels.errors import (
    DTypeError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from nnkernels.nn import (
    MLP,
    Activation,
    BatchNorm,
    Dropout,
    LayerNorm,
    Linear,
    Loss,
    Model,
    Trainer,
)
from nnkernels.nn.initialisers import INITIALISERS
from nnkernels.nn.layers import activation_names
from nnkernels.nn.losses import loss_names


def test_the_summary_counts_parameters():
    summary = MLP([4, 5, 5, 3]).summary()
    assert summary.splitlines()[-1].split() == ["parameters", "73"]
    assert "5x3" in summary
    assert MLP([4, 5, 5, 3]).parameter_count == 73


def test_sizes_and_layers_describe_the_same_network():
    sizes = MLP([4, 5, 3], activation="tanh", norm="layer", dropout=0.1, seed=6)
    layers = [Linear(5), LayerNorm(), Activation("tanh"), Dropout(0.1), Linear(3)]
    explicit = MLP([4, *layers], seed=6)
    assert explicit.architecture == sizes.architecture
    for name, array in sizes.parameters.items():
        np.testing.assert_array_equal(explicit.parameters[name], array)


def test_a_norm_stands_before_the_activation_and_dropout_after():
    kinds = [type(layer) for layer in MLP([2, 3, 3, 1], norm="batch", dropout=0.5).layers]
    hidden = [Linear, BatchNorm, Activation, Dropout]
    assert kinds == [*hidden, *hidden, Linear]


def test_activations_by_layer():
    model = MLP([2, 3, 4, 1], activation=["relu", ops.tanh], output_activation="sigmoid")
    names = [layer.name for layer in model.layers if isinstance(layer, Activation)]
    assert names == ["relu", "tanh", "sigmoid"]


def test_an_activation_takes_parameters():
    model = MLP([2, 3, 2], activation=Activation("leaky_relu", {"slope": 0.3}), dtype="float64")
    w1, b1, w2, b2 = model.parameters.values()
    x = np.random.default_rng(0).normal(size=(5, 2))
    z = x @ w1 + b1
    expected = np.where(z > 0, z, 0.3 * z) @ w2 + b2
    np.testing.assert_allclose(Trainer(model).outputs(x), expected, rtol=1e-13)


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "gelu", "identity", "log_softmax", "elu"])
def test_every_activation_of_the_catalogue_serves(name):
    assert name in activation_names()
    x = np.random.default_rng(0).normal(size=(5, 2))
    model = MLP([2, 3], output_activation=name, dtype="float64", loss="mse")
    w, b = model.parameters.values()
    expected = getattr(ops, name).reference(x @ w + b)
    np.testing.assert_allclose(Trainer(model).outputs(x), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["mse", "huber", "softmax_cross_entropy", "sum_squared_error"])
def test_losses_are_found_in_the_catalogue(name):
    assert name in loss_names()
    assert MLP([2, 2], loss=name).loss == Loss(name)


STATISTICS = {
    "zeros": (0, 0),
    "normal": (0, 1),
    "uniform": (0, 1 / math.sqrt(3 * 300)),
    "glorot_uniform": (0, math.sqrt(2 / 500)),
    "glorot_normal": (0, math.sqrt(2 / 500)),
    "he_uniform": (0, math.sqrt(2 / 300)),
    "he_normal": (0, math.sqrt(2 / 300)),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_initial_weights_have_the_published_spread(name):
    weight = MLP([300, 200], initialiser=name, dtype="float64").parameters["linear0.weight"]
    mean, spread = STATISTICS[name]
    assert weight.mean() == pytest.approx(mean, abs=4 * spread / math.sqrt(weight.size))
    assert weight.std() == pytest.approx(spread, rel=0.02)
    if name.endswith("uniform"):
        assert np.abs(weight).max() <= math.sqrt(3) * spread
        assert np.abs(weight).max() == pytest.approx(math.sqrt(3) * spread, rel=1e-3)


def test_every_initialiser_is_tested():
    assert STATISTICS.keys() == INITIALISERS.keys()


def test_he_for_rectifiers_and_glorot_for_the_rest():
    chosen = [
        layer.initialiser
        for layer in MLP([2, 3, 3, 1], activation=["relu", "tanh"]).layers
        if isinstance(layer, Linear)
    ]
    assert chosen == ["he_normal", "glorot_uniform", "glorot_uniform"]


def test_biases():
    assert not MLP([3, 4]).parameters["linear0.bias"].any()
    bias = MLP([3, 400], bias_initialiser="uniform").parameters["linear0.bias"]
    assert 0.9 < np.abs(bias).max() <= 1


def test_the_seed_decides_the_initial_weights():
    one, same, other = (MLP([3, 4, 2], seed=s).parameters["linear0.weight"] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_given_arrays_replace_the_initial_ones():
    weight = np.arange(6.0).reshape(3, 2)
    model = MLP([3, 2], parameters={"linear0.weight": weight.T.copy().T, "linear0.bias": [1, 2]})
    weight[:] = -1
    np.testing.assert_array_equal(model.parameters["linear0.weight"].ravel(), np.arange(6))
    np.testing.assert_array_equal(model.parameters["linear0.bias"], [1, 2])
    assert model.parameters["linear0.weight"].dtype == np.float32


def test_normalisations_start_as_nothing():
    model = MLP([3, 4, 2], norm="batch")
    arrays = {**model.parameters, **model.statistics}
    ones = [n for n in arrays if n.endswith(("gamma", "variance"))]
    zeros = [n for n in arrays if n.endswith(("beta", "mean"))]
    assert len(ones) == len(zeros) == 2
    assert all((arrays[n] == 1).all() for n in ones)
    assert not any(arrays[n].any() for n in zeros)


BAD_ARGUMENTS = [
    ([[4]], {}, InputError, "inputs and 1"),
    ([[]], {}, InputError, "layers"),
    ([5], {}, InputError, "layers"),
    ([[0, 3]], {}, InputError, "inputs"),
    ([[4, -3]], {}, InputError, "layer size"),
    ([[4, 2.5]], {}, InputError, "layer size"),
    ([[4, True]], {}, InputError, "layer size"),
    ([[4, "3"]], {}, InputError, "layer size"),
    ([[4, 10**12]], {}, InputError, "layer size"),
    ([[1 << 20, 1 << 20]], {}, InputError, "parameters"),
    ([[4] * 20_000], {}, InputError, "layers"),
    ([[4, Linear(0)]], {}, InputError, "units"),
    ([[4, Linear(3, "hee_normal")]], {}, UnknownNameError, "he_normal"),
    ([[4, Dropout(1.0), Linear(3)]], {}, InputError, "p must"),
    ([[4, Dropout("half"), Linear(3)]], {}, InputError, "p must"),
    ([[4, BatchNorm(eps=0.0), Linear(3)]], {}, InputError, "eps"),
    ([[4, BatchNorm(momentum=2.0), Linear(3)]], {}, InputError, "momentum"),
    ([[4, 3, 2]], {"activation": "rellu"}, UnknownNameError, "relu"),
    ([[4, 3, 2]], {"activation": "mse"}, UnknownNameError, "activation"),
    ([[4, 3, 2]], {"activation": ["relu", "tanh"]}, InputError, "1 activations, got 2"),
    ([[4, 3, 2]], {"output_activation": "sofmax"}, UnknownNameError, "softmax"),
    ([[4, 3, 2]], {"loss": "softmax_crossentropy"}, UnknownNameError, "softmax_cross_entropy"),
    ([[4, 3, 2]], {"loss": "relu"}, UnknownNameError, "loss"),
    ([[4, 3, 2]], {"loss": Loss("huber", {"delta": -1.0})}, InputError, "delta"),
    ([[4, 3, 2]], {"initialiser": "glorot"}, UnknownNameError, "glorot_normal"),
    ([[4, 3, 2]], {"bias_initialiser": "ones"}, UnknownNameError, "initialiser"),
    ([[4, 3, 2]], {"dropout": -0.1}, InputError, "p must"),
    ([[4, 3, 2]], {"dropout": float("nan")}, InputError, "p must"),
    ([[4, 3, 2]], {"norm": "instance"}, UnknownNameError, "norm"),
    ([[4, 3, 2]], {"l1": -1}, InputError, "l1"),
    ([[4, 3, 2]], {"l2": float("nan")}, InputError, "l2"),
    ([[4, 3, 2]], {"l2": "much"}, InputError, "l2"),
    ([[4, 3, 2]], {"dtype": "float16"}, InputError, "float32 or float64"),
    ([[4, 3, 2]], {"dtype": "nonsense"}, InputError, "float32 or float64"),
    ([[4, 3, 2]], {"dtype": None}, InputError, "float32 or float64"),
    ([[4, 3, 2]], {"seed": -1}, InputError, "seed"),
    ([[4, 3, 2]], {"seed": 1.5}, InputError, "seed"),
    ([[4, 3, 2]], {"seed": 1 << 63}, InputError, "seed"),
    ([[4, 3]], {"parameters": {"linear0.weigth": 1}}, UnknownNameError, "linear0.weight"),
    ([[4, 3]], {"parameters": {"linear0.bias": [1, 2]}}, ShapeError, "linear0.bias"),
    ([[4, 3]], {"parameters": {"linear0.bias": [1, 2, 3j]}}, DTypeError, "complex"),
    ([[4, 3]], {"parameters": {"linear0.bias": [[1], [2, 3]]}}, InputError, "ragged"),
    ([[4, 3]], {"parameters": {"linear0.bias": [1, math.inf, 3]}}, NonFiniteError, "row 1"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused_by_name(args, options, error, message):
    with pytest.raises(error, match=message):
        MLP(*args, **options)


@pytest.mark.parametrize(
    "bad", [{"linear0.bias": [1, np.nan]}, {"linear0.bias": ["a", "b"]}, {"nothing": 0}]
)
def test_set_parameters_changes_all_or_nothing(bad):
    model = MLP([3, 2])
    before = model.parameters["linear0.weight"].copy()
    with pytest.raises((InputError, DTypeError)):
        model.set_parameters({"linear0.weight": np.ones((3, 2)), **bad})
    np.testing.assert_array_equal(model.parameters["linear0.weight"], before)


def test_a_model_checks_its_arrays():
    def forward(builder, x, training):
        return builder.call("matmul", x, builder.parameter("w", (2, 2)))

    with pytest.raises(NonFiniteError, match="'w'"):
        Model(forward, {"w": [[1, np.inf], [0, 1]]}, inputs=2, outputs=2)
    with pytest.raises(InputError, match="ragged"):
        Model(forward, {"w": [[1], [0, 1]]}, inputs=2, outputs=2)
    model = Model(forward, {"w": np.eye(2)}, inputs=2, outputs=2, loss="mse")
    assert repr(model) == "Model(2 -> 2, 4 parameters, mse, float32)"


def test_a_trainer_wants_a_model():
    with pytest.raises(InputError, match="MLP"):
        Trainer(MLP)


def test_an_array_as_initialiser_names_the_way_to_give_it():
    with pytest.raises(InputError, match=r"initialiser must be a name, got ndarray.*parameters="):
        MLP([2, Linear(4, initialiser=np.zeros((2, 4)))])
