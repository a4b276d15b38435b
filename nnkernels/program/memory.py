"""Placing a Program's scratch arrays in one arena, reusing what is no longer needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from nnkernels.program.format import ARENA, Instruction, Program, aligned
from nnkernels.spec import get_op


@dataclass
class _Arena:
    """First-fit allocation; adjacent free blocks are merged."""

    size: int = 0
    free: list[tuple[int, int]] = field(default_factory=list)

    def take(self, nbytes: int) -> int:
        for index, (offset, room) in enumerate(self.free):
            if room >= nbytes:
                rest = [(offset + nbytes, room - nbytes)] if room > nbytes else []
                self.free[index : index + 1] = rest
                return offset
        offset = self.size
        if self.free and sum(self.free[-1]) == self.size:
            offset = self.free.pop()[0]
        self.size = offset + nbytes
        return offset

    def give(self, offset: int, nbytes: int) -> None:
        blocks = sorted([*self.free, (offset, nbytes)])
        self.free = blocks[:1]
        for start, room in blocks[1:]:
            last, length = self.free[-1]
            if last + length == start:
                self.free[-1] = (last, length + room)
            else:
                self.free.append((start, room))


def plan_arena(program: Program) -> tuple[dict[int, int], int]:
    """Byte offset of every arena slot, and the arena's size.

    A slot occupies its bytes from the instruction that writes it first to the one that uses it
    last (program outputs: to the end). A row-wise operator whose input ends there writes in place.
    """
    last = _last_uses(program)
    arena, offsets = _Arena(), dict[int, int]()
    for position, instruction in enumerate(program.instructions):
        dying = _dying(program, instruction, position, last)
        for output in _written(program, instruction):
            if output not in offsets:
                heir = _in_place(program, instruction, output, dying)
                if heir is not None:
                    offsets[output] = offsets[heir]
                    dying.remove(heir)
                else:
                    offsets[output] = arena.take(aligned(max(program.slots[output].nbytes, 1)))
            if last[output] == position and output not in dying:
                dying.append(output)
        for slot in dying:
            arena.give(offsets[slot], aligned(max(program.slots[slot].nbytes, 1)))
    return offsets, arena.size


def _written(program: Program, instruction: Instruction) -> list[int]:
    written = (o for o in instruction.outputs if o is not None)
    return [o for o in written if program.slots[o].buffer == ARENA]


def _last_uses(program: Program) -> dict[int, int]:
    last: dict[int, int] = {}
    for position, instruction in enumerate(program.instructions):
        used = (*instruction.inputs, *_written(program, instruction))
        last.update(dict.fromkeys(used, position))
    kept = [*program.outputs.values(), *([program.guard] if program.guard is not None else [])]
    last.update(dict.fromkeys(kept, len(program.instructions)))
    return last


def _dying(
    program: Program, instruction: Instruction, position: int, last: dict[int, int]
) -> list[int]:
    return [
        slot
        for slot in dict.fromkeys(instruction.inputs)
        if program.slots[slot].buffer == ARENA and last[slot] == position
    ]


def _in_place(
    program: Program, instruction: Instruction, output: int, dying: list[int]
) -> int | None:
    """A dying input of the same shape that the first output may overwrite."""
    op = get_op(instruction.op)
    if output != instruction.outputs[0] or not op.signatures(instruction.params)[0].rowwise:
        return None
    want = program.slots[output]
    for slot in dying:
        have = program.slots[slot]
        if slot not in instruction.outputs and (have.shape, have.dtype) == (want.shape, want.dtype):
            return slot
    return None
