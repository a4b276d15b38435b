"""The Program: a training, evaluation or prediction step as pure data.

The format is documented in ``docs/program.md`` and frozen: executors are built on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nnkernels.errors import ProgramError

FORMAT = 1
ALIGNMENT = 64
Phase = Literal["compute", "update"]

ARENA = "arena"
CONSTANT = "constant"
INPUT = "input"

SCALARS = (
    "learning_rate",
    "loss_sum",
    "metric0",
    "metric1",
    "metric2",
    "metric3",
)
COUNTERS = ("seed", "step", "epoch_step", "row", "diverged")


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to the alignment of slots."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Slot:
    """A named array that instructions read and write.

    Attributes:
        name: unique within the Program.
        shape: its shape; ``()`` for scalars.
        dtype: NumPy's name of the dtype.
        buffer: ``arena`` (scratch of the Executable), ``constant``, ``input``, or a State buffer.
        offset: bytes from the start of a State buffer; 0 elsewhere.
        window: of an input: the rows ``[row, row + shape[0])`` of the array that was fed, where
            ``row`` is the State's counter, instead of the whole array.
        interval: of an integer input: the allowed values, checked when it is fed.
        value: of a constant: its value in every element.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: str = ARENA
    offset: int = 0
    window: bool = False
    interval: tuple[int, int] | None = None
    value: float | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Instruction:
    """One catalogue operator on slots.

    Attributes:
        op: name of the operator.
        inputs: slot numbers, in the operator's order.
        outputs: slot numbers; None for an output that is not wanted.
        params: the operator's parameters, all of them.
        phase: ``update`` instructions run only if the guard's loss is finite.
        label: the layer or purpose it stands for, for people.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    phase: Phase = "compute"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A named array inside a State buffer."""

    name: str
    buffer: str
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What a State holds: flat buffers (dtype, number of elements) and the arrays in them."""

    buffers: Mapping[str, tuple[str, int]]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A flat list of instructions over slots; see ``docs/program.md``.

    Attributes:
        slots: all arrays it touches.
        instructions: in order of execution; ``compute`` before ``update``.
        rows: samples of one step.
        dtype: floating dtype of the computation.
        layout: the State it runs on.
        outputs: slots by role: ``loss``, ``prediction``, ...
        guard: slot of the loss that must be finite for the update phase to run.
    """

    slots: tuple[Slot, ...]
    instructions: tuple[Instruction, ...]
    rows: int
    dtype: str
    layout: Layout
    outputs: Mapping[str, int]
    guard: int | None = None

    @property
    def inputs(self) -> dict[str, Slot]:
        """The slots that must be fed, by name."""
        return {s.name: s for s in self.slots if s.buffer == INPUT}

    def validate(self) -> None:
        """Refuse a Program that reads what nothing wrote, or addresses outside its buffers."""
        names = [s.name for s in self.slots]
        if len(set(names)) != len(names):
            repeated = sorted({n for n in names if names.count(n) > 1})
            raise ProgramError(f"program: slot names must be unique, repeated: {repeated}")
        written: set[int] = set()
        for position, instruction in enumerate(self.instructions):
            self._validate_instruction(position, instruction, written)
        phases = [i.phase for i in self.instructions]
        if phases != sorted(phases):
            raise ProgramError("program: an update instruction stands before a compute instruction")
        for slot in self.slots:
            self._validate_address(slot)

    def _validate_instruction(self, at: int, instruction: Instruction, written: set[int]) -> None:
        where = f"program: instruction {at} ({instruction.op})"
        for number in (*instruction.inputs, *(o for o in instruction.outputs if o is not None)):
            if not 0 <= number < len(self.slots):
                raise ProgramError(f"{where}: there is no slot {number}")
        for number in instruction.inputs:
            if self.slots[number].buffer == ARENA and number not in written:
                name = self.slots[number].name
                raise ProgramError(f"{where}: reads {name!r} before it is written")
        for output in instruction.outputs:
            if output is not None:
                if self.slots[output].buffer in (INPUT, CONSTANT) and not self.slots[output].window:
                    raise ProgramError(f"{where}: writes to {self.slots[output].name!r}")
                written.add(output)

    def _validate_address(self, slot: Slot) -> None:
        if slot.buffer in (ARENA, CONSTANT, INPUT):
            return
        if slot.buffer not in self.layout.buffers:
            raise ProgramError(f"program: slot {slot.name!r}: no State buffer {slot.buffer!r}")
        dtype, count = self.layout.buffers[slot.buffer]
        if slot.offset < 0 or slot.offset + slot.nbytes > count * np.dtype(dtype).itemsize:
            raise ProgramError(f"program: slot {slot.name!r} lies outside buffer {slot.buffer!r}")
