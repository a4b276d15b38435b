"""The trace of the 784-64-32-10 network on MNIST, epoch by epoch."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.data import Dataset, load
from nnkernels.nn import MLP, Callback, Epoch, Trainer
from nnkernels.reproduce.figures import Figure, Progress, close, digits, published
from nnkernels.spec import Array

SIZES = (784, 64, 32, 10)
BATCH = 30
LEARNING_RATE = 0.001 * BATCH
"""The book does not divide the gradient by the batch size; ``sum_squared_error`` does."""

DTYPES = ("float64", "float32")
LOSS_TOLERANCE, ACCURACY_TOLERANCE = 1e-5, 0.05
"""What float32 may differ by; the accuracy in percentage points."""

SHORT = 3
"""Epochs of a run that is not full."""


def trace(
    backend: Backend,
    directory: str | os.PathLike[str],
    dtype: str,
    *,
    full: bool,
    progress: Progress | None,
) -> list[Figure]:
    """Loss and test accuracy, untrained and after the epochs that the book prints.

    The first three epochs, or all 500 when ``full``. In float64 every printed digit must agree.
    """
    data = load("mnist", directory=directory, dtype=dtype)
    book = published()["mnist_mlp"]
    trainer = _trainer(backend, dtype)
    figures = _untrained(trainer, data, book["untrained"])
    rows = [row for row in book["trace"] if full or row[0] < SHORT]
    epochs = _train(trainer, data, rows[-1][0] + 1, progress)
    for number, loss, accuracy in rows:
        values = epochs[number].values
        ours = values["loss"], 100 * values["val_accuracy"]
        figures += _pair(dtype, f"epoch {number}", (loss, accuracy), ours)
    return figures


def _trainer(backend: Backend, dtype: str) -> Trainer:
    model = MLP(
        SIZES,
        activation="sigmoid",
        output_activation="sigmoid",
        loss="sum_squared_error",
        dtype=dtype,
        parameters=_initial_parameters(),
    )
    return Trainer(model, learning_rate=LEARNING_RATE, backend=backend, metrics=["accuracy"])


def _initial_parameters() -> dict[str, Array]:
    """The book's initial weights, from NumPy's legacy generator."""
    rng = np.random.RandomState(42)
    rng.randint(0, 10000)  # drawn by the book to show an image
    arrays = {}
    for layer, shape in enumerate(itertools.pairwise(SIZES)):
        arrays[f"linear{2 * layer}.weight"] = rng.standard_normal(shape)
        arrays[f"linear{2 * layer}.bias"] = rng.standard_normal(shape[1])
    return arrays


def _untrained(trainer: Trainer, data: Dataset, book: dict[str, Any]) -> list[Figure]:
    loss = trainer.evaluate(data.x_train, data.y_train)["loss"]
    accuracy = trainer.evaluate(data.x_test, data.y_test)["accuracy"]
    wanted = book["training_loss"], 100 * book["test_accuracy"]
    return _pair(trainer.model.dtype, "untrained", wanted, (loss, 100 * accuracy))


def _train(trainer: Trainer, data: Dataset, epochs: int, progress: Progress | None) -> list[Epoch]:
    history = trainer.fit(
        data.x_train,
        data.y_train,
        epochs=epochs,
        batch_size=BATCH,
        shuffle=False,
        validation_data=(data.x_test, data.y_test),
        callbacks=[_Reporter(progress, epochs)] if progress else [],
        progress=False,
    )
    return history.epochs


def _pair(
    dtype: str, when: str, wanted: tuple[float, float], got: tuple[float, float]
) -> list[Figure]:
    """Loss and accuracy in percent of one moment."""
    names = f"{when}, loss", f"{when}, accuracy %"
    if dtype == "float64":
        return [digits(n, w, g, p) for n, w, g, p in zip(names, wanted, got, (6, 2), strict=True)]
    accepted = LOSS_TOLERANCE, ACCURACY_TOLERANCE
    return [close(n, w, g, t) for n, w, g, t in zip(names, wanted, got, accepted, strict=True)]


class _Reporter(Callback):
    """Tells how many epochs are done."""

    def __init__(self, report: Progress, epochs: int) -> None:
        self._report, self._epochs = report, epochs

    def progress(self, trainer: Trainer, epoch: int, step: int, steps: int) -> None:
        self._report(epoch + step / steps, self._epochs, f"epoch {epoch}")
