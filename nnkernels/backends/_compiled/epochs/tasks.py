"""From a Program to tasks: what is called on which memory, in units that threads may divide."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nnkernels import signature as sig
from nnkernels.backend import Backend
from nnkernels.backends._compiled import record
from nnkernels.backends._compiled.declare import CompiledKernel, Step
from nnkernels.program.builder import solved_dims
from nnkernels.program.format import ARENA, Instruction, Program
from nnkernels.spec import get_op

PRIVATE_BUFFERS = ("scalars", "counters")
"""State buffers of which every thread keeps a copy during a run."""

SCRATCH = "scratch "
"""What the names of an instruction's own memory begin with."""


class Region(NamedTuple):
    """A piece of memory.

    Attributes:
        memory: what it is a part of: a State buffer, or an array of the executable's own.
        offset, nbytes: where in it.
        shape: of the array there.
        private: whether every thread has its own.
    """

    memory: str
    offset: int
    nbytes: int
    shape: tuple[int, ...]
    private: bool = False

    def overlaps(self, other: Region) -> bool:
        """Whether both hold a common byte."""
        return (
            self.memory == other.memory
            and self.offset < other.offset + other.nbytes
            and other.offset < self.offset + self.nbytes
        )


class Use(NamedTuple):
    """One region that a task touches, as an ``Access`` of its step says."""

    region: Region
    written: bool
    sliced: bool


@dataclass(frozen=True, eq=False)
class Task:
    """A step on regions of memory.

    Attributes:
        step: what is called.
        regions: by the names that the step uses.
        instruction: the Program's instruction that it is a part of.
        units: into how many pieces it may be divided; each has ``step.items / units`` items.
        everywhere: whether every thread runs it whole, on memory of its own.
    """

    step: Step
    regions: Mapping[str, Region]
    instruction: Instruction
    units: int
    everywhere: bool

    @functools.cached_property
    def uses(self) -> list[Use]:
        """The regions that it touches."""
        accesses = self.step.accesses
        return [Use(self.regions[a.name], a.written, a.sliced) for a in accesses]

    @property
    def lasts(self) -> bool:
        """Whether it writes what is still there after the step."""
        written = [use.region.memory for use in self.uses if use.written]
        return not all(memory.startswith(("arena ", "scratch ")) for memory in written)

    @property
    def factor(self) -> int:
        """Items of a unit."""
        return self.step.items // self.units if self.units else 0

    def follows(self, other: Task) -> bool:
        """Whether it must run after ``other``, which stands before it in the Program."""
        return any(
            (mine.written or theirs.written) and mine.region.overlaps(theirs.region)
            for mine in self.uses
            for theirs in other.uses
        )

    def waits_for(self, other: Task) -> bool:
        """Whether all threads must have done ``other`` before any begins with this task.

        They need not where each thread reads only what it wrote itself: memory of its own, or the
        same units of the same region.
        """
        return any(
            (mine.written or theirs.written)
            and mine.region.overlaps(theirs.region)
            and not mine.region.private
            and not self._same_part(other, mine, theirs)
            for mine in self.uses
            for theirs in other.uses
        )

    def _same_part(self, other: Task, mine: Use, theirs: Use) -> bool:
        if self.everywhere or other.everywhere or self.units != other.units:
            return False
        same = mine.region[:3] == theirs.region[:3] and mine.sliced and theirs.sliced
        return same or self.units == 1


class Unsupported(Exception):
    """An instruction has no compiled kernel; the text names it."""


def tasks_of(program: Program, backend: Backend) -> list[Task]:
    """The tasks of a Program that is specialised to ``backend``, in its order.

    Raises:
        Unsupported: a kernel is not compiled.
    """
    regions = regions_of(program)
    tasks: list[Task] = []
    for number, instruction in enumerate(program.instructions):
        for step, names in _steps(program, backend, instruction):
            touched = [access.name for access in step.accesses]
            chosen = {n: _operand(regions, number, n, names[n]) for n in touched}
            tasks.append(_task(step, chosen, instruction))
    return _with_shared(tasks)


def _with_shared(tasks: list[Task]) -> list[Task]:
    """The tasks, with memory for all threads where one of them writes what others read.

    A single number is every thread's own as long as every thread computes it. The losses of a batch
    of one row come from the one thread that has the row.

    Raises:
        Unsupported: such a number is one of the State's scalars or counters.
    """
    while found := _partly_written(tasks):
        if state := found & set(PRIVATE_BUFFERS):
            raise Unsupported(f"an instruction writes to {state.pop()} and to arrays at once")
        tasks = [_task(t.step, _sharing(t.regions, found), t.instruction) for t in tasks]
    return tasks


def _partly_written(tasks: Sequence[Task]) -> set[str]:
    """Memory of the threads' own that not all of them write, but what a single task uses alone."""
    users = Counter(m for task in tasks for m in {r.memory for r in task.regions.values()})
    return {
        use.region.memory
        for task in tasks
        if not task.everywhere
        for use in task.uses
        if use.written and use.region.private
        if not (use.region.memory.startswith(SCRATCH) and users[use.region.memory] == 1)
    }


