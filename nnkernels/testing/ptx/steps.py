"""From instructions to functions over the registers of some lanes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nnkernels.testing.ptx import opcodes
from nnkernels.testing.ptx.analysis import is_clean
from nnkernels.testing.ptx.dtypes import DTYPES, Array
from nnkernels.testing.ptx.faults import Fault, Kind
from nnkernels.testing.ptx.lanes import Lanes
from nnkernels.testing.ptx.parsing import Address, Instruction, Register, Symbol, Vector
from nnkernels.testing.ptx.registry import (
    EFFECTS,
    ELEMENTWISE,
    Elementwise,
    Request,
    check_modifiers,
    unknown,
)

Step = Callable[[], Any]


class Steps:
    """The instructions of a kernel as functions over the registers of some lanes.

    ``whole[pc]`` may write all lanes, ``masked[pc]`` writes only those that are active. Both are
    None for instructions whose result is a constant of the launch.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.lanes, self.analysis = lanes, lanes.analysis
        count = len(lanes.code.instructions)
        self._constant = {*self.analysis.constants, *self.analysis.fixed}
        self._built: list[tuple[Step | None, Step | None] | None] = [None] * count
        for pc in self.analysis.fixed:
            self._constant_step(pc)()
        self.prologue = [self._constant_step(pc) for pc in self.analysis.constants]
        self._blocks: dict[tuple[int, bool], list[Step]] = {}

    def block(self, number: int, alone: bool) -> list[Step]:
        """The steps of a block, for a group that is alone or not."""
        key = number, alone
        if key not in self._blocks:
            block = self.analysis.blocks[number]
            built = (self._steps(pc)[0 if alone else 1] for pc in range(block.start, block.stop))
            self._blocks[key] = [step for step in built if step is not None]
        return self._blocks[key]

    def _steps(self, pc: int) -> tuple[Step | None, Step | None]:
        if pc in self._constant:
            return None, None
        found = self._built[pc]
        if found is None:
            found = self._built[pc] = self._build(pc)
        return found

    def _build(self, pc: int) -> tuple[Step, Step]:
        instruction = self.lanes.code.instructions[pc]
        with self.lanes.blaming(pc):
            steps = self._elementwise(instruction) or self._effect(instruction, pc)
        if pc in self.analysis.checked:
            names = self.analysis.checked[pc]
            steps = tuple(self._checking(step, names, pc) for step in steps)
        return steps[0], steps[1]

    def _effect(self, instruction: Instruction, pc: int) -> tuple[Step, ...]:
        factory = EFFECTS.get(instruction.opcode)
        if opcodes.carries.carries(instruction):
            factory = opcodes.carries.carry
        elif instruction.opcode == "mov":
            unpacks = isinstance(instruction.operands[0], Vector)
            factory = opcodes.movement.unpack if unpacks else opcodes.movement.pack
        if factory is None:
            raise unknown(instruction)
        step = factory(instruction, self.lanes, pc)
        return step, step

    def _constant_step(self, pc: int) -> Step:
        instruction = self.lanes.code.instructions[pc]
        with self.lanes.blaming(pc):
            function, values = self._bound(instruction)
        name = instruction.operands[0]
        assert isinstance(name, Register)
        kind = _entry(instruction).signature(instruction).result
        out, finish = self._target(name.name, kind, 1)

        def step() -> None:
            function(*values, out)
            finish(None)

        return step

    def _bound(self, instruction: Instruction) -> tuple[Callable[..., Any], list[Array]]:
        """The function of an elementwise instruction and the arrays of its sources."""
        entry = _entry(instruction)
        check_modifiers(instruction, entry.modifiers)
        signature = entry.signature(instruction)
        operands = instruction.operands[1:]
        if len(operands) != len(signature.sources):
            raise Fault(Kind.MALFORMED, f"takes {len(signature.sources)} sources")
        clean = [is_clean(o, self.analysis.clean) for o in operands]
        request = Request(instruction, clean, self.lanes.approximation)
        values = [self.lanes.source(o, k) for o, k in zip(operands, signature.sources, strict=True)]
        return entry.build(request), values

    def _target(
        self, name: str, kind: str, size: int
    ) -> tuple[Array, Callable[[Array | None], None]]:
        """An array to compute into, and what moves it to the register under a mask."""
        dtype = DTYPES[kind]
        register = self.lanes.target(name, dtype)
        out = np.zeros(size, dtype)

        def finish(where: Array | None) -> None:
            if where is None:
                register[:] = out
            else:
                np.copyto(register, out, where=where, casting="same_kind")

        return out, finish

    def _elementwise(self, instruction: Instruction) -> tuple[Step, ...] | None:
        if not is_elementwise(instruction):
            return None
        function, values = self._bound(instruction)
        target = instruction.operands[0]
        if not isinstance(target, Register):
            raise unknown(instruction, "the result must be a register")
        kind = _entry(instruction).signature(instruction).result
        masked = self._masked(instruction, function, values, target.name, kind)
        register = self.lanes.target(target.name, DTYPES[kind])
        plain = instruction.guard is None and target.name not in self.lanes.defined
        if plain and register.dtype == DTYPES[kind]:
            return partial(function, *values, register), masked
        return masked, masked

    def _masked(
        self,
        instruction: Instruction,
        function: Callable[..., Any],
        values: list[Array],
        name: str,
        kind: str,
    ) -> Step:
        lanes = self.lanes
        out, finish = self._target(name, kind, lanes.size)
        guard, negated = lanes.predicate(instruction.guard)
        defined = lanes.defined.get(name)
        source = instruction.operands[1] if instruction.opcode == "mov" else None
        origin = lanes.defined.get(source.name) if isinstance(source, Register) else None

        def step() -> None:
            where = lanes.guarded(guard, negated)
            function(*values, out)
            finish(where)
            if defined is not None:
                mask = True if where is None else where
                np.copyto(defined, True if origin is None else origin, where=mask)

        return step

    def _checking(self, step: Step, names: list[str], pc: int) -> Step:
        """``step`` with a check that its sources were written."""
        lanes = self.lanes
        guard = lanes.code.instructions[pc].guard

        def checked() -> None:
            for name in names:
                own = guard is not None and guard.name == name
                array, negated = lanes.predicate(None if own else guard)
                missing = lanes.executing(array, negated) & ~lanes.defined[name]
                if np.count_nonzero(missing):
                    lane = int(np.argmax(missing))
                    raise lanes.fault(Kind.UNINITIALISED_REGISTER, name, pc, lane)
            step()

        return checked

    def check_end(self, number: int) -> None:
        """Check the registers that the end of a block reads."""
        pc = self.analysis.blocks[number].stop
        if pc in self.analysis.checked:
            self._checking(lambda: None, self.analysis.checked[pc], pc)()


def is_elementwise(instruction: Instruction) -> bool:
    """Whether an instruction is computed lane by lane from registers."""
    if opcodes.carries.carries(instruction) or any(
        isinstance(o, Vector) for o in instruction.operands
    ):
        return False
    return instruction.opcode in ELEMENTWISE or _from_parameters(instruction)


def _from_parameters(instruction: Instruction) -> bool:
    return (
        instruction.opcode == "ld"
        and "param" in instruction.modifiers
        and isinstance(instruction.operands[1], Address)
        and isinstance(instruction.operands[1].base, Symbol)
    )


def _entry(instruction: Instruction) -> Elementwise:
    """The table's entry; a kernel parameter is copied as it is."""
    if instruction.opcode == "ld":
        return ELEMENTWISE["mov"]._replace(modifiers=frozenset(("param",)))
    return ELEMENTWISE[instruction.opcode]
