"""Instructions among the threads of a warp."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, Array
from nnkernels.testing.ptx.faults import Kind
from nnkernels.testing.ptx.lanes import WARP, Lanes, warp_bits
from nnkernels.testing.ptx.parsing import Instruction, Operand, Register, Vector
from nnkernels.testing.ptx.registry import check_modifiers, effect, unknown

EVERY_LANE = 0xFFFF_FFFF
LANE = np.arange(WARP, dtype=np.uint32)
BIT = np.uint32(1) << LANE


class Members(NamedTuple):
    """Who takes part: numbers of the lanes (None: all), their mask, the members they name."""

    lanes: Array | None
    mask: Array
    named: Array


class Membership:
    """Checks the member mask of a warp instruction."""

    def __init__(self, instruction: Instruction, lanes: Lanes, pc: int, mask: Operand) -> None:
        self.lanes, self.pc = lanes, pc
        self.named = lanes.source(mask, "u32")
        self.guard, self.negated = lanes.predicate(instruction.guard)

    def begin(self) -> Members:
        """Who takes part; a fault if lanes named in the mask are elsewhere."""
        lanes = self.lanes
        index = lanes.active(self.guard, self.negated)
        if self.guard is None:
            mask, bits = lanes.group.mask, lanes.group.bits
        else:
            mask = np.zeros(lanes.size, np.bool_)
            mask[index if index is not None else slice(None)] = True
            bits = warp_bits(mask)
        named = lanes.full(self.named).reshape(-1, WARP)
        if index is not None or self.named.size > 1 or self.named[0] != EVERY_LANE:
            self._check(mask.reshape(-1, WARP), bits, named)
        return Members(index, mask, named)

    def _check(self, mask: Array, bits: Array, named: Array) -> None:
        without = mask & (named & BIT == 0)
        if np.count_nonzero(without):
            raise self._fault(without, named, "the mask leaves out a lane that executes it")
        alive = warp_bits(self.lanes.alive)
        absent = mask & ((named & (alive & ~bits)[:, None]) != 0)
        if np.count_nonzero(absent):
            raise self._fault(absent, named, "the mask names lanes that are not here")

    def _fault(self, wrong: Array, named: Array, message: str) -> Exception:
        lane = int(np.argmax(wrong.reshape(-1)))
        text = (
            f"{message} (mask {int(named.reshape(-1)[lane]):08x}, present "
            f"{int(warp_bits(self.lanes.group.mask)[lane // WARP]):08x})"
        )
        return self.lanes.fault(Kind.SHUFFLE_MASK, text, self.pc, lane)

    def write(self, members: Members, values: Array, write: Callable[..., None]) -> None:
        """Give each member its value out of an array of all lanes."""
        flat = values.reshape(-1)
        write(flat if members.lanes is None else flat[members.lanes], members.lanes)


# --- shuffles ----------------------------------------------------------------------------------


@functools.lru_cache(512)
def fixed_partners(mode: str, by: int, limits: int) -> tuple[Array, Array]:
    """:func:`partners` of one warp where all its lanes name the same operands."""
    return partners(mode, np.full((1, WARP), by), np.full((1, WARP), limits))


def partners(mode: str, by: Array, limits: Array) -> tuple[Array, Array]:
    """The lane that each lane reads, and whether it is in range; rows are warps."""
    segment, clamp = (limits >> 8) & 31, limits & 31
    lane = np.broadcast_to(LANE.astype(np.int64), by.shape)
    first = lane & segment
    last = first | (clamp & ~segment)
    source = {
        "up": lane - by,
        "down": lane + by,
        "bfly": lane ^ by,
        "idx": first | (by & ~segment & 31),
    }[mode]
    inside = source >= last if mode == "up" else source <= last
    return np.where(inside, source, lane), inside


@effect("shfl")
def shfl(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """Read the register of another lane."""
    modes = ("up", "down", "bfly", "idx")
    check_modifiers(instruction, frozenset(("sync", *modes)))
    mode = next(m for m in instruction.modifiers if m in modes)
    if "sync" not in instruction.modifiers:
        raise unknown(instruction, "shuffles without .sync are not supported")
    target, value, by, limits, mask = instruction.operands
    pair = target.parts if isinstance(target, Vector) else (target, None)
    write, write_inside = lanes.writer(pair[0], "b32"), lanes.writer(pair[1], "pred")
    values = lanes.source(value, "b32")
    steps, bounds = lanes.source(by, "u32"), lanes.source(limits, "u32")
    membership = Membership(instruction, lanes, pc, mask)
    fixed = steps.size == bounds.size == 1
    warps = lanes.size // WARP

    def chosen() -> tuple[Array, Array]:
        """Source lanes and their validity, in rows of one (if all warps agree) or every warp."""
        if fixed:
            return fixed_partners(mode, int(steps[0]), int(bounds[0]))
        by, limits = (lanes.full(v).astype(np.int64).reshape(warps, WARP) for v in (steps, bounds))
        return partners(mode, by, limits)

    def step() -> None:
        members = membership.begin()
        source, inside = chosen()
        rows = lanes.full(values).reshape(warps, WARP)
        if members.lanes is not None:
            _check_sources(membership, members, source)
        got = rows[:, source[0]] if len(source) == 1 else np.take_along_axis(rows, source, 1)
        membership.write(members, got, write)
        membership.write(members, np.broadcast_to(inside, (warps, WARP)), write_inside)

    return step


def _check_sources(membership: Membership, members: Members, source: Array) -> None:
    """A fault where a lane reads from one that does not take part."""
    mask = members.mask.reshape(-1, WARP)
    here = mask[:, source[0]] if len(source) == 1 else np.take_along_axis(mask, source, 1)
    wrong = mask & ~here
    if np.count_nonzero(wrong):
        raise membership._fault(wrong, members.named, "reads from a lane that is not here")


# --- votes, matches, reductions ----------------------------------------------------------------


@effect("vote")
def vote(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """Combine a predicate over the members."""
    check_modifiers(instruction, frozenset(("sync", "ballot", "any", "all", "uni")))
    if "sync" not in instruction.modifiers:
        raise unknown(instruction, "votes without .sync are not supported")
    target, operand, mask = instruction.operands
    ballot = "ballot" in instruction.modifiers
    write = lanes.writer(target, "b32" if ballot else "pred")
    predicate = lanes.source(operand, "pred")
    negated = isinstance(operand, Register) and operand.negated
    membership = Membership(instruction, lanes, pc, mask)

    def step() -> None:
        members = membership.begin()
        held = lanes.full(~predicate if negated else predicate) & members.mask
        votes = warp_bits(held)[:, None] & members.named
        expected = warp_bits(members.mask)[:, None] & members.named
        if ballot:
            result = votes
        elif "any" in instruction.modifiers:
            result = votes != 0
        else:
            result = votes == expected
            if "uni" in instruction.modifiers:
                result |= votes == 0
        membership.write(members, result, write)

    return step


@effect("activemask")
def activemask(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """The lanes of the warp that are here."""
    write = lanes.writer(instruction.operands[0], "b32")

    def step() -> None:
        index = lanes.group.index
        bits = np.repeat(lanes.group.bits, WARP)
        write(bits if index is None else bits[index], index)

    return step


@effect("match")
def match(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """The members that hold the same value."""
    check_modifiers(instruction, frozenset(("sync", "any", "all")))
    target, value, mask = instruction.operands
    pair = target.parts if isinstance(target, Vector) else (target, None)
    write, write_all = lanes.writer(pair[0], "b32"), lanes.writer(pair[1], "pred")
    values = lanes.source(value, instruction.type)
    membership = Membership(instruction, lanes, pc, mask)
    every = "all" in instruction.modifiers

    def step() -> None:
        members = membership.begin()
        rows = lanes.full(values).reshape(-1, WARP)
        takes_part = members.mask.reshape(-1, 1, WARP) & (members.named[:, :, None] & BIT != 0)
        equal = (rows[:, :, None] == rows[:, None, :]) & takes_part
        same = np.where(equal, BIT, 0).sum(2, dtype=np.uint32)
        agreed = same == members.named
        membership.write(members, np.where(agreed, same, 0) if every else same, write)
        membership.write(members, agreed, write_all)

    return step


REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@effect("redux")
def redux(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """Reduce a value over the members."""
    check_modifiers(instruction, frozenset(("sync", *REDUCTIONS)))
    target, value, mask = instruction.operands
    name = next(m for m in instruction.modifiers if m in REDUCTIONS)
    dtype = DTYPES[instruction.type]
    write = lanes.writer(target, instruction.type)
    values = lanes.source(value, instruction.type)
    membership = Membership(instruction, lanes, pc, mask)
    limits = np.iinfo(dtype)
    neutral = {"min": limits.max, "max": limits.min, "and": ~dtype.type(0)}.get(name, 0)

    def step() -> None:
        members = membership.begin()
        rows = lanes.full(values).reshape(-1, WARP)
        kept = np.where(members.mask.reshape(-1, WARP), rows, neutral).astype(dtype)
        total = REDUCTIONS[name].reduce(kept, 1, dtype=dtype)
        membership.write(members, np.repeat(total, WARP), write)

    return step


def warp_barrier(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """``bar.warp.sync``: orders the memory accesses of a warp if all that live take part."""
    membership = Membership(instruction, lanes, pc, instruction.operands[0])

    def step() -> None:
        members = membership.begin()
        alive = warp_bits(lanes.alive)
        whole = np.repeat(warp_bits(members.mask) == alive, WARP)
        lanes.warp_epochs = lanes.warp_epochs + whole

    return step


@effect("bar", "barrier")
def bar(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """The barrier of a warp; those of a block end a basic block and are not seen here."""
    check_modifiers(instruction, frozenset(("warp", "sync")))
    return warp_barrier(instruction, lanes, pc)


@effect("nanosleep", "prefetch", "prefetchu", "discard", "applypriority", "pmevent")
def nothing(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """What changes no value."""
    return lambda: None
