"""digits: scikit-learn's set."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nnkernels.data import load
from nnkernels.errors import MissingExtraError


def test_all_rows_are_there_in_two_parts() -> None:
    data = load("digits", dtype="float64")
    assert (len(data.x_train), len(data.x_test), data.features) == (1438, 359, 64)
    pixels, digits = load_digits(return_X_y=True)
    ours = np.column_stack(
        [np.vstack([data.x_train, data.x_test]), np.append(data.y_train, data.y_test)]
    )
    theirs = np.column_stack([pixels / 16, digits])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_the_seed_splits() -> None:
    assert (load("digits").y_test == load("digits", seed=0).y_test).all()
    assert (load("digits").y_test != load("digits", seed=1).y_test).any()


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nnkernels\[sklearn\]'"):
        load("digits")
