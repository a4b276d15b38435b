"""Learning-rate schedules, alone and in a training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.errors import InputError
from nnkernels.nn import MLP, Constant, Cosine, Exponential, StepDecay, Trainer, WarmUp
from nnkernels.nn.schedules import SCHEDULES, as_schedule, rates

STEPS = np.arange(12)
HALF_WAVE = np.cos(math.pi * np.arange(6) / 6)
RAMP = [0.25, 0.5, 0.75]
EXPECTED = {
    "constant": (Constant(), np.ones(12)),
    "step": (StepDecay(2, 0.5), [1] * 6 + [0.5] * 6),
    "exponential": (Exponential(0.9), np.repeat([1, 0.9, 0.81, 0.729], 3)),
    "cosine": (Cosine(2), [*((1 + HALF_WAVE) / 2), *[1e-12] * 6]),
    "cosine with a floor": (Cosine(2, 0.2), [*(0.6 + 0.4 * HALF_WAVE), *[0.2] * 6]),
    "warm-up": (WarmUp(4), [*RAMP, *[1] * 9]),
    "warm-up, then": (WarmUp(4, Exponential(0.5)), [*RAMP, *np.repeat([0.5, 0.25, 0.125], 3)]),
}


@pytest.mark.parametrize(("schedule", "expected"), EXPECTED.values(), ids=EXPECTED)
def test_factors_of_twelve_steps_in_epochs_of_three(schedule, expected):
    np.testing.assert_allclose(schedule(STEPS, 3), expected, rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_names_give_positive_factors_up_to_1(name):
    factors = as_schedule(name, 10)(np.arange(40), 4)
    assert ((factors > 0) & (factors <= 1)).all()


@given(st.integers(0, 50), st.integers(1, 20), st.sampled_from(list(EXPECTED)))
def test_a_schedule_does_not_depend_on_where_an_epoch_is_cut(first, count, name):
    schedule = EXPECTED[name][0]
    whole = rates(schedule, 0.1, 0, first + count, 5)
    np.testing.assert_array_equal(rates(schedule, 0.1, first, count, 5), whole[first:])


@pytest.mark.parametrize(
    "make",
    [
        lambda: StepDecay(0),
        lambda: StepDecay(2, 1.5),
        lambda: Exponential(0),
        lambda: Exponential(float("nan")),
        lambda: Cosine(0),
        lambda: Cosine(3, -0.1),
        lambda: WarmUp(0),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="schedule"):
        make()


@pytest.mark.parametrize(
    "function",
    [
        lambda step, per_epoch: np.zeros(len(step)),
        lambda step, per_epoch: -np.ones(len(step)),
        lambda step, per_epoch: np.full(len(step), np.nan),
        lambda step, per_epoch: np.ones(len(step) + 1),
        lambda step, per_epoch: 1.0,
    ],
)
def test_functions_that_give_no_rates_are_refused_before_training(function):
    trainer = Trainer(MLP([2, 2], seed=1), schedule=function)
    before = trainer.weights()
    with pytest.raises(InputError, match="factors above 0"):
        trainer.fit(np.ones((6, 2)), [0, 1] * 3, batch_size=2, progress=False)
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("schedule", [Cosine(4), WarmUp(7, StepDecay(1, 0.5)), "exponential"])
def test_every_step_of_a_training_has_its_rate(schedule):
    """A gradient of exactly 1: the bias moves by the learning rate."""
    trainer = Trainer(
        MLP([1, 1], loss="sum_squared_error", dtype="float64"),
        learning_rate=0.5,
        schedule=schedule,
        clip_value=1e-9,
    )
    x, y = np.zeros((6, 1)), np.full(6, 1e3)
    trainer.fit(x, y, epochs=4, batch_size=2, record=["linear0.bias"], progress=False)
    factors = as_schedule(schedule, 4)(np.arange(12), 3)
    np.testing.assert_allclose(trainer.history["learning_rate"], 0.5 * factors[2::3], rtol=1e-14)
    moved = np.concatenate(trainer.history.recorded["linear0.bias"])
    np.testing.assert_allclose(moved, 0.5e-9 * factors.cumsum()[2::3], rtol=1e-12)
