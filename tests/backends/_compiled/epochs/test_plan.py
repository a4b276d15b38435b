"""The order of a step: stages, groups, the guard, and that no conflict is ever overtaken."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkernels.backends._compiled.declare import Access
from nnkernels.backends._compiled.epochs.plan import (
    Group,
    Guard,
    Plan,
    _grouped,
    _stages,
    make_plan,
)
from nnkernels.backends._compiled.epochs.table import share
from nnkernels.backends._compiled.epochs.tasks import Region, Task
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import (
    Step,
    evaluate_program,
    gradient_program,
    predict_program,
    train_program,
)
from nnkernels.program import Instruction, specialise

needs_tiles = pytest.mark.usefixtures("needs_tiles")


PARTS = {"_own": "own_product", "_sums": "column_sums", "_transpose": "transpose"}
"""What the native backend calls the parts of products, and the other one."""


def named(item):
    """What a group runs: kernel functions in order."""
    if isinstance(item, Guard):
        return "guard"
    names = [t.step.entry.name.partition("|")[0].rpartition(".")[2] for t in item.tasks]
    return " ".join(PARTS.get(name, name) for name in names)


def plan_of(backend, program) -> Plan:
    return make_plan(specialise(program, backend), backend)


@pytest.fixture
def classic():
    """Three layers, sigmoid, squared error, plain descent."""
    return MLP([784, 64, 32, 10], activation="sigmoid", loss="sum_squared_error")


@needs_tiles
def test_rows_first_then_sums_over_rows(compiled, classic):
    """What is divided by rows runs without a barrier; then the sums, each with its update."""
    step = Step(Adam(), gather=97)
    plan = plan_of(compiled, train_program(classic, 32, step))
    assert len(plan.stages) == 2
    rows, sums = ([named(item) for item in stage] for stage in plan.stages)
    assert all(item.units == 32 for item in plan.stages[0])
    assert "guard" in sums
    assert "guard" not in rows
    updates = [names for names in sums if "adam" in names]
    assert updates == [
        "own_product adam transpose",
        "column_sums adam",
        "own_product adam transpose",
        "column_sums adam",
        "own_product adam",
        "column_sums adam",
    ]
    assert [named(Group((task,), 1)) for task in plan.prologue] == ["transpose", "transpose"]


@needs_tiles
def test_a_group_takes_chunks_that_fit_a_cache(compiled, classic):
    plan = plan_of(compiled, train_program(classic, 32, Step(Adam())))
    groups = [item for stage in plan.stages for item in stage if isinstance(item, Group)]
    (first,) = [g for g in groups if g.units == 784]
    assert 24 <= first.chunk < 784
    assert first.chunk % 24 == 0
    assert {task.units for task in first.tasks} == {784}


STEPS = {
    "plain": Step(Adam()),
    "gathered": Step(Adam(), gather=50),
    "clipped": Step(Adam(), clip_norm=1.0, clip_value=1.0, metrics=("mae",)),
}


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("rows", [1, 32])
def test_nothing_is_updated_before_the_guard_has_looked(step, norm, rows, compiled, classic):
    model = MLP([5, 4, 3], norm=norm, dropout=0.2, l2=0.1, loss="mse")
    plan = plan_of(compiled, train_program(model, rows, step))
    items = [item for stage in plan.stages for item in stage]
    (at,) = [number for number, item in enumerate(items) if isinstance(item, Guard)]
    early = [task for item in items[:at] if isinstance(item, Group) for task in item.tasks]
    assert all(task.instruction.phase == "compute" or not task.lasts for task in early)
    check_schedule([task for task in plan.tasks if task not in plan.prologue], plan.stages)


@pytest.mark.parametrize("kind", ["gradient", "evaluate", "predict"])
def test_programs_that_update_nothing_have_no_guard(kind, compiled, classic):
    program = {
        "gradient": lambda: gradient_program(classic, 8, labels=False),
        "evaluate": lambda: evaluate_program(classic, 8, labels=False, metrics=("mse",)),
        "predict": lambda: predict_program(classic, 8, link=None),
    }[kind]()
    plan = plan_of(compiled, program)
    assert not any(isinstance(item, Guard) for stage in plan.stages for item in stage)


def test_a_plan_of_many_layers_is_made_quickly(compiled):
    """Linear in the number of layers but for a small factor: 300 layers take a few seconds."""
    program = train_program(MLP([8] + [8] * 300 + [3]), 32, Step(Adam(), labels=True))
    assert len(plan_of(compiled, program).stages) == 2


# --- random tasks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeStep:
    """What a plan asks of a step."""

    accesses: tuple[Access, ...]
    items: int
    block: int = 0
    copies: None = None


SIZE = 64


@st.composite
def tasks(draw):
    """Tasks of random units on random pieces of few arrays, whole or divided."""
    made = []
    split = draw(st.integers(0, 8))
    for number in range(draw(st.integers(1, 8))):
        everywhere = draw(st.booleans())
        units = 1 if everywhere else draw(st.sampled_from([1, 4, 16]))
        accesses, regions = [], {}
        for at in range(draw(st.integers(1, 3))):
            name = f"a{at}"
            written = draw(st.booleans()) or everywhere
            sliced = draw(st.booleans()) and not everywhere
            private = everywhere and written
            memory = draw(st.sampled_from("pq" if private else "xyz"))
            length = SIZE if sliced or private else draw(st.sampled_from([16, 32, SIZE]))
            offset = 0 if length == SIZE else draw(st.sampled_from([0, 16, 32]))
            accesses.append(Access(name, written, sliced))
            regions[name] = Region(memory, offset, length, (units, length // units), private)
        if not any(access.written for access in accesses):
            accesses[0] = accesses[0]._replace(written=True)
        phase = "compute" if number < split else "update"
        instruction = Instruction(f"op{number}", (), (), {}, phase)
        made.append(Task(FakeStep(tuple(accesses), units), regions, instruction, units, everywhere))
    return made


def touched(task, use, unit):
    """Bytes of a region that a unit of a task touches."""
    first, size = use.region.offset, use.region.nbytes
    if use.sliced:
        size //= task.units
        first += unit * size
    return range(first, first + size)


def conflicts(one, unit, other, other_unit):
    """Whether two units of two tasks touch a byte that one of them writes, both threads'."""
    return any(
        (mine.written or theirs.written)
        and mine.region.memory == theirs.region.memory
        and set(touched(one, mine, unit)) & set(touched(other, theirs, other_unit))
        for mine in one.uses
        for theirs in other.uses
    )


