"""Running a Program: feeding, steps, the guard, one thread at a time."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nnkernels.errors import (
    DTypeError,
    LabelError,
    ProgramError,
    ShapeError,
    UnknownNameError,
)
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import Builder, Instruction, Program, Slot, State

ROWS = 4


def trainable(backend, **step):
    """A small network, its State, and an Executable fed with three batches."""
    network = MLP([3, 4, 2], norm="batch", dropout=0.2, dtype="float64", seed=1)
    program = train_program(network, ROWS, Step(Adam(), labels=True, **step))
    state = State(program.layout, backend.device)
    for name, array in {**network.parameters, **network.statistics}.items():
        state.set(name, array)
    rng = np.random.default_rng(0)
    executable = backend.bind(program, state)
    x, y = rng.normal(size=(3 * ROWS, 3)), rng.integers(0, 2, 3 * ROWS)
    executable.feed(x=x, y=y)
    return executable, state, x, y


def doubling(rows=ROWS):
    """``y`` is filled with ``x + x``, row window by row window."""
    b = Builder(rows, "float64")
    x = b.input("x", (rows, 2))
    y = b.input("y", (rows, 2))
    b.emit("add", (x, x), (y,), {})
    with b.update_phase():
        b.emit("advance", [b.entry("row")], [], {"rows": rows})
    return b.program(y=y)


@pytest.fixture
def double(numpy_backend):
    program = doubling()
    return numpy_backend.bind(program, State(program.layout, numpy_backend.device))


def test_windows_move_with_the_row_counter(double):
    x, y = np.arange(24.0).reshape(12, 2), np.zeros((12, 2))
    double.feed(x=x, y=y)
    assert double.run(2) == 2
    np.testing.assert_array_equal(y[:8], 2 * x[:8])
    assert not y[8:].any()
    assert double.run(1) == 1
    np.testing.assert_array_equal(y, 2 * x)


def test_running_past_the_end_is_refused(double):
    double.feed(x=np.zeros((6, 2)), y=np.zeros((6, 2)))
    with pytest.raises(ProgramError, match="rows 4 to 8"):
        double.run(2)


def test_running_without_data_is_refused(double):
    with pytest.raises(ProgramError, match="feed"):
        double.run(1)


def test_stop_is_asked_before_every_step(double):
    double.feed(x=np.zeros((12, 2)), y=np.zeros((12, 2)))
    answers = iter([False, False, True])
    assert double.run(3, lambda: next(answers)) == 2
    assert double.state.number("row") == 2 * ROWS


@pytest.mark.parametrize(
    ("fed", "error", "message"),
    [
        ({"x": np.zeros((4, 2))}, ProgramError, "expected"),
        ({"x": np.zeros((4, 2)), "z": np.zeros((4, 2))}, ProgramError, "'z'"),
        ({"x": np.zeros((3, 2)), "y": np.zeros((4, 2))}, ShapeError, "'x'"),
        ({"x": np.zeros((4, 3)), "y": np.zeros((4, 2))}, ShapeError, "'x'"),
        ({"x": np.zeros(4), "y": np.zeros((4, 2))}, ShapeError, "'x'"),
        ({"x": np.zeros((4, 2), "f4"), "y": np.zeros((4, 2))}, DTypeError, "float64"),
        ({"x": [[0.0, 0.0]] * 4, "y": np.zeros((4, 2))}, DTypeError, "list"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(double, fed, error, message):
    with pytest.raises(error, match=message):
        double.feed(**fed)


def test_labels_out_of_range_are_refused(numpy_backend):
    executable, _, x, y = trainable(numpy_backend)
    for bad in (-1, 2):
        labels = y.copy()
        labels[7] = bad
        with pytest.raises(LabelError, match="'y'"):
            executable.feed(x=x, y=labels)


def test_any_layout_may_be_fed(double):
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 4)))[:, ::-2]
    y = np.zeros((8, 2))[::2]
    double.feed(x=x, y=y)
    double.run(1)
    np.testing.assert_array_equal(y, 2 * x)


def test_fetch_gives_a_copy(numpy_backend):
    executable, *_ = trainable(numpy_backend)
    executable.run(1)
    loss = executable.fetch("loss")
    before = float(loss)
    executable.run(1)
    assert float(loss) == before != float(executable.fetch("loss"))
    with pytest.raises(UnknownNameError, match="loss"):
        executable.fetch("lost")


BAD_VALUES = pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])


@BAD_VALUES
def test_a_loss_that_is_not_finite_changes_nothing(numpy_backend, bad):
    executable, state, x, y = trainable(numpy_backend, clip_norm=1.0, metrics=("accuracy",))
    x = x.copy()
    x[ROWS + 1, 2] = bad
    executable.feed(x=x, y=y)
    assert executable.run(1) == 1
    before = state.snapshot()
    assert executable.run(2) == 0
    after = state.snapshot()
    assert state.number("diverged") == 1
    state.set("diverged", 0)
    after["counters"] = state.snapshot()["counters"]
    del before["gradients"], after["gradients"]  # scratch: every step computes them anew
    for name, values in before.items():
        assert values.tobytes() == after[name].tobytes(), name


def test_the_first_bad_tensor_is_named(numpy_backend):
    executable, state, x, y = trainable(numpy_backend)
    assert executable.first_bad() is None
    bad = x.copy()
    bad[2, 1] = np.nan
    executable.feed(x=bad, y=y)
    assert executable.first_bad() == "x"
    executable.feed(x=x, y=y)
    name = [n for n in state.names("parameters") if n.endswith("weight")][-1]
    state.view(name)[0, 0] = np.inf
    assert executable.first_bad() == name


def test_the_tensor_that_overflows_first_is_named(numpy_backend):
    executable, state, *_ = trainable(numpy_backend)
    names = [n for n in state.names("parameters") if n.endswith("weight")]
    state.view(names[0])[...] = 1e308
    state.view(names[0])[:, 1:] = 0
    assert executable.first_bad().startswith("linear0.linear")


def test_a_second_thread_is_refused(numpy_backend):
    inside, leave = threading.Event(), threading.Event()

    def blocking(a, b, *, out):
        inside.set()
        assert leave.wait(20)
        np.add(a, b, out=out)

    program = doubling()
    backend = numpy_backend.replace(add=blocking)
    executable = backend.bind(program, State(program.layout, backend.device))
    executable.feed(x=np.ones((4, 2)), y=np.zeros((4, 2)))
    thread = threading.Thread(target=executable.run, args=(1,))
    thread.start()
    try:
        assert inside.wait(20)
        with pytest.raises(ProgramError, match="another thread"):
            executable.run(1)
    finally:
        leave.set()
        thread.join(20)
    executable.state.set("row", 0)
    assert executable.run(1) == 1


def test_an_error_in_a_step_releases_the_executable(numpy_backend):
    program = doubling()
    calls = []

    def failing(a, b, *, out):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("planted")
        np.add(a, b, out=out)

    backend = numpy_backend.replace(add=failing)
    executable = backend.bind(program, State(program.layout, backend.device))
    executable.feed(x=np.ones((4, 2)), y=np.zeros((4, 2)))
    with pytest.raises(RuntimeError, match="planted"):
        executable.run(1)
    assert executable.run(1) == 1


def test_programs_share_one_state(numpy_backend):
    """The Executables of the full and of the short batch go on where the other stopped."""
    network = MLP([3, 2], dtype="float64", loss="mse", seed=1)
    step = Step(Adam(), schedule=3)
    programs = {rows: train_program(network, rows, step) for rows in (4, 2)}
    state = State(programs[4].layout, numpy_backend.device)
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(10, 3)), "y": rng.normal(size=(10, 2))}
    runs = {rows: numpy_backend.bind(p, state) for rows, p in programs.items()}
    for executable in runs.values():
        executable.feed(**data)
    state.set("schedule", [0.1, 0.2, 0.3])
    runs[4].run(2)
    runs[2].run(1)
    assert [state.number(n) for n in ("step", "epoch_step", "row")] == [3, 3, 10]
    assert state.number("learning_rate") == 0.3


SLOTS = {
    "x": Slot("x", (2, 3), "float32", "input"),
    "y": Slot("y", (2, 3), "float32"),
    "wide": Slot("wide", (2, 4), "float32"),
    "double": Slot("double", (2, 3), "float64"),
    "given": Slot("given", (2, 3), "float64", "input"),
    "one": Slot("one", (2, 3), "float32", "constant", value=1.0),
}


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "params"),
    [
        ("relu", ["x"], ["wide"], {}),
        ("relu", ["x"], ["double"], {}),
        ("relu", ["x"], [], {}),
        ("relu", ["x"], ["y", "wide"], {}),
        ("relu", ["x", "x"], ["y"], {}),
        ("add", ["x", "given"], ["y"], {}),
        ("relu", ["given"], ["y"], {}),
        ("clip_by_value", ["x"], [], {"limit": 1.0}),
        ("clip_by_value", ["one"], [], {"limit": 1.0}),
    ],
)
def test_instructions_that_do_not_fit_their_slots_are_refused(
    numpy_backend, op, inputs, outputs, params
):
    numbers = {name: i for i, name in enumerate(SLOTS)}
    instruction = Instruction(
        op, tuple(numbers[n] for n in inputs), tuple(numbers[n] for n in outputs), params
    )
    first = Instruction("relu", (0,), (1,))
    layout = Builder(2).layout
    program = Program(tuple(SLOTS.values()), (first, instruction), 2, "float32", layout, {})
    with pytest.raises((ProgramError, ShapeError), match=op):
        numpy_backend.bind(program, State(layout, numpy_backend.device))
