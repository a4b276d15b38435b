import numpy as np
import pytest

import nnkernels as nn
from nnkernels.errors import DTypeError, InputError, ShapeError


@pytest.fixture(params=["numpy", "reference"])
def backend(request):
    return nn.get_backend(request.param)


def scalar(value):
    return np.array(value, np.float64)


def counter(value):
    return np.array(value, np.int64)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accumulate_adds_in_float64(backend, dtype):
    total = scalar(2.0**30)
    for _ in range(10):
        assert backend.accumulate(total, np.array(0.5, dtype), weight=3.0) is total
    assert total.item() == 2.0**30 + 15
    assert total.dtype == np.float64


def test_accumulate_passes_on_nan_and_refuses_bad_weights(backend):
    total = scalar(1.0)
    with pytest.raises(InputError, match="weight"):
        backend.accumulate(total, np.array(1.0), weight=float("nan"))
    assert total.item() == 1
    backend.accumulate(total, np.array(np.nan))
    assert np.isnan(total.item())


def test_count_is_exact(backend):
    total = scalar(2.0**53 - 3)
    backend.count(total, counter(2))
    assert total.item() == 2.0**53 - 1
    with pytest.raises(DTypeError, match="value"):
        backend.count(total, scalar(1.0))


def test_advance_moves_the_cursor(backend):
    row = counter(2**40)
    assert backend.advance(row, rows=32) is row
    assert row.item() == 2**40 + 32
    with pytest.raises(InputError, match="rows"):
        backend.advance(row, rows=-1)


def test_tick_counts_and_looks_up_the_learning_rate(backend):
    step, epoch_step, rate = counter(10), counter(0), scalar(0.0)
    schedule = np.array([0.3, 0.2, 0.1])
    seen = []
    for _ in range(5):
        backend.tick(step, epoch_step, rate, schedule)
        seen.append(rate.item())
    assert seen == [0.3, 0.2, 0.1, 0.1, 0.1]
    assert (step.item(), epoch_step.item()) == (15, 5)
    np.testing.assert_array_equal(schedule, [0.3, 0.2, 0.1])


def test_tick_needs_a_schedule(backend):
    with pytest.raises(ShapeError, match="schedule"):
        backend.tick(counter(0), counter(0), scalar(0.0), np.array([]))
