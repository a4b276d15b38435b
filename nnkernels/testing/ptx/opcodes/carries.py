"""Sums with a carry: ``add.cc``, ``addc``, ``sub.cc``, ``subc``, ``mad.cc`` and ``madc``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnkernels.testing.ptx.analysis import CARRY
from nnkernels.testing.ptx.dtypes import DTYPES
from nnkernels.testing.ptx.lanes import Lanes
from nnkernels.testing.ptx.opcodes.integer import with_carry
from nnkernels.testing.ptx.parsing import Instruction, Register
from nnkernels.testing.ptx.registry import check_modifiers, effect

TAKES = ("addc", "subc", "madc")


def carries(instruction: Instruction) -> bool:
    """Whether an instruction reads or writes the carry flag."""
    return instruction.opcode in TAKES or "cc" in instruction.modifiers


@effect(*TAKES)
def carry(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """Value and, with ``.cc``, the carry flag."""
    check_modifiers(instruction, frozenset(("cc", "lo", "hi")))
    kind = f"u{8 * DTYPES[instruction.type].itemsize}"
    function = with_carry(instruction)
    values = [lanes.source(o, kind) for o in instruction.operands[1:]]
    write = lanes.writer(instruction.operands[0], kind)
    write_flag = lanes.writer(Register(CARRY) if "cc" in instruction.modifiers else None, "pred")
    flag = lanes.register(CARRY)
    takes = instruction.opcode in TAKES
    guard, negated = lanes.predicate(instruction.guard)

    def step() -> None:
        index = lanes.active(guard, negated)
        taken = flag.astype(values[0].dtype) if takes else np.zeros(lanes.size, values[0].dtype)
        total, flags = function(taken, *values)
        write(total if index is None else total[index], index)
        write_flag(flags if index is None else flags[index], index)

    return step
