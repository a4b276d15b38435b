"""What can be known of a kernel before it runs: blocks, constants, values that need no check."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, TINY
from nnkernels.testing.ptx.faults import Fault, Kind
from nnkernels.testing.ptx.parsing import (
    Code,
    Immediate,
    Instruction,
    Kernel,
    Operand,
    Register,
    Symbol,
    literal,
    registers_in,
)

ENDS = ("bra", "brx", "ret", "exit", "trap")
WITHOUT_RESULT = {
    *ENDS,
    "st",
    "red",
    "membar",
    "fence",
    "nanosleep",
    "prefetch",
    "discard",
    "brkpt",
    "pmevent",
}
CARRY = "%cc"
"""The carry flag, a register that instructions with ``.cc`` write."""
UNIFORM = ("%ntid", "%nctaid")


def is_barrier(instruction: Instruction) -> bool:
    """Whether an instruction makes the threads of a block wait for one another."""
    return instruction.opcode in ("bar", "barrier") and "warp" not in instruction.modifiers


def ends_block(instruction: Instruction) -> bool:
    """Whether control may go elsewhere after an instruction."""
    return instruction.opcode in ENDS or is_barrier(instruction)


def has_result(instruction: Instruction) -> bool:
    """Whether the first operand is written."""
    if instruction.opcode in ("bar", "barrier"):
        return "red" in instruction.modifiers
    return instruction.opcode not in WITHOUT_RESULT


def results(instruction: Instruction) -> Iterator[str]:
    """Names of the registers that an instruction writes."""
    if has_result(instruction):
        yield from registers_in(instruction.operands[:1])
    if "cc" in instruction.modifiers:
        yield CARRY


def sources(instruction: Instruction) -> Iterator[str]:
    """Names of the registers that an instruction reads."""
    if instruction.guard is not None:
        yield instruction.guard.name
    yield from registers_in(instruction.operands[1 if has_result(instruction) else 0 :])
    if instruction.opcode in ("addc", "subc", "madc"):
        yield CARRY


class Block(NamedTuple):
    """Instructions ``start`` to ``stop`` without the one that ends the block, if one does."""

    start: int
    stop: int
    end: Instruction | None


@dataclass
class Analysis:
    """What is known of one kernel's code.

    ``constants`` are the pcs of instructions whose result depends on the launch only, in an order
    in which they can be executed; ``fixed`` those that do not even depend on that.
    ``constant_registers`` hold the results. ``clean`` registers hold no subnormal float32.
    ``doubtful`` registers are read, somewhere in ``checked``, where not every path wrote them.
    """

    blocks: list[Block]
    constants: list[int]
    fixed: list[int]
    constant_registers: set[str]
    clean: set[str]
    checked: dict[int, list[str]]
    doubtful: set[str]


def analyse(kernel: Kernel, pure: frozenset[str]) -> Analysis:
    """Analyse a kernel; ``pure`` are the opcodes whose result depends on the operands only."""
    code = kernel.code
    blocks = _blocks(code)
    definitions = Counter(name for i in code.instructions for name in results(i))
    constants, fixed = _constants(kernel, definitions, pure)
    names = {n for pc in (*constants, *fixed) for n in results(code.instructions[pc])}
    checked, doubtful = _doubts(code, blocks, names)
    return Analysis(blocks, constants, fixed, names, _clean(code), checked, doubtful)


def _blocks(code: Code) -> list[Block]:
    count = len(code.instructions)
    starts = {0, *code.labels.values()}
    starts |= {pc + 1 for pc, i in enumerate(code.instructions) if ends_block(i)}
    cuts = [*sorted(s for s in starts if s < count), count]
    blocks = []
    for start, stop in itertools.pairwise(cuts):
        last = code.instructions[stop - 1]
        ends = ends_block(last)
        blocks.append(Block(start, stop - ends, last if ends else None))
    return blocks


def targets(code: Code, instruction: Instruction) -> list[int]:
    """The pcs to which a branch may go."""
    operands = instruction.operands
    if instruction.opcode == "brx":
        table = operands[1]
        names = code.tables.get(table.name, ()) if isinstance(table, Symbol) else ()
    else:
        names = tuple(o.name for o in operands if isinstance(o, Symbol))
    missing = [n for n in names if n not in code.labels]
    if missing or not names:
        raise Fault(Kind.MALFORMED, f"`{instruction.text}` goes to a label that does not exist")
    return [code.labels[n] for n in names]


# --- constants of a launch ---------------------------------------------------------------------


def _constants(
    kernel: Kernel, definitions: Counter[str], pure: frozenset[str]
) -> tuple[list[int], list[int]]:
    """Instructions whose one result depends on the launch only, in order of dependence."""
    known: dict[str, bool] = {}
    launch: list[int] = []
    fixed: list[int] = []
    waiting = [
        pc
        for pc, i in enumerate(kernel.code.instructions)
        if i.guard is None
        and not i.modifiers.count("approx")
        and _is_pure(i, pure)
        and all(definitions[n] == 1 for n in results(i))
    ]
    while True:
        left = []
        for pc in waiting:
            instruction = kernel.code.instructions[pc]
            state = _depends(instruction, known, kernel)
            if state is None:
                left.append(pc)
                continue
            known.update((name, state) for name in results(instruction))
            (fixed if state else launch).append(pc)
        if len(left) == len(waiting):
            return launch, fixed
        waiting = left


def _is_pure(instruction: Instruction, pure: frozenset[str]) -> bool:
    if instruction.opcode == "ld":
        return "param" in instruction.modifiers and isinstance(instruction.operands[0], Register)
    return instruction.opcode in pure and isinstance(instruction.operands[0], Register)


def _depends(instruction: Instruction, known: dict[str, bool], kernel: Kernel) -> bool | None:
    """True: on nothing; False: on the launch; None: on the thread, or not known yet."""
    if instruction.opcode == "ld":
        return False
    fixed = True
    for operand in instruction.operands[1:]:
        state = _constancy(operand, known, kernel)
        if state is None:
            return None
        fixed &= state
    return fixed


def _constancy(operand: Operand, known: dict[str, bool], kernel: Kernel) -> bool | None:
    if isinstance(operand, Register):
        return known.get(operand.name)
    if isinstance(operand, Symbol):
        if operand.name in kernel.code.shared or operand.name in kernel.code.local:
            return True
        special = operand.name.startswith("%")
        uniform = operand.name.startswith(UNIFORM) or operand.name == "WARP_SZ"
        return False if uniform or not special else None
    return True if isinstance(operand, Immediate) else None


# --- subnormal numbers -------------------------------------------------------------------------

KEEPS_CLEAN = ("mov", "selp", "neg", "abs")
COPIES = ("mov",)


def _clean(code: Code) -> set[str]:
    """Registers that never hold a subnormal float32, as every instruction that writes flushes."""
    written: dict[str, list[Instruction]] = {}
    for instruction in code.instructions:
        for name in results(instruction):
            written.setdefault(name, []).append(instruction)
    clean = set(written)
    while True:
        dirty = {n for n in clean if not all(_flushes(i, clean) for i in written[n])}
        if not dirty:
            return clean
        clean -= dirty


def _flushes(instruction: Instruction, clean: set[str]) -> bool:
    kinds = [m for m in instruction.modifiers if m in DTYPES]
    if not kinds or kinds[0] != "f32" or not isinstance(instruction.operands[0], Register):
        return False
    if instruction.opcode in KEEPS_CLEAN:
        values = (
            instruction.operands[1:3]
            if instruction.opcode == "selp"
            else (instruction.operands[1:])
        )
        return all(is_clean(v, clean) for v in values)
    if instruction.opcode == "cvt" and kinds[-1] not in ("f32", "f64", "bf16"):
        return True
    return "ftz" in instruction.modifiers


def is_clean(operand: Operand, clean: set[str]) -> bool:
    """Whether an operand is known to hold no subnormal float32."""
    if isinstance(operand, Register):
        return operand.name in clean
    if isinstance(operand, Immediate):
        value = np.abs(literal(operand.text, DTYPES["f32"])[0])
        return not 0 < value < TINY[DTYPES["f32"]]
    return False


# --- registers that may be read before they are written ----------------------------------------


def _doubts(
    code: Code, blocks: list[Block], constants: set[str]
) -> tuple[dict[int, list[str]], set[str]]:
    """Where a register is read that not all paths wrote, by pc; and those registers."""
    bits = {name: 1 << n for n, name in enumerate([*code.registers, CARRY])}
    everything = (1 << len(bits)) - 1
    at_entry = sum(bits[n] for n in constants)
    before = _written_before(code, blocks, bits, at_entry, everything)
    checked: dict[int, list[str]] = {}
    for block, written in zip(blocks, before, strict=True):
        for pc in _pcs(block):
            instruction = code.instructions[pc]
            if instruction.opcode not in COPIES:
                missing = [n for n in sources(instruction) if not written & bits[n]]
                if missing:
                    checked[pc] = missing
            written |= _writes(instruction, written, bits)
    doubtful = {name for names in checked.values() for name in names}
    return checked, _with_copies(code, doubtful)


def _with_copies(code: Code, doubtful: set[str]) -> set[str]:
    """The registers, and those that are copied to them."""
    copies = [i for i in code.instructions if i.opcode in COPIES]
    while True:
        more = {n for i in copies if set(results(i)) & doubtful for n in sources(i)}
        if more <= doubtful:
            return doubtful
        doubtful = doubtful | more


def _pcs(block: Block) -> range:
    return range(block.start, block.stop + (block.end is not None))


def _writes(instruction: Instruction, written: int, bits: dict[str, int]) -> int:
    """The registers certainly written after an instruction; a copy of a doubt is a doubt."""
    if instruction.guard is not None:
        return 0
    if instruction.opcode in COPIES and any(not written & bits[n] for n in sources(instruction)):
        return 0
    total = 0
    for name in results(instruction):
        total |= bits[name]
    return total


def _written_before(
    code: Code, blocks: list[Block], bits: dict[str, int], at_entry: int, everything: int
) -> list[int]:
    """For each block the registers that every path to it wrote."""
    number = {block.start: n for n, block in enumerate(blocks)}
    before = [everything] * len(blocks)
    before[0] = at_entry
    work, seen = [0], {0}
    while work:
        n = work.pop()
        written = before[n]
        for pc in _pcs(blocks[n]):
            written |= _writes(code.instructions[pc], written, bits)
        for successor in _successors(code, blocks, number, n):
            if successor not in seen or before[successor] & ~written:
                seen.add(successor)
                before[successor] &= written
                work.append(successor)
    return before


def _successors(code: Code, blocks: list[Block], number: dict[int, int], n: int) -> list[int]:
    end = blocks[n].end
    following = [n + 1] if n + 1 < len(blocks) else []
    if end is None or is_barrier(end):
        return following
    if end.opcode in ("bra", "brx"):
        count = len(code.instructions)
        there = [number[t] for t in targets(code, end) if t < count]
        return there + (following if end.guard is not None else [])
    return following if end.guard is not None else []
