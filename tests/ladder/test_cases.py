"""The shared cases reach every kernel, and say so when something is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from ladder import cases
from ladder.arrays import decode, device, encode
from ladder.trials import Result, Trial, disagreement

from nnkernels.backends.cupy import sources

KERNELS = [(m, kernel) for m in sources.module_names() for kernel in sources.signatures(m)]


@pytest.mark.parametrize("storage", sources.STORAGES)
def test_no_kernel_is_without_a_case(storage):
    assert not set(KERNELS) - set(cases.cases_by_kernel(storage))


def test_names_of_cases_are_unique():
    names = [str(case) for case in cases.all_cases()]
    assert len(set(names)) == len(names)


def result(values, expected, bound):
    array = device(np.asarray(values, np.float32))
    expected = np.asarray(expected, np.float64)
    return Result("y", array, expected, np.broadcast_to(bound, expected.shape))


@pytest.mark.parametrize(
    ("values", "expected", "bound"),
    [
        ([1.0, np.nan], [1.0, 2.0], 0.5),
        ([1.0, 2.0], [1.0, np.nan], 0.5),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([1.0, 3.0], [1.0, np.inf], np.inf),
        ([1.0, 2.6], [1.0, 2.0], 0.5),
        ([1.0, 2.6], [1.0, 2.0], np.nan),
    ],
)
def test_a_wrong_number_is_told(values, expected, bound):
    assert "y[1] is" in disagreement(result(values, expected, bound))


@pytest.mark.parametrize(
    ("values", "expected", "bound"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.inf, 1.2], [np.inf, 1.0], 0.5),
        ([np.inf], [1e300], 0.0),
    ],
)
def test_a_right_number_is_not(values, expected, bound):
    assert not disagreement(result(values, expected, bound))


def test_a_changed_input_is_told():
    array = device(np.zeros(3))
    trial = Trial([], [], [array])
    assert not trial.faults()
    array[1] = 1
    assert trial.faults() == ["an input of shape (3,) has changed"]


def test_bfloat16_is_rounded_to_nearest_ties_to_even():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, np.inf, -2.5])
    wanted = [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, np.inf, -2.5]
    assert decode(encode(values, np.uint16)).tolist() == wanted
    assert np.isnan(decode(encode(np.array([np.nan]), np.uint16)))
