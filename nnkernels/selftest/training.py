"""Training the same network in several ways that must agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nnkernels.backend import Backend
from nnkernels.nn import MLP, Trainer
from nnkernels.spec import Array

LAYERS = (64, 48, 32, 12)
BATCH = 40
STEPS_AN_EPOCH = 10
LEARNING_RATE = 1e-3


class Curve(NamedTuple):
    """Losses by epoch, and what the weights were in the end, bit by bit."""

    losses: Array
    weights: bytes


def train(backend: Backend, epochs: int, dtype: str = "float32") -> Curve:
    """Train a small classifier on fixed random data; the same on every backend."""
    draw = np.random.default_rng(7)
    x = draw.standard_normal((BATCH * STEPS_AN_EPOCH, LAYERS[0])).astype(dtype)
    labels = (x @ draw.standard_normal((LAYERS[0], LAYERS[-1]))).argmax(1)
    model = MLP(list(LAYERS), activation="relu", loss="softmax_cross_entropy", dtype=dtype, seed=3)
    trainer = Trainer(model, "adam", learning_rate=LEARNING_RATE, backend=backend)
    history = trainer.fit(x, labels, epochs=epochs, batch_size=BATCH, progress=False)
    weights = b"".join(array.tobytes() for _, array in sorted(trainer.weights().items()))
    return Curve(history["loss"], weights)


def distance(curve: Curve, reference: Curve) -> float:
    """Largest relative difference of the losses."""
    return float(np.max(np.abs(curve.losses - reference.losses) / np.abs(reference.losses)))
