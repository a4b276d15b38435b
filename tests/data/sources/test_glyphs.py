"""glyphs: fixed bits, and as hard as promised."""

import hashlib
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from nnkernels.data import Dataset, load
from nnkernels.data.sources import glyphs
from nnkernels.errors import InputError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("glyphs")


def test_the_default_set(data: Dataset) -> None:
    assert data.x_train.shape == (10_000, 784)
    assert data.x_test.shape == (2_000, 784)
    assert data.classes == 10
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    assert np.bincount(data.y_train, minlength=10).min() > 900
    assert np.bincount(data.y_test, minlength=10).min() > 150


SHA_256 = "3f1ff8424ce4dd49df46a546613633ee0b0bb1cbc1c5950b8aba44155e6b66a1"


def test_the_bits_never_change() -> None:
    images, digits = glyphs.draw(300, seed=0, part=0)
    assert digits[:10].tolist() == [0, 1, 5, 9, 2, 7, 5, 8, 2, 9]
    assert hashlib.sha256(images.tobytes()).hexdigest() == SHA_256


def test_a_smaller_set_is_the_beginning_of_a_larger(data: Dataset) -> None:
    small = load("glyphs", train=70, test=30)
    assert (small.x_train == data.x_train[:70]).all()
    assert (small.y_test == data.y_test[:30]).all()


def test_seeds_and_parts_differ() -> None:
    one, other = load("glyphs", train=50, test=50), load("glyphs", train=50, test=50, seed=1)
    assert (one.x_train != other.x_train).any(axis=1).all()
    assert (one.x_train != one.x_test).any(axis=1).all()


def test_every_image_shows_a_digit(data: Dataset) -> None:
    ink = (data.x_train > 0.5).sum(axis=1)
    assert ink.min() > 15
    assert ink.max() < 350


@pytest.mark.parametrize("option", [{"train": 0}, {"test": -1}, {"train": 1e3}, {"train": 10**9}])
def test_bad_sizes(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be a whole number"):
        load("glyphs", **option)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_linear_model_stays_below_95_percent(data: Dataset) -> None:
    # The best of the penalties 0.03 to 1 on these images; the others stay lower.
    with threadpool_limits(1):
        model = LogisticRegression(C=1.0, max_iter=100).fit(data.x_train, data.y_train)
    assert 0.85 < model.score(data.x_test, data.y_test) < 0.95


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_mlp_passes_98_percent(data: Dataset) -> None:
    model = MLPClassifier((128,), alpha=0, batch_size=64, max_iter=10, random_state=0)
    with threadpool_limits(1):
        model.fit(data.x_train, data.y_train)
    assert model.score(data.x_test, data.y_test) > 0.98
