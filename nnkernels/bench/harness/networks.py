"""The networks whose training steps are measured, and their data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .workload import Preset


@dataclass(frozen=True, slots=True)
class Network:
    """A fully connected network with its training step.

    Attributes:
        name: of the workload.
        layers: columns of the input and of every layer.
        activation: of the hidden layers.
        output_activation: of the last layer; None where the loss takes logits or values.
        loss: name of the catalogue's loss.
        optimizer: ``sgd``, ``momentum`` (0.9) or ``adam``, with the usual defaults.
        learning_rate: of every step.
        batch: rows of a step.
        rows: rows of the data set; batches are consecutive slices of it, over and over.
        checked: steps after which the weights are compared with the reference.
    """

    name: str
    layers: tuple[int, ...]
    activation: Literal["sigmoid", "relu", "tanh"]
    output_activation: Literal["sigmoid"] | None
    loss: Literal["sum_squared_error", "softmax_cross_entropy", "mse"]
    optimizer: Literal["sgd", "momentum", "adam"]
    learning_rate: float
    batch: int
    rows: int
    checked: int

    @property
    def size(self) -> str:
        """``784-64-32-10-b32``."""
        return f"{'-'.join(map(str, self.layers))}-b{self.batch}"

    @property
    def weights(self) -> int:
        """Number of weights, without biases."""
        return sum(a * b for a, b in zip(self.layers, self.layers[1:], strict=False))

    @property
    def takes_labels(self) -> bool:
        """Whether targets are class labels."""
        return self.loss == "softmax_cross_entropy"


W1 = Network(
    "W1", (784, 64, 32, 10), "sigmoid", "sigmoid", "sum_squared_error", "sgd", 1.5, 32, 60000, 5
)
W2 = Network(
    "W2", (784, 512, 512, 10), "relu", None, "softmax_cross_entropy", "adam", 1e-3, 128, 8192, 3
)
W3 = Network(
    "W3",
    (1024, 4096, 4096, 1000),
    "relu",
    None,
    "softmax_cross_entropy",
    "momentum",
    1e-2,
    512,
    2048,
    2,
)
W4 = Network("W4", (20, 64, 64, 1), "tanh", None, "mse", "adam", 1e-3, 256, 16384, 5)

NETWORKS: Mapping[Preset, tuple[Network, ...]] = {
    "quick": (
        replace(W1, rows=320),
        replace(W2, rows=512),
        replace(W3, layers=(256, 512, 512, 250), batch=64, rows=256),
        replace(W4, rows=1024),
    ),
    "default": (W1, W2, W3, W4),
    "thorough": (W1, W2, W3, W4),
}


@dataclass(frozen=True, slots=True)
class Data:
    """Features, and targets as rows of numbers; class labels too where the loss takes them."""

    x: Any
    y: Any
    labels: Any


IN_GATE = ("W1", "W2", "W4")
"""Networks whose training step the regression gate compares: W3's takes a second."""


def draw_data(network: Network) -> Data:
    """Features uniform in [0, 1), with targets that depend on them, or random classes."""
    rng = np.random.default_rng(1)
    classes = network.layers[-1]
    x = rng.random((network.rows, network.layers[0]), np.float32)
    if network.loss == "mse":
        return Data(x, np.sin(x.sum(1, keepdims=True)), None)
    labels = rng.integers(0, classes, network.rows)
    y = np.zeros((network.rows, classes), np.float32)
    y[np.arange(network.rows), labels] = 1
    return Data(x, y, labels)


def draw_weights(network: Network) -> list[tuple[Any, Any]]:
    """Weight and bias of every layer: normal over the square root of the inputs, and zero."""
    rng = np.random.default_rng(2)
    pairs = zip(network.layers, network.layers[1:], strict=False)
    return [
        ((rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in pairs
    ]
