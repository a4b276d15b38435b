"""Atomic operations and fences.

Threads make their atomic operations in the order of their lanes, that is in the order in which
the launch numbers its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, Array
from nnkernels.testing.ptx.lanes import Form, Lanes, Synchronisation
from nnkernels.testing.ptx.opcodes.movement import Port, strength
from nnkernels.testing.ptx.parsing import Instruction, Operand
from nnkernels.testing.ptx.registry import check_modifiers, effect, unknown

OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda old, value: old + value,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, value: value,
    "inc": lambda old, limit: np.where(old >= limit, 0, old + 1),
    "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - 1),
    "cas": lambda old, compare, value: np.where(old == compare, value, old),
}
"""What is stored, from the old value and the operands."""

ORDERS = ("acquire", "release", "acq_rel")
MODIFIERS = frozenset(
    ["global", "shared", "relaxed", "noftz", "cta", "gpu", "sys", *ORDERS, *OPERATIONS]
)


def rounds(addresses: Array) -> list[Array]:
    """Positions in turns, such that no address occurs twice in a turn and the order is kept."""
    left = np.arange(addresses.size)
    turns = []
    while left.size:
        _, first = np.unique(addresses[left], return_index=True)
        first.sort()
        turns.append(left[first])
        left = np.delete(left, first)
    return turns


def _atomic(
    instruction: Instruction,
    lanes: Lanes,
    pc: int,
    target: Operand,
    address: Operand,
    values: tuple[Operand, ...],
) -> Callable[[], None]:
    check_modifiers(instruction, MODIFIERS)
    modifiers, kind = instruction.modifiers, instruction.type
    name = next((m for m in modifiers if m in OPERATIONS), None)
    if name is None:
        raise unknown(instruction)
    operation, dtype = OPERATIONS[name], DTYPES[kind]
    space = next((m for m in modifiers if m in ("global", "shared")), "")
    form = Form(space, kind, (target,), dtype.itemsize, strength(instruction), False)
    port = Port(instruction, lanes, pc, address, form)
    sources = [lanes.source(v, kind) for v in values]
    write = lanes.writer(target, kind)
    fences = any(m in ORDERS for m in modifiers)

    def step() -> None:
        addresses, index = port.begin()
        if not addresses.size:
            return
        old = np.empty(addresses.size, dtype)
        given = [lanes.full(s) if index is None or s.size == 1 else s[index] for s in sources]
        for turn in rounds(addresses):
            chosen = None if turn.size == lanes.size else (turn if index is None else index[turn])
            before = port.load(addresses[turn], chosen, atomic=True).view(dtype)
            old[turn] = before
            after = operation(before, *(g[turn] for g in given)).astype(dtype)
            port.store(addresses[turn], chosen, after.view(form.dtype), atomic=True)
        _note(lanes, port, addresses, index, fences)
        write(old, index)

    return step


def _note(lanes: Lanes, port: Port, addresses: Array, index: Array | None, fences: bool) -> None:
    """Record the accesses, and that they may order others."""
    space, window, inside = port.window(addresses)
    if window is not None:
        places = inside + (window.starts if index is None else window.starts[index])
        log = lanes.shared_log if space == "shared" else []
        lanes.record(log, port.pc, places, index, port.form, writes=True)
        return
    at = np.arange(lanes.size) if index is None else index
    if fences:
        _fence(lanes, at)
    lanes.synchronisations.append(
        Synchronisation(
            inside,
            at,
            lanes.time,
            lanes.first_lane,
            lanes.epochs,
            lanes.fence_times[at],
            lanes.fence_epochs[at],
        )
    )
    lanes.record(lanes.global_log, port.pc, inside, index, port.form, writes=True)


def _fence(lanes: Lanes, at: Array) -> None:
    """Note that these lanes pass a fence."""
    lanes.fence_times[at] = lanes.tick(1)
    lanes.fence_epochs[at] = lanes.epochs[lanes.block_of[at]]


@effect("atom")
def atom(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """An atomic operation that gives the old value."""
    target, address, *values = instruction.operands
    return _atomic(instruction, lanes, pc, target, address, tuple(values))


@effect("red")
def red(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """An atomic operation without result."""
    address, *values = instruction.operands
    return _atomic(instruction, lanes, pc, None, address, tuple(values))


@effect("membar", "fence")
def membar(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """A fence; those within a block order nothing that barriers do not."""
    check_modifiers(instruction, frozenset(("gl", "cta", "sys", "gpu", "sc", "acq_rel")))
    if "cta" in instruction.modifiers:
        return lambda: None
    guard, negated = lanes.predicate(instruction.guard)

    def step() -> None:
        index = lanes.active(guard, negated)
        _fence(lanes, np.arange(lanes.size) if index is None else index)

    return step
