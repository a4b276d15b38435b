"""Counters and sums of a step: single numbers, each an array of one element."""

from __future__ import annotations

import numpy as np

from nnkernels.backends.numba.compiling.family import Family
from nnkernels.spec import Array

family = Family()


@family.phase()
def accumulate(total: Array, value: Array, weight: float) -> None:
    """``total += weight value``, in float64."""
    total[0] += weight * np.float64(value[0])


@family.phase()
def count(total: Array, value: Array) -> None:
    """``total += value``, in float64."""
    total[0] += np.float64(value[0])


@family.phase()
def advance(row: Array, rows: int) -> None:
    """``row += rows``."""
    row[0] += rows


@family.phase()
def tick(step: Array, epoch_step: Array, learning_rate: Array, schedule: Array) -> None:
    """``learning_rate = schedule[epoch_step]``, or its last entry; both counters grow by one."""
    learning_rate[0] = schedule[min(epoch_step[0], schedule.size - 1)]
    step[0] += 1
    epoch_step[0] += 1
