"""Figures of small networks: parameters, gradients, updates, learning rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.errors import DivergedError
from nnkernels.nn import MLP, History, Trainer
from nnkernels.reproduce.figures import Figure, close, close_groups, outcome, published
from nnkernels.spec import Array
from nnkernels.testing import numerical_gradient

DIFFERENCE = 1e-4
"""Step of the book's finite differences."""


def parameter_count(backend: Backend) -> list[Figure]:
    """Parameters of a 4-5-5-3 network."""
    book = published()["parameter_count"]
    trainer = Trainer(MLP(book["layer_sizes"]), backend=backend)
    count = sum(array.size for array in trainer.weights().values())
    return [close("4-5-5-3", book["parameters"], count, 0)]


# --- the 2-3-1 network -------------------------------------------------------------------------


def toy_mlp(backend: Backend) -> list[Figure]:
    """The 2-3-1 network: loss, gradients, one step both ways, and 100 epochs."""
    return [*_first_step(backend), *_hundred_epochs(backend)]


def _toy_trainer(backend: Backend, rate: float) -> Trainer:
    names = ("linear0.weight", "linear0.bias", "linear2.weight", "linear2.bias")
    model = MLP(
        [2, 3, 1],
        activation="sigmoid",
        loss="mse",
        dtype="float64",
        parameters=dict(zip(names, published()["toy_mlp"]["weights"], strict=True)),
    )
    return Trainer(model, learning_rate=rate, backend=backend)


def _first_step(backend: Backend) -> list[Figure]:
    book = published()["toy_mlp"]
    x, y = book["x"], book["y"]
    trainer = _toy_trainer(backend, 1.0)
    loss = trainer.evaluate(x, y)["loss"]
    analytic = list(trainer.gradients(x, y)[1].values())
    numeric = _numerical_gradients(trainer, x, y)
    stepped = [w - g for w, g in zip(trainer.weights().values(), numeric, strict=True)]
    trainer.fit(x, y, batch_size=None, shuffle=False, progress=False)
    steps = {"chain-rule": "chain_rule", "finite-difference": "finite_difference"}
    results = trainer.weights().values(), stepped
    return [
        close("initial loss", book["initial_loss"], loss, book["initial_loss_tolerance"]),
        close_groups("gradients", book["gradients"], analytic, book["gradients_tolerance"]),
        *(
            close_groups(
                f"{how} step",
                book[f"one_step_lr_1_{key}"],
                result,
                book[f"one_step_lr_1_{key}_tolerance"],
            )
            for (how, key), result in zip(steps.items(), results, strict=True)
        ),
    ]


def _numerical_gradients(trainer: Trainer, x: Any, y: Any) -> list[Array]:
    """Forward differences of the trainer's loss by every parameter; the weights stay."""
    gradients = []
    for name, start in trainer.weights().items():

        def loss(value: Array, name: str = name) -> float:
            trainer.set_weights({name: value})
            return trainer.evaluate(x, y)["loss"]

        gradients.append(numerical_gradient(loss, start, method="forward", step=DIFFERENCE))
        trainer.set_weights({name: start})
    return gradients


def _hundred_epochs(backend: Backend) -> list[Figure]:
    book = published()["toy_mlp"]
    trainer = _toy_trainer(backend, 0.01)
    trainer.fit(book["x"], book["y"], epochs=100, batch_size=None, shuffle=False, progress=False)
    prediction, weights = trainer.outputs(book["x"]), trainer.weights().values()
    return [
        close_groups(
            "weights at 100 epochs",
            book["after_100_epochs_lr_0.01"],
            weights,
            book["after_100_epochs_tolerance"],
        ),
        close(
            "prediction at 100 epochs",
            [[book["prediction_after_100_epochs"]]],
            prediction,
            book["prediction_tolerance"],
        ),
    ]


# --- learning rates ----------------------------------------------------------------------------


def learning_rates(backend: Backend) -> list[Figure]:
    """One weight, one bias, three learning rates: good, high, and one that diverges."""
    long = published()["learning_rate"]["lr_0.01_after_1000_epochs"]
    weight = _line(backend, 0.01, 1000).recorded["linear0.weight"][-1]
    return [
        *_ten_epochs(backend, 0.01),
        *_ten_epochs(backend, 0.1),
        *_divergence(backend),
        close("rate 0.01, weight at 1,000", [[long["weight"]]], weight, long["tolerance"]),
    ]


def _line(backend: Backend, rate: float, epochs: int) -> History:
    """Fit ``y = 3x`` from 0 by full-batch descent, recording weight and bias."""
    book = published()["learning_rate"]
    model = MLP([1, 1], loss="mse", dtype="float64", initialiser="zeros")
    trainer = Trainer(model, learning_rate=rate, backend=backend)
    return trainer.fit(
        book["x"],
        book["y"],
        epochs=epochs,
        batch_size=None,
        shuffle=False,
        progress=False,
        record=("linear0.weight", "linear0.bias"),
    )


def _ten_epochs(backend: Backend, rate: float) -> list[Figure]:
    book = published()["learning_rate"][f"lr_{rate}"]
    history = _line(backend, rate, 10)
    weights, biases = (np.ravel(history.recorded[f"linear0.{n}"]) for n in ("weight", "bias"))
    tolerance = book["weight_tolerance"]
    return [
        close(f"rate {rate}, weight", book["weight"], weights, tolerance),
        close(f"rate {rate}, loss", book["loss"], history["loss"], book["loss_tolerance"]),
        close(f"rate {rate}, final weight", book["final_weight"], weights[-1], tolerance),
        close(f"rate {rate}, final bias", book["final_bias"], biases[-1], tolerance),
    ]


def _divergence(backend: Backend) -> list[Figure]:
    book = published()["learning_rate"]["lr_1"]
    weights = np.ravel(_line(backend, 1.0, 2).recorded["linear0.weight"])
    try:
        _line(backend, 1.0, 1000)
        ended = "converged"
    except DivergedError:
        ended = "diverged"
    return [
        close("rate 1, weight", book["weight"], weights, book["relative_tolerance"], relative=True),
        outcome("rate 1, 1,000 epochs", "diverged", ended),
    ]
