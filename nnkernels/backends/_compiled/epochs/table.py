"""The table of one thread: a plan as the integers that the compiled loop reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnkernels.backends._compiled.epochs import engine
from nnkernels.backends._compiled.epochs.memory import INPUT_PREFIX, Private, Shared
from nnkernels.backends._compiled.epochs.plan import Group, Guard, Plan
from nnkernels.backends._compiled.epochs.tasks import Region, Task
from nnkernels.program.format import Slot
from nnkernels.spec import Array

PROBE = 1 << 20
"""An address that tells which cells of a record an input's address goes to."""


def share(units: int, threads: int, thread: int) -> tuple[int, int]:
    """The units ``[first, last)`` of one of ``threads``, divided where cache lines are.

    A function of the number of units alone, so that tasks of equal units are divided alike.
    """
    if units < 16:
        return (0, units) if thread == threads - 1 else (0, 0)
    grain = 16 if units >= 64 else 1
    each = -(-units // (threads * grain)) * grain
    return min(thread * each, units), min((thread + 1) * each, units)


class Table:
    """One thread's table with its records.

    Args:
        plan: what a step does.
        shared, private: where the arrays lie.
        inputs: the Program's inputs by name.
        double: whether the loss is float64.
        threads, thread: how many there are, and which one this is.
    """

    def __init__(
        self,
        plan: Plan,
        shared: Shared,
        private: Private,
        inputs: Mapping[str, Slot],
        double: bool,
        threads: int,
        thread: int,
    ) -> None:
        self._shared, self._private = shared, private
        self._threads, self._thread = threads, thread
        self._double = double
        self._inputs = inputs
        self.records: list[Array] = []
        self.clocks: list[tuple[Task, Array]] = []
        self._cells: dict[str, list[tuple[Array, int]]] = {name: [] for name in inputs}
        body = [word for stage in plan.stages for word in self._stage(stage)]
        windows = [
            (name, record, cell)
            for name, cells in self._cells.items()
            if inputs[name].window
            for record, cell in cells
        ]
        self._windows = [
            (name, engine.LENGTHS[engine.WINDOW] * i + 2) for i, (name, *_) in enumerate(windows)
        ]
        head = [
            word
            for _, record, cell in windows
            for word in (engine.WINDOW, record.ctypes.data + 8 * cell, 0, 0)
        ]
        self.words = np.array([*head, *body, engine.END], np.int64)

    @property
    def address(self) -> int:
        """Where the loop begins to read."""
        return int(self.words.ctypes.data)

    def feed(self, arrays: Mapping[str, Array]) -> None:
        """Put the addresses of input arrays where they belong."""
        for name, array in arrays.items():
            if not self._inputs[name].window:
                for record, cell in self._cells[name]:
                    record[cell] = array.ctypes.data
        for name, at in self._windows:
            array = arrays[name]
            self.words[at] = array.ctypes.data
            self.words[at + 1] = array.strides[0]

    def record(self, task: Task) -> Array:
        """The record of a task on this thread's memory."""
        base = {name: self._address(region) for name, region in task.regions.items()}
        record = np.array(task.step.fill(base), np.int64)
        for name, region in task.regions.items():
            if region.memory.startswith(INPUT_PREFIX):
                probed = task.step.fill({**base, name: PROBE})
                found = np.flatnonzero(np.array(probed, np.int64) != record)
                cells = self._cells[region.memory.removeprefix(INPUT_PREFIX)]
                cells.extend((record, int(cell)) for cell in found)
        self.records.append(record)
        return record

    def _address(self, region: Region) -> int:
        return (self._private if region.private else self._shared).address(region)

    def _stage(self, stage: Sequence[Group | Guard]) -> list[int]:
        words = [word for item in stage for word in self._item(item)]
        return [*words, engine.BARRIER] if self._threads > 1 else words

    def _item(self, item: Group | Guard) -> list[int]:
        if isinstance(item, Guard):
            return [engine.GUARD, self._address(item.loss), int(self._double)]
        first, last = 0, item.units
        if not item.everywhere:
            first, last = share(item.units, self._threads, self._thread)
        if first == last:
            return []
        words = [engine.RUN, len(item.tasks), first, last, item.chunk]
        for task in item.tasks:
            clock = np.zeros(1, np.int64)
            self.clocks.append((task, clock))
            record = self.record(task).ctypes.data
            words += [task.step.entry.address, record, task.factor, clock.ctypes.data]
        return words
