"""Training equals loops written out in plain NumPy, for every optimizer and batch size."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.errors import DTypeError, InputError, UnknownNameError
from nnkernels.nn import MLP, SGD, Adam, AdamW, RMSprop, Trainer
from nnkernels.nn.optimizers import OPTIMIZERS, as_optimizer

RATE = 0.05


def sgd(w, g, s, t):
    w -= RATE * g


def decay(w, g, s, t):
    w -= RATE * (g + 0.1 * w)


def momentum(w, g, s, t):
    s["v"] = 0.9 * s.get("v", 0) + g
    w -= RATE * s["v"]


def nesterov(w, g, s, t):
    s["v"] = 0.9 * s.get("v", 0) + g
    w -= RATE * (g + 0.9 * s["v"])


def rmsprop(w, g, s, t):
    s["a"] = 0.99 * s.get("a", 0) + 0.01 * g**2
    w -= RATE * g / (np.sqrt(s["a"]) + 1e-8)


def adam(w, g, s, t):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    m, v = s["m"] / (1 - 0.9**t), s["v"] / (1 - 0.999**t)
    w -= RATE * m / (np.sqrt(v) + 1e-8)


def adamw(w, g, s, t):
    w *= 1 - RATE * 0.01
    adam(w, g, s, t)


RULES = {
    "sgd": ("sgd", sgd),
    "decay": (SGD(weight_decay=0.1), decay),
    "momentum": ("momentum", momentum),
    "nesterov": ("nesterov", nesterov),
    "rmsprop": ("rmsprop", rmsprop),
    "adam": ("adam", adam),
    "adamw": ("adamw", adamw),
}


def by_hand(x, y, arrays, rule, epochs, batch):
    """tanh hidden layer, mean squared error."""
    w1, b1, w2, b2 = arrays
    states, t, losses = [{} for _ in arrays], 0, []
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(x), batch):
            rows, target = x[start : start + batch], y[start : start + batch]
            hidden = np.tanh(rows @ w1 + b1)
            error = hidden @ w2 + b2 - target
            total += (error**2).mean() * len(rows)
            grad = 2 * error / error.size
            back = grad @ w2.T * (1 - hidden**2)
            gradients = rows.T @ back, back.sum(0), hidden.T @ grad, grad.sum(0)
            t += 1
            for array, gradient, state in zip(arrays, gradients, states, strict=True):
                rule(array, gradient, state, t)
        losses.append(total / len(x))
    return losses


@pytest.mark.parametrize("batch", [None, 7, 1], ids=["full batch", "mini-batch", "single sample"])
@pytest.mark.parametrize(("optimizer", "rule"), RULES.values(), ids=RULES)
@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_training_equals_a_plain_loop(backend, optimizer, rule, batch):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    model = MLP([3, 5, 2], activation="tanh", loss="mse", dtype="float64", seed=2)
    arrays = [a.copy() for a in model.parameters.values()]
    trainer = Trainer(model, optimizer, learning_rate=RATE, backend=backend)
    history = trainer.fit(x, y, epochs=6, batch_size=batch, shuffle=False, progress=False)
    losses = by_hand(x, y, arrays, rule, 6, batch or 20)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12, atol=0)
    for ours, theirs in zip(model.parameters.values(), arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "0.1", True, None, [0.1]])
@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam, AdamW])
def test_learning_rates_that_cannot_train_are_refused(kind, rate):
    with pytest.raises(InputError, match="learning_rate"):
        Trainer(MLP([2, 2]), kind(learning_rate=rate))


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(momentum=1.0),
        SGD(momentum=-0.5),
        SGD(nesterov=True),
        SGD(weight_decay=-1e-3),
        RMSprop(alpha=1.5),
        RMSprop(eps=0.0),
        Adam(beta1=1.0),
        Adam(beta2=float("nan")),
        AdamW(weight_decay=float("inf")),
        AdamW(eps="tiny"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(optimizer):
    with pytest.raises((InputError, DTypeError)):
        Trainer(MLP([2, 2]), optimizer)


def test_optimizers_by_name():
    assert {name: as_optimizer(name).rate for name in OPTIMIZERS} == {
        "sgd": 0.01,
        "momentum": 0.01,
        "nesterov": 0.01,
        "rmsprop": 0.01,
        "adam": 0.001,
        "adamw": 0.001,
    }
    assert as_optimizer(Adam(), 0.5) == Adam(learning_rate=0.5)
    with pytest.raises(UnknownNameError, match="adam"):
        as_optimizer("adm")
    with pytest.raises(InputError, match="optimizer"):
        as_optimizer(0.1)
