"""A training loop of one's own: the operators on a backend, without the Trainer."""

from __future__ import annotations

import numpy as np

import nnkernels
from nnkernels import ops
from nnkernels.nn import MLP, Trainer


def train_by_hand(x, y, w1, b1, w2, b2, *, epochs, batch, rate):
    """Gradient descent on a network of two layers; returns the mean loss of every epoch."""
    losses = []
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(x), batch):
            rows, labels = x[start : start + batch], y[start : start + batch]
            hidden = ops.sigmoid(ops.linear(rows, w1, b1))
            loss, probabilities = ops.softmax_cross_entropy(ops.linear(hidden, w2, b2), labels)
            total += float(loss) * len(rows)

            one = np.ones((), x.dtype)
            grad = ops.softmax_cross_entropy_backward(one, probabilities, labels)
            grad, grad_w2, grad_b2 = ops.linear_backward(grad, hidden, w2)
            grad = ops.sigmoid_backward(grad, hidden)
            _, grad_w1, grad_b1 = ops.linear_backward(grad, rows, w1)
            for array, gradient in ((w1, grad_w1), (b1, grad_b1), (w2, grad_w2), (b2, grad_b2)):
                ops.sgd(array, gradient, rate)
        losses.append(total / len(x))
    return losses


def test_it_gives_the_numbers_of_the_trainer():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)).astype("float32"), rng.integers(0, 3, 50)
    model = MLP([4, 8, 3], activation="sigmoid", seed=1)
    arrays = [array.copy() for array in model.parameters.values()]

    history = Trainer(model, "sgd", learning_rate=0.5, backend="numpy").fit(
        x, y, epochs=5, batch_size=16, shuffle=False, progress=False
    )
    with nnkernels.use("numpy"):
        losses = train_by_hand(x, y, *arrays, epochs=5, batch=16, rate=0.5)

    np.testing.assert_array_equal(history["loss"], losses)
    for ours, theirs in zip(arrays, model.parameters.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
