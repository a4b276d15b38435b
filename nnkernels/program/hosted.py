"""Input arrays that stay in host memory, where the device has no room: a step fetches its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.backend import Backend, Device
from nnkernels.program.format import INPUT, Instruction, Program
from nnkernels.spec import Array, get_op

GATHER = "gather_rows"


def is_hosted(device: Device, array: Any) -> bool:
    """Whether ``array`` lies in host memory, and ``device`` has another."""
    return isinstance(array, np.ndarray) and not device.owns(array)


def read_in_rows(program: Program) -> frozenset[str]:
    """Names of the inputs of which a step only reads rows that the host can find.

    Those are windows that nothing writes, and the data that ``gather_rows`` takes rows from by such
    a window.
    """
    others = {n for instruction in program.instructions for n in _others(program, instruction)}
    return frozenset(program.inputs) - {program.slots[number].name for number in others}


def _others(program: Program, instruction: Instruction) -> Iterator[int]:
    """The slots that an instruction uses in any other way."""
    op = get_op(instruction.op)
    written = {op.inputs.index(name) for name in op.updates}
    for position, number in enumerate(instruction.inputs):
        window = program.slots[number].window and position not in written
        if not (window or (position == 0 and gathers(program, instruction))):
            yield number
    yield from (number for number in instruction.outputs if number is not None)


def gathers(program: Program, instruction: Instruction) -> bool:
    """Whether an instruction takes rows of a whole input by a window of another."""
    if instruction.op != GATHER:
        return False
    data, rows = (program.slots[number] for number in instruction.inputs)
    return data.buffer == rows.buffer == INPUT and rows.window and not data.window


class PickedRows:
    """What ``gather_rows`` gets for data in host memory: its rows alone, and their numbers.

    Args:
        backend: on whose device the kernel runs.
        data: the rows to pick from, in host memory.
        order: numbers of rows, in host memory or on the device.
        count: rows that a step takes.
    """

    def __init__(self, backend: Backend, data: Array, order: Any, count: int) -> None:
        hosted = isinstance(order, np.ndarray)
        self._backend, self._data, self._count = backend, data, count
        self._order = order if hosted else backend.to_numpy(order)
        self._numbers = backend.asarray(np.arange(count))

    def at(self, row: int) -> tuple[Array, Array]:
        """The arrays on the device for the step at ``row``."""
        rows = self._order[row : row + self._count]
        return self._backend.asarray(self._data[rows]), self._numbers
