"""Figures of single operators: products, cross-entropies, one neuron, one dense layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.reproduce.figures import Figure, close, published
from nnkernels.spec import Array


def on(backend: Backend, name: str, *inputs: Any, **params: Any) -> Array:
    """The result of one operator in float64, as a NumPy array."""
    arrays = [backend.asarray(np.asarray(value, dtype=np.float64)) for value in inputs]
    return backend.to_numpy(getattr(backend, name)(*arrays, **params))


def matmul(backend: Backend) -> list[Figure]:
    """A vector times a matrix."""
    book = published()["matmul"]
    return [close("product", book["result"], on(backend, "matmul", book["a"], book["b"]), 0)]


def cross_entropies(backend: Backend) -> list[Figure]:
    """The categorical cross-entropy of single rows."""
    row = published()["categorical_cross_entropy_one_row"]
    single = published()["cross_entropy_of_088"]
    p = single["probability"]
    loss = on(backend, "categorical_cross_entropy", [row["probabilities"]], [row["target"]])
    of_p = on(backend, "categorical_cross_entropy", [[p, 1 - p]], [[1, 0]])
    return [
        close("-log 0.3", row["loss"], loss, row["tolerance"]),
        close(f"-log {p}", single["loss"], of_p, single["tolerance"]),
    ]


def perceptron_step(backend: Backend) -> list[Figure]:
    """One neuron with the step as activation."""
    book = published()["perceptron_step"]
    weight = np.reshape(book["weight"], (-1, 1))
    score = on(backend, "linear", book["x"], weight, book["bias"])
    return [close("output", [[book["output"]]], on(backend, "step", score), 0)]


def dense_layer(backend: Backend) -> list[Figure]:
    """A dense layer with relu: a batch gives the rows that the single samples give."""
    book = published()["dense_layer_relu_batching"]
    rng = np.random.RandomState(42)
    x1, x2 = (rng.uniform(-1, 1, (1, 2)) for _ in range(2))
    weight, bias = rng.standard_normal((2, 3)), rng.standard_normal(3)

    def layer(x: Array) -> Array:
        return on(backend, "relu", on(backend, "linear", x, weight, bias))

    tolerance = book["tolerance"]
    rows = [*book["y1"], *book["y2"]]
    return [
        close("inputs", [*book["x1"], *book["x2"]], np.concatenate([x1, x2]), tolerance),
        close("first sample", book["y1"], layer(x1), tolerance),
        close("second sample", book["y2"], layer(x2), tolerance),
        close("both in a batch", rows, layer(np.concatenate([x1, x2])), tolerance),
    ]
