"""spirals: shape, bits, options."""

import hashlib
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from nnkernels.data import load
from nnkernels.errors import InputError


def test_the_default_set() -> None:
    data = load("spirals")
    assert (data.x_train.shape, data.x_test.shape) == ((2_000, 2), (500, 2))
    assert data.classes == 3
    assert np.bincount(data.y_train).min() > 550
    assert 0.9 < np.hypot(*data.x_train.T).max() < 1.2


SHA_256 = "13458e7919cf19634c8551270b4f184b5096ea88ffceb9aa186d085fa7ee1609"


def test_the_bits_never_change() -> None:
    data = load("spirals", dtype="float64", train=200)
    assert hashlib.sha256(data.x_train.tobytes()).hexdigest() == SHA_256


def test_without_noise_the_points_lie_on_their_arms() -> None:
    data = load("spirals", dtype="float64", noise=0.0, classes=4, turns=1.5)
    x, y = data.x_train.T
    angle = np.arctan2(y, x) - 2 * np.pi * 1.5 * np.hypot(x, y)
    difference = np.exp(1j * angle) - np.exp(2j * np.pi * data.y_train / 4)
    assert np.abs(difference).max() < 1e-3


def test_near_neighbours_separate_the_arms_and_lines_do_not() -> None:
    data = load("spirals")
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    assert KNeighborsClassifier(5).fit(*train).score(*test) > 0.9
    assert LogisticRegression().fit(*train).score(*test) < 0.7


@pytest.mark.parametrize(
    "option", [{"classes": 0}, {"noise": -1}, {"noise": float("nan")}, {"turns": "1"}, {"train": 0}]
)
def test_bad_options(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        load("spirals", **option)
