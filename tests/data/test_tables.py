"""From tables to a Dataset: targets, classes, splitting."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.data import Dataset
from nnkernels.data.tables import from_parts, from_xy
from nnkernels.errors import DatasetError, InputError


def split(x: Any, y: Any, **changes: Any) -> Dataset:
    options: dict[str, Any] = {
        "dtype": np.float32,
        "seed": 0,
        "task": "auto",
        "test_fraction": 0.25,
        "source": "test",
    }
    return from_xy("toy", np.asarray(x), np.asarray(y), **{**options, **changes})


@given(st.integers(2, 40), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_a_split_keeps_every_row_once_and_pairs_intact(
    rows: int, fraction: float, seed: int
) -> None:
    x = np.arange(rows)[:, None]
    data = split(x, x * 0.5, test_fraction=fraction, seed=seed)
    assert sorted(np.append(data.x_train, data.x_test)) == list(range(rows))
    assert (data.y_train == data.x_train / 2).all()
    assert (data.y_test == data.x_test / 2).all()
    if fraction:
        assert len(data.x_train) >= 1
        assert len(data.x_test) >= 1
        assert abs(len(data.x_test) - fraction * rows) <= 1
    else:
        assert len(data.x_test) == 0


def test_the_split_depends_on_the_seed_alone() -> None:
    x = np.arange(50)[:, None]
    assert (split(x, x).x_test == split(x, x).x_test).all()
    assert set(split(x, x).x_test.ravel()) != set(split(x, x, seed=1).x_test.ravel())


@pytest.mark.parametrize(
    ("y", "task", "classes"),
    [
        ([0, 2, 1, 1], "auto", 3),
        ([0.0, 2.0, 1.0, 1.0], "auto", 3),
        ([[0], [2], [1], [1]], "classification", 3),
        ([True, False, True, True], "auto", 2),
        ([0, 2, 1, 1], "regression", None),
        ([0.5, 2, 1, 1], "auto", None),
        ([-1, 1, 1, -1], "auto", None),
        ([0, 10_000, 1, 1], "auto", None),
        ([[0, 1], [1, 0], [1, 0], [0, 1]], "auto", None),
    ],
)
def test_targets(y: Any, task: str, classes: int | None) -> None:
    data = split(np.zeros((4, 2)), y, task=task)
    assert data.classes == classes
    assert data.y_train.dtype == (np.float32 if classes is None else np.int64)
    assert data.y_train.ndim == (2 if classes is None else 1)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (np.zeros(4), np.zeros(4), r"x must have at least 2 .* dimensions, got shape \(4,\)"),
        (np.zeros((4, 2)), np.zeros(3), "x has 4 rows and y 3"),
        (np.zeros((4, 2)), np.zeros(()), "y must have at least 1"),
        (np.zeros((4, 2)), np.zeros((4, 2, 2)), "y must have"),
        (np.zeros((4, 0)), np.zeros(4), "at least one row and one column"),
        (np.zeros((1, 2)), np.zeros(1), "1 rows cannot be split"),
        (np.zeros((0, 2)), np.zeros(0), "0 rows cannot be split"),
        (np.zeros((4, 2), complex), np.zeros(4), "got dtype complex128"),
        (np.zeros((4, 2), object), np.zeros(4), "got dtype object"),
        (np.zeros((4, 2), np.longdouble), np.zeros(4), "at most 64 bits"),
        (np.zeros((4, 2)), np.array(["a"] * 4), "y must hold integers or floats"),
        (np.full((4, 2), 1e300), np.zeros(4), r"holds 1e\+300 in row 0, column 0"),
        (np.full((4, 2), -np.inf), np.zeros(4), "holds -inf"),
        (np.zeros((4, 2)), np.full(4, np.nan), "y holds nan in row 0"),
    ],
)
def test_arrays_that_cannot_be_used(x: np.ndarray, y: np.ndarray, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        split(x, y)


@pytest.mark.parametrize("bad", [1.5, -1, 10_000, np.nan])
def test_a_label_that_is_none_is_named(bad: float) -> None:
    with pytest.raises(DatasetError, match=rf"got {bad} in row 2 .*task='regression'"):
        from_parts("toy", parts(y_train=np.array([0, 1, bad])), **OPTIONS, task="classification")


def test_one_hot_rows_are_no_labels() -> None:
    with pytest.raises(DatasetError, match=r"got shape \(4, 2\)|got shape \(3, 2\)"):
        split(np.zeros((4, 2)), np.ones((4, 2)), task="classification")


@pytest.mark.parametrize("options", [{"task": "clustering"}, {"test_fraction": 1.5}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        split(np.zeros((4, 2)), np.zeros(4), **options)


OPTIONS: dict[str, Any] = {"dtype": np.float64, "source": "test"}


def parts(**changes: np.ndarray) -> dict[str, np.ndarray]:
    whole = {
        "x_train": np.zeros((3, 2)),
        "y_train": np.arange(3),
        "x_test": np.zeros((1, 2)),
        "y_test": np.array([4]),
    }
    return {**whole, **changes}


def test_classes_count_both_parts() -> None:
    assert from_parts("toy", parts(), **OPTIONS, task="auto").classes == 5


def test_more_dimensions_are_flattened() -> None:
    images = {"x_train": np.arange(12).reshape(3, 2, 2), "x_test": np.zeros((1, 2, 2))}
    data = from_parts("toy", parts(**images), **OPTIONS, task="auto")
    assert data.x_train.tolist()[2] == [8, 9, 10, 11]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x_test": np.zeros((1, 3))}, "same number"),
        ({"x_test": np.zeros((2, 2))}, "x_test has 2 rows and y_test 1"),
        (
            {"y_train": np.zeros((3, 2)), "y_test": np.zeros((1, 3))},
            "y_train and y_test differ",
        ),
        ({"x_test": np.array([[0, np.nan]])}, "x_test holds nan in row 0, column 1"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        from_parts("toy", parts(**changes), **OPTIONS, task="auto")
