"""Which lanes run next: groups in the order of the program, barriers, the end.

Lanes that stand at the same instruction form a group. The group at the lowest instruction runs
until it meets another, so that divergent threads come together again as soon as they can.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnkernels.testing.ptx.analysis import Analysis, is_barrier, targets
from nnkernels.testing.ptx.dtypes import Array
from nnkernels.testing.ptx.faults import Fault, Kind
from nnkernels.testing.ptx.lanes import Group, Lanes
from nnkernels.testing.ptx.parsing import Immediate, Instruction
from nnkernels.testing.ptx.registry import check_modifiers, unknown
from nnkernels.testing.ptx.steps import Steps

BUDGET = 2_000_000
"""Instructions that a chunk of blocks may execute before its loop counts as endless."""


class Barrier:
    """A barrier of a block at the end of a basic block; with a reduction for ``bar.red``."""

    def __init__(self, instruction: Instruction, lanes: Lanes) -> None:
        check_modifiers(
            instruction, frozenset(("sync", "red", "popc", "and", "or", "cta", "aligned"))
        )
        self.lanes = lanes
        reduces = "red" in instruction.modifiers
        if instruction.guard is not None or not {"sync", "red"} & set(instruction.modifiers):
            raise unknown(instruction, "only bar.sync and bar.red without a guard are supported")
        rest = list(instruction.operands[1:] if reduces else instruction.operands)
        self.predicate = lanes.source(rest.pop(), "pred") if reduces else None
        self.negated = reduces and getattr(instruction.operands[-1], "negated", False)
        if len(rest) > 1 and not self._is_whole(rest[1]):
            raise unknown(instruction, "barriers of a part of the block are not supported")
        self.operation = next((m for m in instruction.modifiers if m in ("popc", "and", "or")), "")
        kind = "u32" if self.operation == "popc" else "pred"
        self.write = lanes.writer(instruction.operands[0] if reduces else None, kind)

    def _is_whole(self, count: object) -> bool:
        return isinstance(count, Immediate) and int(count.text, 0) == self.lanes.width

    def reduce(self, released: Array) -> None:
        """Give the threads of the released blocks the reduction of their predicates."""
        if self.predicate is None:
            return
        lanes = self.lanes
        held = released & (~self.predicate if self.negated else self.predicate)
        count = np.bincount(lanes.block_of[held], minlength=lanes.capacity).astype(np.uint32)
        result = {"popc": count, "or": count > 0, "and": count == lanes.threads}[self.operation]
        at = np.flatnonzero(released)
        self.write(result[lanes.block_of[at]], at)


class Scheduler:
    """Runs the lanes of one chunk to their end.

    After a run ``executed`` counts warps by basic block, and ``passed`` is the number of barriers
    that blocks passed.
    """

    def __init__(self, lanes: Lanes, steps: Steps) -> None:
        self.lanes, self.steps = lanes, steps
        self.analysis: Analysis = lanes.analysis
        self.blocks = self.analysis.blocks
        self.number = {block.start: n for n, block in enumerate(self.blocks)}
        self.targets: dict[int, list[int]] = {}
        self.barriers: dict[int, Barrier] = {}

    def run(self, budget: int, all_passed: Callable[[], None]) -> None:
        """Run all threads that are present; call back when all blocks pass a barrier together."""
        lanes = self.lanes
        self.budget, self.all_passed = budget, all_passed
        self.executed = [0] * len(self.blocks)
        self.passed = 0
        self.waiting_at = np.full(lanes.size, -1)
        self.pending = {0: lanes.present.copy()}
        while self.pending:
            number = min(self.pending)
            mask = self.pending.pop(number)
            self._run_group(number, Group(mask, self._is_alone(mask)))
        if (self.waiting_at >= 0).any():
            raise self._stuck()

    def _is_alone(self, mask: Array) -> bool:
        return int(np.count_nonzero(mask)) == self.lanes.alive_count

    def _run_group(self, number: int, group: Group) -> None:
        """Run a group until it splits, waits, ends or meets another."""
        while True:
            if number >= len(self.blocks):
                self._exit(group.mask)
                return
            self._execute(number, group)
            following = self._leave(number, group)
            if following is None:
                return
            if self.pending and following >= min(self.pending):
                self._put(following, group.mask)
                return
            number = following

    def _execute(self, number: int, group: Group) -> None:
        block = self.blocks[number]
        self.executed[number] += group.warps
        self.budget -= block.stop - block.start + 1
        if self.budget < 0:
            lane = int(np.argmax(group.mask))
            raise self.lanes.fault(
                Kind.ENDLESS, "the budget of instructions is spent", block.start, lane
            )
        self.lanes.activate(group)
        for step in self.steps.block(number, group.alone):
            step()
        if block.end is not None:
            self.steps.check_end(number)

    def _put(self, number: int, mask: Array) -> None:
        there = self.pending.get(number)
        self.pending[number] = mask if there is None else there | mask

    # --- the ends of blocks ----------------------------------------------------------------

    def _leave(self, number: int, group: Group) -> int | None:
        """Where the group goes on; None if it does not as a whole."""
        end = self.blocks[number].end
        if end is None:
            return number + 1
        if end.opcode == "bra":
            return self._branch(number, group, end)
        if end.opcode == "brx":
            return self._branch_table(number, group, end)
        if is_barrier(end):
            return self._barrier(number, group, end)
        return self._end(number, group, end)

    def _targets(self, number: int, end: Instruction) -> list[int]:
        if number not in self.targets:
            pcs = targets(self.lanes.code, end)
            self.targets[number] = [self.number.get(pc, len(self.blocks)) for pc in pcs]
        return self.targets[number]

    def _chosen(self, end: Instruction) -> Array:
        """Which lanes of the group the guard of an instruction lets pass."""
        return self.lanes.executing(*self.lanes.predicate(end.guard))

    def _branch(self, number: int, group: Group, end: Instruction) -> int | None:
        target = self._targets(number, end)[0]
        if end.guard is None:
            return target
        taken = self._chosen(end)
        count = int(np.count_nonzero(taken))
        if count == group.count:
            return target
        if count == 0:
            return number + 1
        self._put(target, taken)
        self._put(number + 1, group.mask & ~taken)
        return None

    def _branch_table(self, number: int, group: Group, end: Instruction) -> int | None:
        numbers = self._targets(number, end)
        index = np.broadcast_to(self.lanes.source(end.operands[0], "u32"), self.lanes.size)
        taken = self._chosen(end)
        if np.count_nonzero(taken & (index >= len(numbers))):
            raise self.lanes.fault(
                Kind.OUT_OF_BOUNDS, "index of a branch table", self.blocks[number].stop
            )
        for case, target in enumerate(numbers):
            mask = taken & (index == case)
            if mask.any():
                self._put(target, mask)
        if (group.mask & ~taken).any():
            self._put(number + 1, group.mask & ~taken)
        return None

    def _end(self, number: int, group: Group, end: Instruction) -> int | None:
        leaving = self._chosen(end)
        if end.opcode == "trap" and leaving.any():
            raise self.lanes.fault(
                Kind.TRAP,
                "the thread executes it",
                self.blocks[number].stop,
                int(np.argmax(leaving)),
            )
        self._exit(leaving)
        rest = group.mask & ~leaving
        if rest.any():
            self._put(number + 1, rest)
        return None

    def _exit(self, mask: Array) -> None:
        self.lanes.alive = self.lanes.alive & ~mask
        self.lanes.alive_count -= int(np.count_nonzero(mask))

    # --- barriers --------------------------------------------------------------------------

    def _barrier(self, number: int, group: Group, end: Instruction) -> int | None:
        lanes = self.lanes
        if number not in self.barriers:
            with lanes.blaming(self.blocks[number].stop):
                self.barriers[number] = Barrier(end, lanes)
        if group.count == lanes.blocks * lanes.threads:
            self._release(number, group.mask)
            return number + 1
        self.waiting_at[group.mask] = number
        here = lanes.block_of[self.waiting_at == number]
        complete = np.bincount(here, minlength=lanes.capacity) == lanes.threads
        released = complete[lanes.block_of] & lanes.present
        if released.any():
            self.waiting_at[released] = -1
            self._release(number, released)
            self._put(number + 1, released)
        return None

    def _release(self, number: int, released: Array) -> None:
        lanes = self.lanes
        passed = np.zeros(lanes.capacity, np.int64)
        passed[lanes.block_of[released]] = 1
        self.passed += int(passed.sum())
        lanes.epochs = lanes.epochs + passed
        self.barriers[number].reduce(released)
        if int(passed.sum()) == lanes.blocks:
            self.all_passed()

    def _stuck(self) -> Fault:
        """The fault of threads that wait for ever."""
        lanes = self.lanes
        lane = int(np.argmax(self.waiting_at >= 0))
        block = lanes.block_of == lanes.block_of[lane]
        places = {int(n) for n in self.waiting_at[block & lanes.alive]}
        pc = self.blocks[int(self.waiting_at[lane])].stop
        gone = int(np.count_nonzero(block & lanes.present & ~lanes.alive))
        if gone:
            text = f"{gone} of {lanes.threads} threads of the block have ended"
            return lanes.fault(Kind.BARRIER_DIVERGENCE, text, pc, lane)
        lines = ", ".join(f"pc {self.blocks[n].stop}" for n in sorted(places))
        return lanes.fault(Kind.DIFFERENT_BARRIERS, lines, pc, lane)
