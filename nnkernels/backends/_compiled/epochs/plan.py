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
from nnkernels.backends._compiled.entry import Entry
from nnkernels.backends._compiled.epochs.tasks import Region, Task, Use, regions_of, tasks_of
from nnkernels.program.format import Entry as Parameter
from nnkernels.program.format import Program

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
        order.insert(first, Guard(_loss(regions_of(program)[program.guard], kept)))
    return Plan(tuple(prologue), tuple(tuple(_grouped(stage)) for stage in _stages(order)))


def _loss(region: Region, tasks: Sequence[Task]) -> Region:
    """The region of the loss, as the tasks that touch it have it: perhaps every thread's own."""
    found = (r for task in tasks for r in task.regions.values() if r.memory == region.memory)
    return next(found, region)


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
    """The parameter that a task does nothing but copy, to where all threads find it."""
    if task.step.copies is None:
        return None
    source, target = (task.regions[name] for name in task.step.copies)
    return source if source.memory == "parameters" and not target.private else None


# --- order ---------------------------------------------------------------------------------------

Item = Task | Guard


class _Pile:
    """Items in the order in which they were added, found by the memory that they touch."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._guards: list[Item] = []
        self._uses: dict[str, list[tuple[Use, Item]]] = {}

    def add(self, item: Item) -> None:
        """Put an item on top."""
        self.items.append(item)
        if isinstance(item, Guard):
            self._guards.append(item)
        for use in _uses(item):
            self._uses.setdefault(use.region.memory, []).append((use, item))

    def near(self, item: Item) -> Iterator[Item]:
        """The items that ``item`` may have to follow; some of them several times."""
        yield from self._guards
        for mine in _uses(item):
            for theirs, found in self._uses.get(mine.region.memory, ()):
                if (mine.written or theirs.written) and mine.region.overlaps(theirs.region):
                    yield found


def _uses(item: Item) -> list[Use]:
    return [Use(item.loss, False, False)] if isinstance(item, Guard) else item.uses


def _stages(items: Sequence[Item]) -> list[list[Item]]:
    """All items in stages: each as early as its threads need not wait within the stage."""
    stages: list[list[Item]] = []
    rest = list(items)
    while rest:
        stage, later = _Pile(), _Pile()
        for item in rest:
            blocked = any(_follows(item, other) for other in later.near(item))
            blocked = blocked or any(_waits_for(item, other) for other in stage.near(item))
            (later if blocked else stage).add(item)
        stages.append(stage.items)
        rest = later.items
    return stages


def _follows(item: Item, other: Item) -> bool:
    """Whether ``item`` must run after ``other``; nothing is updated before the guard has looked."""
    if isinstance(item, Guard):
        return isinstance(other, Task) and any(
            use.written and use.region.overlaps(item.loss) for use in other.uses
        )
    if isinstance(other, Guard):
        return item.instruction.phase == "update" and item.lasts
    return item.follows(other)


def _waits_for(item: Item, other: Item) -> bool:
    if isinstance(item, Guard):  # a loss of every thread's own needs no waiting
        return not item.loss.private and _follows(item, other)
    return isinstance(other, Task) and item.waits_for(other)


def _grouped(stage: Sequence[Item]) -> list[Group | Guard]:
    """A stage with the threads' own work first, then groups of what shares its units."""
    first: list[Item] = []
    rest = _Pile()
    for item in stage:
        own = isinstance(item, Guard) or item.everywhere
        if own and not any(_follows(item, other) for other in rest.near(item)):
            first.append(item)
        else:
            rest.add(item)
    groups: list[list[Item]] = [[item] for item in first]
    seen, numbers = _Pile(), dict[Item, int]()
    for item in rest.items:
        followed = [numbers[o] for o in seen.near(item) if _follows(item, o)]
        number = max(followed, default=-1)
        if number >= 0 and _joins(item, groups[number]):
            groups[number].append(item)
        else:
            number = len(groups)
            groups.append([item])
        seen.add(item)
        numbers[item] = number
    return [_closed(group) for group in groups]


def _joins(item: Item, group: Sequence[Item]) -> bool:
    """Whether an update can run with what it follows, chunk by chunk."""
    head = group[0]
    if isinstance(item, Guard) or isinstance(head, Guard):
        return False
    if item.everywhere or head.everywhere or item.instruction.phase != "update":
        return False
    return head.units == item.units > 1


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
