"""Executables on a simulated device: what a run does, and what it leaves alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nnkernels.backends.cupy.steps import StepExecutable
from nnkernels.errors import (
    BackendError,
    DeviceMemoryError,
    DTypeError,
    LabelError,
    ProgramError,
    ShapeError,
    UnknownNameError,
)
from nnkernels.nn import MLP, SGD, Adam
from nnkernels.nn.lowering import evaluate_program, gradient_program, predict_program
from nnkernels.program import Builder, Interpreter, differentiate
from nnkernels.testing import simulated

ROWS = 6
BATCHES = 4


def classifier(**options):
    return MLP([8, 12, 5], loss="softmax_cross_entropy", seed=2, **options)


def fed(executable, backend, x, y, **more):
    executable.feed(**{n: backend.asarray(a) for n, a in {"x": x, "y": y, **more}.items()})


@pytest.fixture
def trainable(device, bound, step_of, classes):
    """A training step of a classifier on a device, its State, and a few batches."""
    model = classifier()
    program = step_of(model, Adam(), ROWS, metrics=("accuracy",), schedule=BATCHES)
    executable, state = bound(device, program, model)
    state.set("schedule", np.full(BATCHES, 1e-2))
    x, y = classes(BATCHES * ROWS, 8, 5)
    fed(executable, device, x, y)
    return executable, state, x, y


# --- the same as the interpreter -----------------------------------------------------------------

NETWORKS = {
    "plain": ({}, SGD(), {}),
    "shuffled": ({}, Adam(), {"metrics": ("accuracy",), "gather": BATCHES * ROWS}),
    "dropout": ({"dropout": 0.3}, Adam(), {"metrics": ("accuracy",)}),
    "batch norm": ({"norm": "batch"}, SGD(momentum=0.9), {}),
    "layer norm": ({"norm": "layer", "activation": "gelu"}, Adam(), {}),
    "penalty": ({"l2": 1e-2, "activation": "tanh"}, SGD(), {"clip_norm": 0.1}),
    "rows": ({"loss": "mse", "activation": "silu"}, SGD(), {"metrics": ("mae",)}),
    "float64": ({"dtype": "float64", "activation": "elu"}, Adam(), {"clip_value": 0.01}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_change_the_state_as_the_interpreter_does(device, bound, step_of, classes, name):
    options, optimizer, step = NETWORKS[name]
    model = MLP([8, 12, 12, 5], seed=2, **{"loss": "softmax_cross_entropy", **options})
    x, y = classes(BATCHES * ROWS, 8, 5)
    if not model.loss.takes_labels:
        y = np.eye(5, dtype=np.float32)[y]
    arrays = {"x": x.astype(model.dtype), "y": y}
    if "gather" in step:
        arrays["order"] = np.random.default_rng(1).permutation(BATCHES * ROWS)
    program = step_of(model, optimizer, ROWS, schedule=BATCHES, **step)
    after = []
    for kind in (None, Interpreter):
        executable, state = bound(device, program, model, kind)
        state.set("schedule", np.linspace(1e-2, 1e-3, BATCHES))
        state.set("seed", 77)
        executable.feed(**{n: device.asarray(a) for n, a in arrays.items()})
        assert executable.run(BATCHES) == BATCHES
        after.append((state.snapshot(), executable.fetch("loss"), executable.fetch("prediction")))
    assert isinstance(device.bind(program, state), StepExecutable)
    (ours, *outputs), (expected, *others) = after
    for buffer, values in expected.items():
        scale = max(np.abs(values).max(initial=0), 1e-3)
        np.testing.assert_allclose(ours[buffer], values, atol=2e-5 * scale, err_msg=buffer)
    for output, other in zip(outputs, others, strict=True):
        np.testing.assert_allclose(output, other, rtol=2e-5, atol=1e-6)


# --- runs ----------------------------------------------------------------------------------------


def test_steps_are_counted_and_windows_move(trainable):
    executable, state, *_ = trainable
    assert executable.run(1) == 1
    assert executable.run(2) == 2
    assert [state.number(n) for n in ("row", "step", "epoch_step")] == [3 * ROWS, 3, 3]


def test_running_past_the_end_is_refused_after_what_there_is(trainable):
    executable, state, *_ = trainable
    with pytest.raises(ProgramError, match="rows 24 to 30, the data has 24"):
        executable.run(BATCHES + 1)
    assert state.number("step") == BATCHES
    with pytest.raises(ProgramError, match="rows 24 to 30"):
        executable.run(1)
    assert state.number("step") == BATCHES


def test_running_without_data_is_refused(device, bound, step_of):
    executable, _ = bound(device, step_of(classifier(), SGD(), ROWS))
    with pytest.raises(ProgramError, match=r"feed \['x', 'y'\] first"):
        executable.run(1)


def test_stop_is_asked_between_chunks(trainable):
    executable, state, *_ = trainable
    assert executable.run(3, lambda: True) == 0
    answers = iter([False, True])
    assert executable.run(3, lambda: next(answers)) == 1
    assert state.number("step") == 1


def test_a_second_thread_is_refused(trainable):
    executable, *_ = trainable
    errors = []

    def stop():
        second = threading.Thread(target=attempt)
        second.start()
        second.join()
        return True

    def attempt():
        try:
            executable.run(1)
        except ProgramError as error:
            errors.append(str(error))

    executable.run(1, stop)
    assert errors == ["run: this executable is already running in another thread"]
    assert executable.run(1) == 1


def test_nothing_is_allocated_and_nothing_waits_within_a_step(trainable, device):
    executable, state, *_ = trainable
    log = device.device.gpu.cp.log
    executable.run(2)
    state.set("row", 0)
    executable._pace.took(100, 1e-3)
    log.reset()
    assert executable.run(BATCHES) == BATCHES
    assert log.allocations == 0
    assert log.host_reads == 2  # the counters, before and after
    assert log.synchronisations == log.host_reads + 1  # and at the very end
    done = log.launches + log.products + log.matmuls
    if log.graphs:
        assert (log.graphs, done) == (BATCHES, 0)
    else:
        assert done == BATCHES * len(executable.launches)


def test_outputs_can_be_fetched(trainable):
    executable, *_ = trainable
    executable.run(1)
    assert executable.fetch("prediction").shape == (ROWS, 5)
    assert executable.fetch("loss") > 0
    with pytest.raises(UnknownNameError, match="output of the program 'probs'"):
        executable.fetch("probs")


def test_every_launch_is_timed_for_its_instruction(trainable):
    executable, state, *_ = trainable
    profile = executable.profile(2)
    assert state.number("step") == 2
    assert len(profile) == len(executable.launches)
    own = {id(i) for i in executable.program.instructions}
    assert all(id(instruction) in own and seconds > 0 for instruction, seconds in profile)


# --- a loss that is not finite -------------------------------------------------------------------


def without(snapshot, *names):
    return {n: v for n, v in snapshot.items() if n not in names}


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "mse"])
def test_a_step_that_diverges_changes_nothing(device, bound, step_of, classes, loss):
    model = MLP([8, 12, 5], loss=loss, norm="batch")
    program = step_of(model, Adam(), ROWS, schedule=BATCHES)
    executable, state = bound(device, program, model)
    state.set("schedule", np.full(BATCHES, 1e-2))
    x, y = classes(BATCHES * ROWS, 8, 5)
    x[2 * ROWS] = np.inf
    y = y if model.loss.takes_labels else np.eye(5, dtype=np.float32)[y]
    fed(executable, device, x, y)
    assert executable.run(2) == 2
    before = state.snapshot()
    executable._pace.took(100, 1e-3)
    assert executable.run(2) == 0
    after = state.snapshot()
    for buffer, values in without(before, "gradients", "counters").items():
        np.testing.assert_array_equal(after[buffer], values, err_msg=buffer)
    assert [state.number(n) for n in ("row", "step", "diverged")] == [2 * ROWS, 2, 1]
    assert not np.isfinite(executable.fetch("loss"))


def test_the_steps_before_it_are_kept_and_those_behind_it_are_not(trainable, device):
    executable, state, x, y = trainable
    x[ROWS] = np.nan
    fed(executable, device, x, y)
    executable._pace.took(100, 1e-3)
    assert executable.run(BATCHES) == 1
    assert [state.number(n) for n in ("row", "step", "diverged")] == [ROWS, 1, 1]


def test_the_steps_of_a_chunk_before_it_are_counted(trainable, device):
    executable, state, x, y = trainable
    x[3 * ROWS] = np.nan
    fed(executable, device, x, y)
    assert executable.run(1) == 1
    executable._pace.took(100, 1e-3)
    assert executable.run(BATCHES - 1) == 2
    assert [state.number(n) for n in ("row", "step", "diverged")] == [3 * ROWS, 3, 1]


def test_a_run_after_that_is_a_run_like_any_other(trainable, device):
    executable, state, *_ = trainable
    state.set("diverged", 1)
    assert executable.run(2) == 2
    assert [state.number(n) for n in ("step", "diverged")] == [2, 1]


# --- other Programs ------------------------------------------------------------------------------


def test_predictions_are_written_row_by_row(device, bound, classes):
    model = classifier()
    x, _ = classes(4 * ROWS, 8, 5)
    result = device.device.empty((4 * ROWS, 5), "float32")
    executable, state = bound(device, predict_program(model, ROWS, link="softmax"), model)
    executable.feed(x=device.asarray(x), prediction=result)
    assert executable.run(4) == 4
    assert state.number("row") == 4 * ROWS
    expected = model_probabilities(model, x)
    np.testing.assert_allclose(device.to_numpy(result), expected, rtol=1e-5)


def model_probabilities(model, x):
    h = np.maximum(x @ model.parameters["linear0.weight"] + model.parameters["linear0.bias"], 0)
    z = h @ model.parameters["linear2.weight"] + model.parameters["linear2.bias"]
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_evaluation_accumulates(device, bound, classes):
    model = classifier()
    x, y = classes(2 * ROWS, 8, 5)
    program = evaluate_program(model, ROWS, labels=True, metrics=("accuracy",))
    executable, state = bound(device, program, model)
    fed(executable, device, x, y)
    assert executable.run(2) == 2
    probabilities = model_probabilities(model, x)
    assert state.number("metric0") == (probabilities.argmax(1) == y).sum()
    loss = -np.log(probabilities[np.arange(len(y)), y]).sum()
    assert state.number("loss_sum") == pytest.approx(loss, rel=1e-5)


def test_gradients_alone_leave_the_counters(device, bound, classes):
    model = classifier()
    x, y = classes(ROWS, 8, 5)
    executable, state = bound(device, gradient_program(model, ROWS, labels=True), model)
    fed(executable, device, x, y)
    assert executable.run(3) == 3
    assert [state.number(n) for n in ("row", "step")] == [0, 0]
    assert np.abs(state.get("linear0.weight.gradient")).max() > 0


def test_a_guard_without_counters_is_looked_at_after_every_step(device, bound):
    b = Builder(2)
    x = b.input("x", (2, 4), window=False)
    loss = b.call("mse", x, b.constant(0.0, (2, 4)))
    with b.update_phase():
        b.call("accumulate", b.entry("loss_sum"), loss)
    executable, state = bound(device, b.program(guard=loss, loss=loss))
    values = np.ones((2, 4), np.float32)
    executable.feed(x=device.asarray(values))
    assert executable.run(3) == 3
    assert state.number("loss_sum") == 3
    executable.feed(x=device.asarray(values * np.inf))
    assert executable.run(3) == 0
    assert state.number("loss_sum") == 3


def test_without_counters_the_steps_before_it_are_counted_too(device, bound):
    b = Builder(2)
    w = b.parameter("w", (2, 4))
    loss = b.call("mse", w, b.constant(0.0, (2, 4)))
    differentiate(b, loss)
    with b.update_phase():
        rate = b.entry("learning_rate")
        b.call("sgd", b.flat("parameters"), b.flat("gradients"), rate)
    executable, state = bound(device, b.program(guard=loss, loss=loss))
    state.set("w", np.ones((2, 4)))
    state.set("learning_rate", -4e8)  # w grows 1e8 times a step: its square overflows in the fourth
    executable.feed()
    assert executable.run(1) == 1
    executable._pace.took(100, 1e-3)
    assert executable.run(5) == 2
    np.testing.assert_allclose(state.get("w"), 1e24, rtol=1e-5)


def test_a_window_may_be_read_and_written(device, bound):
    b = Builder(2)
    x = b.input("x", (2, 4))
    b.emit("add", (x, x), (x,), {})
    with b.update_phase():
        b.emit("advance", [b.entry("row")], [], {"rows": 2})
    executable, _ = bound(device, b.program(x=x))
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    array = device.asarray(values)
    executable.feed(x=array)
    assert executable.run(2) == 2
    np.testing.assert_array_equal(device.to_numpy(array)[:4], 2 * values[:4])
    np.testing.assert_array_equal(device.to_numpy(array)[4:], values[4:])
    np.testing.assert_array_equal(executable.fetch("x"), 2 * values[2:4])


def test_a_kernel_in_python_is_run_by_the_interpreter(device, step_of, bound):
    def relu(x, *, out):
        out[...] = x

    program = step_of(classifier(), SGD(), ROWS)
    executable, _ = bound(device.replace(relu=relu), program)
    assert isinstance(executable, Interpreter)


# --- feeding -------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(trainable, device):
    executable, _, x, y = trainable
    good = {"x": device.asarray(x), "y": device.asarray(y)}
    with pytest.raises(ProgramError, match="expected"):
        executable.feed(x=good["x"])
    with pytest.raises(ShapeError, match="'x' must have shape"):
        executable.feed(**{**good, "x": good["x"][:, :4]})
    with pytest.raises(DTypeError, match="'x' must be float32"):
        executable.feed(**{**good, "x": device.asarray(x.astype(np.float64))})
    with pytest.raises(LabelError, match=r"'y' must lie in \[0, 5\)"):
        executable.feed(**{**good, "y": device.asarray(y + 1)})
    assert executable.run(1) == 1


def test_other_arrays_take_the_place_of_the_first(trainable, device, bound, classes):
    executable, state, *_ = trainable
    executable.run(2)
    x, y = classes(2 * ROWS, 8, 5, seed=9)
    start = state.snapshot()
    fed(executable, device, x, y)
    state.set("row", 0)
    executable.run(2)
    after = state.snapshot()
    state.restore(start)
    state.set("row", 0)
    again = device.bind(executable.program, state)
    fed(again, device, x, y)
    again.run(2)
    for buffer, values in state.snapshot().items():
        np.testing.assert_array_equal(after[buffer], values, err_msg=buffer)


# --- what goes wrong -----------------------------------------------------------------------------


def test_too_little_memory_is_told_with_the_batch_that_fits(step_of, bound, cp_small):
    model = MLP([64, 256, 10], loss="softmax_cross_entropy")
    with pytest.raises(DeviceMemoryError, match=r"of 4096 rows, which needs \d+\.\d MiB") as caught:
        bound(cp_small, step_of(model, SGD(), 4096), model)
    rows = int(str(caught.value).partition("batches of ")[2].split()[0])
    assert 100 < rows < 4096
    del caught
    executable, _ = bound(cp_small, step_of(model, SGD(), rows - 64), model)
    assert isinstance(executable, StepExecutable)
    with pytest.raises(DeviceMemoryError):
        bound(cp_small, step_of(model, SGD(), rows + 64), model)


@pytest.fixture
def cp_small():
    from nnkernels.backends.cupy import on

    return on(simulated.cupy(memory_bytes=4 << 20), layers="plain")


def test_a_launch_that_fails_is_named(trainable):
    executable, *_ = trainable
    executable._graph = None

    def fails():
        raise RuntimeError("no such luck")

    executable._list.calls[-1] = fails
    with pytest.raises(BackendError, match=r"adam.* \(adam update\): .* no such luck"):
        executable.run(1)


def test_a_lost_device_is_told(trainable, device):
    executable, *_ = trainable
    cp = device.device.gpu.cp
    cp.plant("device lost")
    try:
        with pytest.raises(BackendError, match="unspecified launch failure"):
            executable.run(1)
    finally:
        cp.heal()