def order_of(stages, threads, thread):
    """What one thread runs between barriers: (task, unit) in order, for each stage."""
    for stage in stages:
        runs = []
        for item in stage:
            if isinstance(item, Guard):
                continue
            if item.everywhere:
                runs += [(task, 0) for task in item.tasks]
                continue
            first, last = share(item.units, threads, thread)
            while first < last:
                stop = min(last, first + item.chunk)
                runs += [(task, unit) for task in item.tasks for unit in range(first, stop)]
                first = stop
        yield runs


def check_schedule(given, stages, threads=3):
    """Every conflicting pair keeps the Program's order, on one thread or across a barrier."""
    number = {task: at for at, task in enumerate(given)}
    assert sorted(
        number[t] for s in stages for i in s if isinstance(i, Group) for t in i.tasks
    ) == (sorted(number.values()))
    per_thread = [list(order_of(stages, threads, thread)) for thread in range(threads)]
    for stage in range(len(stages)):
        for thread, plans in enumerate(per_thread):
            runs = plans[stage]
            for at, (task, unit) in enumerate(runs):
                for other, other_unit in runs[at + 1 :]:
                    if other is not task and number[other] < number[task]:
                        assert not conflicts(task, unit, other, other_unit), "overtaken"
                for rival in range(threads):
                    if rival != thread:
                        for other, other_unit in per_thread[rival][stage]:
                            assert not races(task, unit, other, other_unit), "no barrier between"
    for later in range(len(stages)):
        for earlier in range(later):
            for task, unit in {r for plans in per_thread for r in plans[later]}:
                for other, other_unit in {r for plans in per_thread for r in plans[earlier]}:
                    if number[task] < number[other]:
                        assert not conflicts(task, unit, other, other_unit), "a stage too late"


def races(one, unit, other, other_unit):
    """Whether units on two threads conflict on memory that both share; a task never with itself."""
    return one is not other and any(
        (mine.written or theirs.written)
        and not mine.region.private
        and mine.region.memory == theirs.region.memory
        and set(touched(one, mine, unit)) & set(touched(other, theirs, other_unit))
        for mine in one.uses
        for theirs in other.uses
    )


@settings(max_examples=300, deadline=None)
@given(given_tasks=tasks())
def test_random_tasks_keep_the_order_of_their_conflicts(given_tasks):
    stages = [_grouped(stage) for stage in _stages(given_tasks)]
    check_schedule(given_tasks, stages)


@settings(max_examples=200, deadline=None)
@given(units=st.integers(0, 5000), threads=st.integers(1, 70))
def test_threads_share_units_without_gap_or_overlap(units, threads):
    parts = [share(units, threads, thread) for thread in range(threads)]
    covered = [unit for first, last in parts for unit in range(first, last)]
    assert covered == list(range(units))
    if units >= 64:
        assert all(first % 16 == 0 or first == units for first, _ in parts)
