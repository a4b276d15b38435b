"""Learning-rate schedules: factors on the optimizer's rate, one for each step.

A schedule is plain data that can be called with the numbers of the steps (from 0, counted over the
whole training) and the number of steps in an epoch; it is evaluated once for each epoch. Any
function of these two arguments serves as well, but only the ones here are stored in checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from nnkernels.errors import InputError, unknown
from nnkernels.spec import Array


class Schedule(msgspec.Struct, frozen=True, tag_field="kind"):
    """Base of all schedules."""

    def __call__(self, step: Array, per_epoch: int) -> Array:
        """Factors for the steps ``step`` (int64) with ``per_epoch`` steps in an epoch."""
        raise NotImplementedError


class Constant(Schedule, frozen=True, tag="constant"):
    """Always 1."""

    def __call__(self, step: Array, per_epoch: int) -> Array:
        """Ones."""
        return np.ones(len(step))


class StepDecay(Schedule, frozen=True, tag="step"):
    """``factor`` to the power of the number of whole periods of ``every`` epochs."""

    every: int = 10
    factor: float = 0.1

    def __post_init__(self) -> None:
        _require(self.every >= 1 and 0 < self.factor <= 1, "StepDecay: every >= 1, 0 < factor <= 1")

    def __call__(self, step: Array, per_epoch: int) -> Array:
        """A staircase."""
        return np.asarray(self.factor ** (step // (self.every * per_epoch)).astype(float))


class Exponential(Schedule, frozen=True, tag="exponential"):
    """``gamma`` to the power of the epoch's number."""

    gamma: float = 0.95

    def __post_init__(self) -> None:
        _require(0 < self.gamma <= 1, "Exponential: 0 < gamma <= 1")

    def __call__(self, step: Array, per_epoch: int) -> Array:
        """One value an epoch."""
        return np.asarray(self.gamma ** (step // per_epoch).astype(float))


class Cosine(Schedule, frozen=True, tag="cosine"):
    """Half a cosine from 1 down to ``floor`` over ``epochs`` epochs, step by step, then flat.

    Source: Loshchilov and Hutter (2017), without restarts.
    """

    epochs: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        _require(self.epochs >= 1 and 0 <= self.floor <= 1, "Cosine: epochs >= 1, 0 <= floor <= 1")

    def __call__(self, step: Array, per_epoch: int) -> Array:
        """The wave, never quite 0: a rate of 0 is no training."""
        progress = np.minimum(step / (self.epochs * per_epoch), 1)
        wave = self.floor + (1 - self.floor) * (1 + np.cos(math.pi * progress)) / 2
        return np.asarray(np.maximum(wave, 1e-12))


class WarmUp(Schedule, frozen=True, tag="warm_up"):
    """Linear from ``1/steps`` to 1 over the first ``steps`` steps, times the schedule ``then``."""

    steps: int
    then: Constant | StepDecay | Exponential | Cosine = Constant()

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "WarmUp: steps >= 1")

    def __call__(self, step: Array, per_epoch: int) -> Array:
        """The ramp times ``then``."""
        return np.asarray(np.minimum((step + 1) / self.steps, 1) * self.then(step, per_epoch))


AnySchedule = Constant | StepDecay | Exponential | Cosine | WarmUp
ScheduleLike = Callable[[Array, int], Array]

SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "constant": lambda epochs: Constant(),
    "step": lambda epochs: StepDecay(max(epochs // 3, 1)),
    "exponential": lambda epochs: Exponential(),
    "cosine": lambda epochs: Cosine(epochs),
    "warm_up": lambda epochs: WarmUp(100),
}
"""Schedules by name, with defaults for a training of so many epochs in all."""


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise InputError(f"schedule {rule}")


def as_schedule(value: Any, epochs: int) -> ScheduleLike:
    """A schedule from a name, a function, or None (constant); ``epochs`` in all."""
    if value is None:
        return Constant()
    if isinstance(value, str):
        if value not in SCHEDULES:
            raise unknown("schedule", value, SCHEDULES)
        return SCHEDULES[value](max(epochs, 1))
    if not callable(value):
        raise InputError(f"schedule must be a name, a Schedule or a function, got {value!r}")
    chosen: ScheduleLike = value
    return chosen


def rates(
    schedule: ScheduleLike, rate: float, first_step: int, count: int, per_epoch: int
) -> Array:
    """Learning rates of ``count`` steps from ``first_step`` on, checked."""
    factors = np.asarray(schedule(np.arange(first_step, first_step + count), per_epoch))
    if factors.shape != (count,) or not (np.isfinite(factors).all() and (factors > 0).all()):
        raise InputError(f"schedule must give {count} finite factors above 0, got {factors!r}")
    return rate * factors
