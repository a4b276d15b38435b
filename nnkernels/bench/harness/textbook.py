"""Training code as the textbooks write it in NumPy: the labelled baseline of the training steps.

It follows the network of Nielsen, Neural Networks and Deep Learning, chapter 2, over whole
batches: lists of weighted inputs and activations, derivatives computed from the weighted inputs,
a fresh array for every result. It is correct and readable, and nobody has tuned it. In float64 it
is also the reference that all candidates' weights are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .networks import Network

TEXTBOOK = "textbook"
"""Its name among the candidates."""

Function = Callable[[Any], Any]


def sigmoid(z: Any) -> Any:
    """Logistic function."""
    return 1.0 / (1.0 + np.exp(-z))


def sigmoid_prime(z: Any) -> Any:
    """Its derivative."""
    return sigmoid(z) * (1 - sigmoid(z))


def relu(z: Any) -> Any:
    """Rectifier."""
    return np.maximum(0, z)


def relu_prime(z: Any) -> Any:
    """Its derivative."""
    return (z > 0).astype(z.dtype)


def tanh_prime(z: Any) -> Any:
    """Derivative of the hyperbolic tangent."""
    return 1 - np.tanh(z) ** 2


def softmax(z: Any) -> Any:
    """Probabilities of the classes, by row."""
    exps = np.exp(z - z.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (sigmoid, sigmoid_prime),
    "relu": (relu, relu_prime),
    "tanh": (np.tanh, tanh_prime),
}


class TextbookNetwork:
    """A network that is trained one batch at a time.

    Args:
        network: what to compute.
        parameters: initial weight and bias of every layer.
        dtype: of all its arrays.
    """

    def __init__(
        self, network: Network, parameters: Sequence[tuple[Any, Any]], dtype: Any = np.float32
    ) -> None:
        self.network = network
        self.weights = [w.astype(dtype) for w, _ in parameters]
        self.biases = [b.astype(dtype) for _, b in parameters]
        self.activation, self.activation_prime = ACTIVATIONS[network.activation]
        self.m = [np.zeros_like(p) for p in self.weights + self.biases]
        self.v = [np.zeros_like(p) for p in self.weights + self.biases]
        self.t = 0

    def step(self, x: Any, y: Any) -> float:
        """Forward, loss, backward, update; returns the loss of the batch."""
        zs, activations = self._forward(x)
        loss, delta = self._loss(zs[-1], activations[-1], y)
        self._update(self._backward(zs, activations, delta))
        return loss

    def predict(self, x: Any) -> Any:
        """What the network gives for a batch: probabilities, where it classifies."""
        return self._forward(x)[1][-1]

    def _forward(self, x: Any) -> tuple[list[Any], list[Any]]:
        zs, activations = [], [x]
        for w, b in zip(self.weights, self.biases, strict=True):
            z = activations[-1] @ w + b
            zs.append(z)
            activations.append(self.activation(z))
        activations[-1] = self._output(zs[-1])
        return zs, activations

    def _output(self, z: Any) -> Any:
        if self.network.loss == "softmax_cross_entropy":
            return softmax(z)
        return sigmoid(z) if self.network.output_activation == "sigmoid" else z

    def _loss(self, z: Any, a: Any, y: Any) -> tuple[float, Any]:
        """The loss, and its derivative by the last weighted input."""
        n = len(y)
        if self.network.loss == "softmax_cross_entropy":
            return -np.sum(y * np.log(a + 1e-12)) / n, (a - y) / n
        if self.network.loss == "mse":
            return np.mean((a - y) ** 2), 2 * (a - y) / y.size
        return np.sum((a - y) ** 2) / n, 2 * (a - y) / n * sigmoid_prime(z)

    def _backward(self, zs: list[Any], activations: list[Any], delta: Any) -> list[Any]:
        nabla_w: list[Any] = []
        nabla_b: list[Any] = []
        for layer in reversed(range(len(self.weights))):
            nabla_w.insert(0, activations[layer].T @ delta)
            nabla_b.insert(0, delta.sum(axis=0))
            if layer > 0:
                delta = (delta @ self.weights[layer].T) * self.activation_prime(zs[layer - 1])
        return nabla_w + nabla_b

    def _update(self, gradients: list[Any]) -> None:
        self.t += 1
        rule = getattr(self, f"_{self.network.optimizer}")
        parameters = self.weights + self.biases
        updated = [
            rule(i, p, g) for i, (p, g) in enumerate(zip(parameters, gradients, strict=True))
        ]
        self.weights, self.biases = updated[: len(self.weights)], updated[len(self.weights) :]

    def _sgd(self, i: int, p: Any, g: Any) -> Any:
        return p - self.network.learning_rate * g

    def _momentum(self, i: int, p: Any, g: Any) -> Any:
        self.m[i] = 0.9 * self.m[i] + g
        return p - self.network.learning_rate * self.m[i]

    def _adam(self, i: int, p: Any, g: Any) -> Any:
        self.m[i] = 0.9 * self.m[i] + 0.1 * g
        self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
        m_hat = self.m[i] / (1 - 0.9**self.t)
        v_hat = self.v[i] / (1 - 0.999**self.t)
        return p - self.network.learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)
