"""The order in which tasks run: stages between barriers, and groups that share a cache.

What several threads may do without waiting for each other is a stage. Tasks are taken in the
Program's order, those of later instructions too, as long as they follow nothing that is still to
come: so all that is divided by the batch's rows runs in one stage, and what sums over rows in the
next. In a group the threads take the same units of several tasks chunk by chunk: the gradient of a
weight matrix, its update, and its transposed copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nnkernels.backend import Backend
from nnkernels.backends.numba.library import Entry
from nnkernels.backends.numba.tasks import Region, Task, tasks_of
from nnkernels.program.format import Entry as Parameter
from nnkernels.program.format import Program, Slot

TILES = 24
"""Chunks are multiples of so many rows, which tiles of 6, 8 and 12 rows fill."""


@dataclass(frozen=True)
class Guard:
    """The place where a run ends if the loss is not finite."""

    loss: Region


@dataclass(frozen=True)
class Group:
    """Tasks of equal units that run one after the other, ``chunk`` units at a time."""

    tasks: tuple[Task, ...]
    chunk: int

    @property
    def units(self) -> int:
        """How many units threads divide."""
        return self.tasks[0].units

    @property
    def everywhere(self) -> bool:
        """Whether every thread runs it whole."""
        return self.tasks[0].everywhere


@dataclass(frozen=True)
class Plan:
    """What a step does.

    Attributes:
        prologue: tasks that run once before a run of steps: transposed copies of parameters.
        stages: what runs between barriers, in order.
    """

    prologue: tuple[Task, ...]
    stages: tuple[tuple[Group | Guard, ...], ...]

    @property
    def tasks(self) -> Iterator[Task]:
        """All tasks, each once."""
        yield from self.prologue
        for stage in self.stages:
            for item in stage:
                if isinstance(item, Group):
                    yield from item.tasks

    @property
    def entries(self) -> list[Entry]:
        """The compiled code that it calls."""
        return list(dict.fromkeys(task.step.entry for task in self.tasks))


def make_plan(program: Program, backend: Backend) -> Plan:
    """The plan of a Program that is specialised to ``backend``.

    Raises:
        Unsupported: a kernel is not compiled.
    """
    tasks = tasks_of(program, backend)
    parameters = [e for e in program.layout.entries if e.buffer == "parameters"]
    divided = [part for task in tasks for part in _divided(task, parameters)]
    prologue, kept = _with_kept_copies(divided)
    order: list[Task | Guard] = list(kept)
    if program.guard is not None:
        first = [t.instruction.phase for t in kept].count("compute")
        order.insert(first, Guard(_region(program.slots[program.guard], kept)))
    return Plan(tuple(prologue), tuple(tuple(_grouped(stage)) for stage in _stages(order)))


def _region(slot: Slot, tasks: Sequence[Task]) -> Region:
    """The region of the loss, as its tasks call it."""
    name = f"arena {slot.name}"
    found = (r for task in tasks for r in task.regions.values() if r.memory == name)
    return next(found)


# --- updates -------------------------------------------------------------------------------------


def _divided(task: Task, parameters: Sequence[Parameter]) -> list[Task]:
    """An update of whole flat buffers as one of every parameter; other tasks as they are."""
    arrays = [use for use in task.uses if not use.region.private]
    whole = arrays and all(
        use.sliced and use.region.offset == 0 and use.region.shape == (task.step.items,)
        for use in arrays
    )
    if task.instruction.phase != "update" or not whole or not parameters:
        return [task]
    return [_part(task, parameter) for parameter in parameters]


def _part(task: Task, parameter: Parameter) -> Task:
    """The update of one parameter, in units of its rows."""
    count = math.prod(parameter.shape)
    regions = {
        name: region if region.private else _inside(region, parameter, task.step.items, count)
        for name, region in task.regions.items()
    }
    units = parameter.shape[0] if parameter.shape else 1
    return replace(task, step=replace(task.step, items=count), regions=regions, units=units)


def _inside(region: Region, parameter: Parameter, items: int, count: int) -> Region:
    nbytes = region.nbytes // items * count
    return Region(region.memory, parameter.offset, nbytes, parameter.shape)


def _with_kept_copies(tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """Transposed parameters: copied before a run and again after an update, not in every step."""
    sources = {task: source for task in tasks if (source := _source(task)) is not None}
    order: list[Task] = []
    for task in tasks:
        if task in sources:
            continue
        order.append(task)
        written = [use.region for use in task.uses if use.written]
        order += [
            replace(copy, instruction=task.instruction)
            for copy, source in sources.items()
            if any(region.overlaps(source) for region in written)
        ]
    return list(sources), order


def _source(task: Task) -> Region | None:
    """The parameter that a task does nothing but copy."""
    if task.step.copies is None:
        return None
    region = task.regions[task.step.copies[0]]
    return region if region.memory == "parameters" else None


# --- order ---------------------------------------------------------------------------------------

Item = Task | Guard


def _stages(items: Sequence[Item]) -> list[list[Item]]:
    """All items in stages: each as early as its threads need not wait within the stage."""
    stages: list[list[Item]] = []
    rest = list(items)
    while rest:
        stage: list[Item] = []
        later: list[Item] = []
        for item in rest:
            blocked = any(_follows(item, other) for other in later)
            blocked = blocked or any(_waits_for(item, other) for other in stage)
            (later if blocked else stage).append(item)
        stages.append(stage)
        rest = later
    return stages


def _follows(item: Item, other: Item) -> bool:
    """Whether ``item`` must run after ``other``; nothing is updated before the guard has looked."""
    if isinstance(item, Guard):
        return isinstance(other, Task) and any(
            use.written and use.region.overlaps(item.loss) for use in other.uses
        )
    if isinstance(other, Guard):
        return item.instruction.phase == "update"
    return item.follows(other)


def _waits_for(item: Item, other: Item) -> bool:
    return isinstance(item, Task) and isinstance(other, Task) and item.waits_for(other)


def _grouped(stage: Sequence[Item]) -> list[Group | Guard]:
    """A stage with the threads' own work first, then groups of what shares its units."""
    first: list[Item] = []
    rest: list[Item] = []
    for item in stage:
        own = isinstance(item, Guard) or item.everywhere
        (first if own and not any(_follows(item, r) for r in rest) else rest).append(item)
    groups: list[list[Item]] = []
    for item in rest:
        group = _group_for(item, groups)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return [_closed(group) for group in ([item] for item in first)] + [
        _closed(group) for group in groups
    ]


def _group_for(item: Item, groups: Sequence[list[Item]]) -> list[Item] | None:
    """The last group that an update can join, without overtaking what it must follow."""
    if isinstance(item, Guard) or item.everywhere or item.instruction.phase != "update":
        return None
    for group in reversed(groups):
        if any(_follows(item, member) for member in group):
            head = group[0]
            alike = isinstance(head, Task) and not head.everywhere and head.units == item.units
            return group if alike and item.units > 1 else None
    return None


def _closed(group: Sequence[Item]) -> Group | Guard:
    head = group[0]
    if isinstance(head, Guard):
        return head
    tasks = tuple(task for task in group if isinstance(task, Task))
    return Group(tasks, _chunk(head) if len(tasks) > 1 else max(head.units, 1))


def _chunk(task: Task) -> int:
    """Units whose results of ``task`` are as large as its step likes."""
    target = next(use.region for use in task.uses if use.written)
    per_unit = max(target.nbytes // max(task.units, 1), 1)
    units = max(task.step.block // per_unit, 1) if task.step.block else task.units
    return max(units // TILES * TILES, min(units, TILES))
