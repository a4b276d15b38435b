"""The perceptron learns AND and OR by its rule, never XOR; a 2-2-1 network learns that too."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import Backend
from nnkernels.nn import MLP, Trainer
from nnkernels.reproduce.figures import Figure, outcome
from nnkernels.reproduce.operators import on
from nnkernels.spec import Array

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64)
GATES = {"AND": [0, 0, 0, 1], "OR": [0, 1, 1, 1], "XOR": [0, 1, 1, 0]}
EPOCHS = 100


def learning(backend: Backend) -> list[Figure]:
    """Who learns which gate."""
    figures = [
        outcome(f"perceptron, {gate}", _verdict(gate != "XOR"), _verdict(_rule(backend, truth)))
        for gate, truth in GATES.items()
    ]
    network = _network(backend, GATES["XOR"])
    return [*figures, outcome("2-2-1 network, XOR", _verdict(True), _verdict(network))]


def _verdict(learned: bool) -> str:
    return "learned" if learned else "not learned"


def _rule(backend: Backend, truth: list[int], rate: float = 0.1) -> bool:
    """Train sample by sample, ``w += rate (y - prediction) x``; whether all four came out right."""
    weight, bias = np.zeros((2, 1)), np.zeros(1)

    def predict(x: Array) -> Array:
        return on(backend, "step", on(backend, "linear", x, weight, bias))[:, 0]

    for _ in range(EPOCHS):
        for x, y in zip(X, truth, strict=True):
            correction = rate * (y - predict(x[None])[0])
            weight += correction * x[:, None]
            bias += correction
    return bool((predict(X) == truth).all())


def _network(backend: Backend, truth: list[int]) -> bool:
    model = MLP(
        [2, 2, 1],
        activation="tanh",
        loss="binary_cross_entropy_with_logits",
        dtype="float64",
        seed=0,
    )
    trainer = Trainer(model, "adam", learning_rate=0.1, backend=backend)
    trainer.fit(X, truth, epochs=3 * EPOCHS, batch_size=None, progress=False)
    return bool(trainer.predict(X).tolist() == truth)