def _sharing(regions: Mapping[str, Region], memories: Set[str]) -> dict[str, Region]:
    return {
        name: region._replace(private=region.private and region.memory not in memories)
        for name, region in regions.items()
    }


def _steps(
    program: Program, backend: Backend, instruction: Instruction
) -> list[tuple[Step, dict[str, Any]]]:
    """The steps of an instruction; what each calls an array: a slot, or the shape of scratch."""
    kernel = compiled_kernel(backend, instruction)
    slots = program.slots
    op = get_op(instruction.op)
    inputs = [slots[i] for i in instruction.inputs]
    steps = kernel.steps(
        [s.shape for s in inputs],
        [s.dtype for s in inputs],
        instruction.params,
        [o is not None for o in instruction.outputs],
    )
    signature = op.signatures(instruction.params)[0]
    names: dict[str, Any] = dict(zip(op.inputs, instruction.inputs, strict=True))
    names |= zip(record.output_names(op, signature), instruction.outputs, strict=False)
    dims = solved_dims(program, instruction)
    floating = np.dtype(program.dtype)
    for argument in sig.parse_arguments(kernel.workspace):
        shape = sig.shape_of(argument, dims)
        names[argument.name] = shape, argument.dtype(floating).itemsize
    return [(step, names) for step in steps]


def compiled_kernel(backend: Backend, instruction: Instruction) -> CompiledKernel:
    """The compiled kernel behind an instruction."""
    kernel = backend.resolve(instruction.op, instruction.params).kernel
    assert kernel is not None  # the program is specialised
    if not isinstance(kernel.function, CompiledKernel):
        raise Unsupported(f"{instruction.op} is served by {kernel.origin}, which is not compiled")
    return kernel.function


def regions_of(program: Program) -> list[Region]:
    """Where the slots lie; a number of the arena is every thread's own."""
    heirs = _in_place(program)
    regions: list[Region] = []
    for number, slot in enumerate(program.slots):
        origin = number
        while origin in heirs:
            origin = heirs[origin]
        if slot.buffer == ARENA:
            name = f"arena {program.slots[origin].name}"
            regions.append(Region(name, 0, slot.nbytes, slot.shape, slot.shape == ()))
        elif slot.buffer in ("input", "constant"):
            regions.append(Region(f"{slot.buffer} {slot.name}", 0, slot.nbytes, slot.shape))
        else:
            private = slot.buffer in PRIVATE_BUFFERS
            regions.append(Region(slot.buffer, slot.offset, slot.nbytes, slot.shape, private))
    return regions


def _in_place(program: Program) -> dict[int, int]:
    """By slot: the slot whose memory it takes over, the only reader of which writes it."""
    readers: dict[int, list[Instruction]] = {}
    for instruction in program.instructions:
        for slot in dict.fromkeys(instruction.inputs):
            readers.setdefault(slot, []).append(instruction)
    kept = {*program.outputs.values(), program.guard}
    heirs: dict[int, int] = {}
    for instruction in program.instructions:
        op = get_op(instruction.op)
        if not instruction.outputs or not op.signatures(instruction.params)[0].rowwise:
            continue
        output = instruction.outputs[0]
        for slot in instruction.inputs:
            alone = len(readers[slot]) == 1 and instruction.inputs.count(slot) == 1
            if alone and output is not None and _may_inherit(program, slot, output, kept):
                heirs[output] = slot
                break
    return heirs


def _may_inherit(program: Program, slot: int, output: int, kept: set[int | None]) -> bool:
    old, new = program.slots[slot], program.slots[output]
    same = (old.buffer, old.shape, old.dtype) == (new.buffer, new.shape, new.dtype)
    return same and old.buffer == ARENA and old.shape != () and slot not in kept and slot != output


def _operand(regions: Sequence[Region], number: int, name: str, what: Any) -> Region:
    """The region of a slot, or of an instruction's own scratch."""
    if isinstance(what, int):
        return regions[what]
    shape, itemsize = what
    nbytes = math.prod(shape) * itemsize
    return Region(f"{SCRATCH}{number} {name}", 0, nbytes, shape, math.prod(shape) == 1)


def _task(step: Step, regions: Mapping[str, Region], instruction: Instruction) -> Task:
    written = [a for a in step.accesses if a.written]
    everywhere = bool(written) and all(regions[a.name].private for a in written)
    units = 1
    if not everywhere:
        units = _units(step, [regions[a.name] for a in written if a.sliced])
    return Task(step, regions, instruction, units, everywhere)


def _units(step: Step, targets: Sequence[Region]) -> int:
    """The rows of what is written, where the items are whole numbers of them; else the items."""
    rows = targets[0].shape[0] if targets and targets[0].shape else step.items
    return rows if rows and step.items % rows == 0 else step.items
