"""A step in its smallest pieces, and the memory that each of them touches.

Layers are taken apart into products, biases and activations, so that they can be put together again
in the way that suits a GPU (see :mod:`nnkernels.backends.cupy.steps.fusion`). What a Program leaves
to its executor becomes pieces, too: the guard, and the windows of the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from nnkernels.backend import Backend
from nnkernels.program import Instruction, Program, Slot
from nnkernels.program.format import ARENA, CONSTANT, INPUT
from nnkernels.program.rewrite import expand
from nnkernels.spec import get_op

GUARD, TAKE, PUT = "guard", "take window", "put window"
"""Pieces that are no operator's: the guard; a window's copy on scratch, fetched or written back."""

COMPOSED = (
    "linear",
    "linear_activation",
    "linear_backward",
    "matmul_backward",
    "bias_add_backward",
    "add_backward",
)
"""Operators that are taken apart."""

COPIES = ("identity", "identity_backward")
"""Operators that copy."""


class Region(NamedTuple):
    """Bytes ``[first, last)`` of a memory: a State buffer, a slot of scratch, or an input."""

    memory: str
    first: int
    last: int

    def overlaps(self, other: Region) -> bool:
        """Whether they share a byte."""
        same = self.memory == other.memory
        return same and self.first < other.last and other.first < self.last


@dataclass(frozen=True, eq=False)
class Piece:
    """An operator on slots, or one of :data:`GUARD`, :data:`TAKE`, :data:`PUT`.

    Attributes:
        instruction: what is done.
        origin: the instruction of the Program that it is done for.
        reads, writes: the memory that it touches.
    """

    instruction: Instruction
    origin: Instruction
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]

    @property
    def op(self) -> str:
        """Name of the operator."""
        return self.instruction.op

    @property
    def inputs(self) -> tuple[int, ...]:
        """Slots that it reads."""
        return self.instruction.inputs

    @property
    def outputs(self) -> tuple[int | None, ...]:
        """Slots that it writes."""
        return self.instruction.outputs

    @property
    def result(self) -> int:
        """The slot of its first output, which is wanted."""
        slot = self.outputs[0]
        assert slot is not None
        return slot

    @property
    def slots(self) -> tuple[int, ...]:
        """All slots that it touches."""
        return (*self.inputs, *(o for o in self.outputs if o is not None))


class Pieces(NamedTuple):
    """A step in pieces.

    Attributes:
        program: the Program with the slots that the pieces needed; its outputs and its guard are
            where the pieces leave them.
        pieces: in an order in which they may run.
        row, diverged: slots of these counters.
    """

    program: Program
    pieces: tuple[Piece, ...]
    row: int
    diverged: int


def take_apart(program: Program, backend: Backend) -> Pieces:
    """The pieces of a Program that is specialised to ``backend``."""
    program, row = _with_counter(program, "row")
    program, diverged = _with_counter(program, "diverged")
    program, pairs = _expanded(program, backend)
    program, pairs = _without_copies(program, pairs)
    if program.guard is not None and pairs:
        pairs = _guarded(program.guard, diverged, pairs)
    program, pairs = _windows_on_scratch(program, pairs)
    touch = _Touch(program, row, diverged)
    pieces = tuple(Piece(i, origin, touch.reads(i), touch.writes(i)) for i, origin in pairs)
    return Pieces(program, pieces, row, diverged)


Pair = tuple[Instruction, Instruction]
"""What is done, and the instruction of the Program that it is done for."""


def _with_counter(program: Program, name: str) -> tuple[Program, int]:
    """The Program with a slot for a counter of the State."""
    entry = next(e for e in program.layout.entries if e.name == name)
    for number, slot in enumerate(program.slots):
        if (slot.buffer, slot.offset, slot.shape) == (entry.buffer, entry.offset, entry.shape):
            return program, number
    return _with_slot(program, Slot(name, entry.shape, entry.dtype, entry.buffer, entry.offset))


def _with_slot(program: Program, slot: Slot) -> tuple[Program, int]:
    return replace(program, slots=(*program.slots, slot)), len(program.slots)


# --- layers ------------------------------------------------------------------------------------


def _expanded(program: Program, backend: Backend) -> tuple[Program, list[Pair]]:
    """Every operator of :data:`COMPOSED` as those that it is declared to be composed of."""
    kept = {name: k for name, k in backend.kernels.items() if name not in COMPOSED}
    simple = replace(backend, kernels=kept)
    pairs: list[Pair] = []
    for origin in program.instructions:
        parts: tuple[Instruction, ...] = (origin,)
        if origin.op in COMPOSED:
            part = expand(replace(program, instructions=parts), simple)
            program, parts = replace(program, slots=part.slots), part.instructions
        pairs += [(instruction, origin) for instruction in parts]
    return program, pairs


def _without_copies(program: Program, pairs: list[Pair]) -> tuple[Program, list[Pair]]:
    """Who reads a copy on scratch of something that never changes reads that itself."""
    written = [o for instruction, _ in pairs for o in instruction.outputs if o is not None]
    names: dict[int, int] = {}
    kept: list[Pair] = []
    for instruction, origin in pairs:
        inputs = tuple(names.get(i, i) for i in instruction.inputs)
        instruction = replace(instruction, inputs=inputs)
        target = instruction.outputs[0] if instruction.outputs else None
        fixed = all(_never_changes(program, slot, written) for slot in (*inputs, target))
        if instruction.op in COPIES and target is not None and fixed:
            names[target] = inputs[0]
        else:
            kept.append((instruction, origin))
    outputs = {role: names.get(slot, slot) for role, slot in program.outputs.items()}
    guard = program.guard if program.guard is None else names.get(program.guard, program.guard)
    return replace(program, outputs=outputs, guard=guard), kept


def _never_changes(program: Program, slot: int | None, written: list[int]) -> bool:
    """Whether a slot holds one value during a step, once it holds any."""
    if slot is None:
        return False
    buffer = program.slots[slot].buffer
    return buffer == CONSTANT or (buffer == ARENA and written.count(slot) == 1)


# --- windows and the guard -----------------------------------------------------------------------


def _windows_on_scratch(program: Program, pairs: list[Pair]) -> tuple[Program, list[Pair]]:
    """Let windows of inputs be copied to scratch before they are read, and back when written.

    So every launch has the same arguments in every step.
    """
    before: list[Pair] = []
    after: list[Pair] = []
    names: dict[int, int] = {}
    windows = [(number, slot) for number, slot in enumerate(program.slots) if slot.window]
    for number, slot in windows:
        readers = [pair for pair in pairs if number in pair[0].inputs]
        writers = [pair for pair in pairs if number in pair[0].outputs]
        if not (readers or writers):
            continue
        copy = replace(slot, name=f"window {slot.name}", buffer=ARENA, window=False, interval=None)
        program, names[number] = _with_slot(program, copy)
        if readers:
            before.append((Instruction(TAKE, (number,), (names[number],)), readers[0][1]))
        if writers:
            after.append((Instruction(PUT, (names[number],), (number,)), writers[-1][1]))
    moved = [(_renamed(instruction, names), origin) for instruction, origin in pairs]
    outputs = {role: names.get(slot, slot) for role, slot in program.outputs.items()}
    return replace(program, outputs=outputs), [*before, *moved, *after]


def _renamed(instruction: Instruction, names: dict[int, int]) -> Instruction:
    return replace(
        instruction,
        inputs=tuple(names.get(i, i) for i in instruction.inputs),
        outputs=tuple(o if o is None else names.get(o, o) for o in instruction.outputs),
    )


def _guarded(loss: int, diverged: int, pairs: list[Pair]) -> list[Pair]:
    """With the guard between the phases."""
    split = [instruction.phase for instruction, _ in pairs].count("compute")
    origin = next((o for i, o in reversed(pairs[:split]) if loss in i.outputs), pairs[0][1])
    guard = Instruction(GUARD, (loss,), (diverged,), label=origin.label)
    return [*pairs[:split], (guard, origin), *pairs[split:]]


# --- memory --------------------------------------------------------------------------------------


class _Touch:
    """Which memory instructions touch."""

    def __init__(self, program: Program, row: int, diverged: int) -> None:
        self._slots = program.slots
        self._row, self._diverged = row, diverged
        self._has_guard = program.guard is not None

    def reads(self, instruction: Instruction) -> tuple[Region, ...]:
        """What an instruction reads; a window is taken at the row that the counter says."""
        slots = list(instruction.inputs)
        if instruction.op == TAKE:
            slots.append(self._row)
        if self._has_guard and instruction.phase == "update":
            slots.append(self._diverged)
        return tuple(self._regions(slots))

    def writes(self, instruction: Instruction) -> tuple[Region, ...]:
        """What an instruction writes."""
        slots = [o for o in instruction.outputs if o is not None]
        if instruction.op not in (GUARD, TAKE, PUT):
            op = get_op(instruction.op)
            slots += [instruction.inputs[op.inputs.index(name)] for name in op.updates]
        return tuple(self._regions(slots))

    def _regions(self, numbers: list[int]) -> Iterator[Region]:
        for number in numbers:
            slot = self._slots[number]
            if slot.buffer in (ARENA, INPUT):
                yield Region(f"{slot.buffer} {number}", 0, max(slot.nbytes, 1))
            elif slot.buffer != CONSTANT:
                yield Region(slot.buffer, slot.offset, slot.offset + max(slot.nbytes, 1))
