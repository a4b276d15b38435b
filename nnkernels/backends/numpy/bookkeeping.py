"""Counters and sums of a step."""

from __future__ import annotations

from nnkernels.backend import KernelTable
from nnkernels.spec import Array

kernels = KernelTable(blas=False)


@kernels.kernel
def accumulate(total: Array, value: Array, *, weight: float) -> None:
    """On Python numbers, which cost less than arrays of one element."""
    total[...] = total.item() + weight * value.item()


@kernels.kernel
def count(total: Array, value: Array) -> None:
    """On Python numbers."""
    total[...] = total.item() + value.item()


@kernels.kernel
def advance(row: Array, *, rows: int) -> None:
    """On Python numbers."""
    row[...] = row.item() + rows


@kernels.kernel
def tick(step: Array, epoch_step: Array, learning_rate: Array, schedule: Array) -> None:
    """On Python numbers."""
    position = epoch_step.item()
    learning_rate[...] = schedule[min(position, len(schedule) - 1)]
    step[...] = step.item() + 1
    epoch_step[...] = position + 1
