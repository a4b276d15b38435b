"""Counters and sums of a step: single numbers of the State, which stay on the device."""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.launching import Launch, Queue, RecipeTable, storage_of

recipes = RecipeTable()

THREADS = 1
"""All work is on single numbers."""


def _by_one_thread(queue: Queue, kernel: str, *arguments: Any, storage: str = "float32") -> None:
    """Launch on one thread; ``storage`` matters only where a floating array is read."""
    queue.launch(Launch("bookkeeping", kernel, storage, (1, 1), THREADS, arguments))


@recipes.recipe
def accumulate(queue: Queue, total: Any, value: Any, *, weight: float, skip: Any = None) -> None:
    """``total += weight value`` in float64."""
    storage = storage_of(value)
    _by_one_thread(queue, "accumulate", total, value, weight, skip, storage=storage)


@recipes.recipe
def count(queue: Queue, total: Any, value: Any, *, skip: Any = None) -> None:
    """``total += value`` in float64."""
    _by_one_thread(queue, "count", total, value, skip)


@recipes.recipe
def advance(queue: Queue, row: Any, *, rows: int, skip: Any = None) -> None:
    """``row += rows``."""
    _by_one_thread(queue, "advance", row, rows, skip)


@recipes.recipe
def tick(
    queue: Queue,
    step: Any,
    epoch_step: Any,
    learning_rate: Any,
    schedule: Any,
    *,
    skip: Any = None,
) -> None:
    """The schedule's learning rate, then both counters grow by one."""
    arguments = (step, epoch_step, learning_rate, schedule, schedule.size, skip)
    _by_one_thread(queue, "tick", *arguments)


def guard(queue: Queue, loss: Any, diverged: Any) -> None:
    """Set the counter ``diverged`` if the loss is not finite; update kernels then skip."""
    _by_one_thread(queue, "guard", loss, diverged, storage=storage_of(loss))
