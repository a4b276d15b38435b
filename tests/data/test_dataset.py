"""Dataset: what it accepts, how it describes itself."""

from typing import Any

import numpy as np
import pytest

from nnkernels.data.dataset import Dataset, check_count, check_number
from nnkernels.errors import DTypeError, InputError, LabelError, NnkernelsError, ShapeError


def make(**changes: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": "toy",
        "x_train": np.zeros((3, 2), np.float32),
        "y_train": np.array([0, 1, 1]),
        "x_test": np.zeros((1, 2), np.float32),
        "y_test": np.array([1]),
        "classes": 2,
        "source": "nowhere",
    }
    return Dataset(**{**fields, **changes})


def test_describe_a_classification_set() -> None:
    data = make()
    assert data.features == 2
    expected = "toy: 3 train + 1 test rows, 2 features, 2 classes, float32 (nowhere)"
    assert data.describe() == expected


def test_describe_a_regression_set() -> None:
    targets = {"y_train": np.zeros((3, 4), np.float32), "y_test": np.zeros((1, 4), np.float32)}
    assert "2 features, 4 targets, float32" in make(classes=None, **targets).describe()


def test_the_test_part_may_be_empty() -> None:
    assert len(make(x_test=np.zeros((0, 2), np.float32), y_test=np.zeros(0, np.int64)).x_test) == 0


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (ShapeError, {"x_train": np.zeros(3, np.float32)}),
        (ShapeError, {"x_train": np.zeros((3, 4), np.float32)[:, ::2]}),
        (ShapeError, {"x_test": np.zeros((1, 3), np.float32)}),
        (ShapeError, {"x_train": np.zeros((0, 2), np.float32), "y_train": np.zeros(0, np.int64)}),
        (DTypeError, {"x_test": np.zeros((1, 2), np.float64)}),
        (
            DTypeError,
            {"x_train": np.zeros((3, 2), np.float16), "x_test": np.zeros((1, 2), np.float16)},
        ),
        (ShapeError, {"y_train": np.array([0, 1])}),
        (ShapeError, {"y_train": np.zeros((3, 1), np.int64)}),
        (ShapeError, {"classes": None}),
        (DTypeError, {"y_train": np.zeros(3, np.int32)}),
        (DTypeError, {"y_train": np.zeros((3, 1)), "y_test": np.zeros((1, 1)), "classes": None}),
        (LabelError, {"y_train": np.array([0, 1, 2])}),
        (LabelError, {"y_test": np.array([-1])}),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    error: type[NnkernelsError], changes: dict[str, Any]
) -> None:
    with pytest.raises(error, match="toy"):
        make(**changes)


@pytest.mark.parametrize("value", [0, 11, 1.0, "1", None, True])
def test_check_count_refuses(value: object) -> None:
    check_count("toy", "rows", np.int64(1), 1, 10)
    with pytest.raises(InputError, match="rows must be a whole number from 1 to 10"):
        check_count("toy", "rows", value, 1, 10)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "1", None, True])
def test_check_number_refuses(value: object) -> None:
    check_number("toy", "noise", 1, 0, 1)
    with pytest.raises(InputError, match="noise must be a number from 0 to 1"):
        check_number("toy", "noise", value, 0, 1)
