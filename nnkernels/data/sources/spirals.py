"""``spirals``: interleaved spirals in the plane, which no straight line separates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkernels.data import draws
from nnkernels.data.dataset import Dataset, FloatType, check_count, check_number


def load(
    *,
    dtype: FloatType,
    seed: int,
    train: int = 2_000,
    test: int = 500,
    classes: int = 3,
    noise: float = 0.03,
    turns: float = 1.0,
) -> Dataset:
    """Draw points ``[rows, 2]`` on ``classes`` arms of a unit disc that wind ``turns`` times.

    Each point stands at a radius uniform in [0.05, 1) on its arm and is moved by a nearly normal
    error of standard deviation ``noise``. Coordinates are multiples of 2**-16, so that the last
    bits of a machine's cosine do not show.
    """
    check_count("spirals", "train", train, 1)
    check_count("spirals", "test", test, 0)
    check_count("spirals", "classes", classes, 1, 1_000)
    check_number("spirals", "noise", noise, 0, 10)
    check_number("spirals", "turns", turns, 0, 100)
    parts = [
        _draw(rows, seed, part, classes, noise, turns) for part, rows in enumerate((train, test))
    ]
    (x_train, y_train), (x_test, y_test) = parts
    return Dataset(
        name="spirals",
        x_train=x_train.astype(dtype),
        y_train=y_train,
        x_test=x_test.astype(dtype),
        y_test=y_test,
        classes=classes,
        source=f"drawn by nnkernels, seed {seed}",
    )


def _draw(
    count: int, seed: int, part: int, classes: int, noise: float, turns: float
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    choice = draws.uniform(seed, 2 * part, count, 2)
    arms = (choice[:, 0] * classes).astype(np.int64)
    radius = 0.05 + 0.95 * choice[:, 1]
    angle = 2 * np.pi * (turns * radius + arms / classes)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points += noise * draws.bell(seed, 2 * part + 1, count, 2)
    return np.round(points * 2**16) / 2**16, arms
