"""What a step keeps count of: its place in the data, the learning rate, sums of loss and metrics.

These operators work on single numbers of the State; see ``docs/program.md``.
"""

from __future__ import annotations

import numpy as np

from nnkernels.spec import Array, Error, op

__all__ = ["accumulate", "advance", "count", "tick"]


def _accumulate_scale(
    results: tuple[Array, ...], total: Array, value: Array, *, weight: float
) -> tuple[Array, ...]:
    return (np.abs(total) + np.abs(weight * value),)


@op(
    "()scalar,()->",
    error=Error(1, _accumulate_scale),
    updates=("total",),
    limits={"weight": "(-inf,inf)"},
)
def accumulate(total: Array, value: Array, *, weight: float = 1.0) -> Array:
    """Add ``weight * value`` to the float64 sum ``total``, in place."""
    return np.asarray(total + weight * value.astype(np.float64))


@op("()scalar,()int->", error=Error(0), updates=("total",))
def count(total: Array, value: Array) -> Array:
    """Add the integer ``value`` to the float64 sum ``total``, in place; exact below 2**53."""
    return np.asarray(total + value)


@op("()counter->", error=Error(0), updates=("row",), limits={"rows": "[0,inf)"})
def advance(row: Array, *, rows: int) -> Array:
    """Move the data cursor ``row`` by ``rows``, in place."""
    return np.asarray(row + rows)


@op(
    "()counter,()counter,()scalar,(s+)scalar->",
    error=Error(0),
    updates=("step", "epoch_step", "learning_rate"),
)
def tick(
    step: Array, epoch_step: Array, learning_rate: Array, schedule: Array
) -> tuple[Array, Array, Array]:
    """Begin an update: count the step and look up its learning rate, in place.

    ``learning_rate`` becomes ``schedule[epoch_step]``, then both counters grow by one. Beyond the
    schedule's end the last entry holds.
    """
    rate = schedule[min(int(epoch_step), len(schedule) - 1)]
    return np.asarray(step + 1), np.asarray(epoch_step + 1), np.asarray(rate)
