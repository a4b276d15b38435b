"""Whole epochs in compiled code: what the interpreter computes, bit by bit, on any threads."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from nnkernels import get_backend
from nnkernels.backends._compiled.epochs.executor import EpochExecutable
from nnkernels.errors import DivergedError, InputError, LabelError, ProgramError
from nnkernels.nn import (
    MLP,
    SGD,
    Activation,
    Adam,
    AdamW,
    BatchNorm,
    Dropout,
    LayerNorm,
    Linear,
    RMSprop,
    Trainer,
)
from nnkernels.nn.layers import activation_names
from nnkernels.nn.losses import as_loss, loss_names
from nnkernels.program import Builder, Interpreter, State, differentiate
from nnkernels.testing import networks

LINKS = {
    "nll_loss": "log_softmax",
    "categorical_cross_entropy": "softmax",
    "binary_cross_entropy": "sigmoid",
}
"""What brings a model's outputs into the domain of its loss."""

OPTIMIZERS = {
    "sgd": SGD(0.05),
    "decay": SGD(0.05, weight_decay=0.01),
    "momentum": SGD(0.02, momentum=0.9, weight_decay=0.01),
    "nesterov": SGD(0.02, momentum=0.9, nesterov=True),
    "rmsprop": RMSprop(weight_decay=0.01),
    "adam": Adam(weight_decay=0.01),
    "adamw": AdamW(),
}

EVERYTHING = {"norm": "batch", "dropout": 0.2, "l1": 1e-4, "l2": 1e-3}
THREE = [5, 7, 6, 3]


def row(layers=THREE, *, optimizer="sgd", trainer=None, labels=True, **options):
    """Arguments of a ``case``; ``options`` are the MLP's."""
    return {
        "layers": layers,
        "options": options,
        "optimizer": optimizer,
        "trainer": trainer,
        "labels": labels,
    }


def loss_rows():
    """Every loss, with labels and with rows where it takes both."""
    for name in loss_names():
        for labels in (True, False) if as_loss(name).takes_labels else (False,):
            kind = "labels" if labels else "rows"
            output = LINKS.get(name)
            yield f"loss {name} {kind}", row(loss=name, output_activation=output, labels=labels)


TABLE = {
    **{f"activation {name}": row(activation=name) for name in activation_names()},
    **dict(loss_rows()),
    **{f"optimizer {name}": row(optimizer=value) for name, value in OPTIMIZERS.items()},
    "one output": row([5, 7, 1], loss="binary_cross_entropy_with_logits"),
    "batch norm": row(norm="batch"),
    "layer norm": row(norm="layer"),
    "dropout": row(dropout=0.3),
    "penalties": row(l1=1e-3, l2=1e-2),
    "clip value": row(optimizer="adam", trainer={"clip_value": 0.01}),
    "clip norm": row(optimizer="adam", trainer={"clip_norm": 0.05}),
    "schedule": row(optimizer="momentum", trainer={"schedule": "cosine"}),
    "metrics": row(loss="mse", trainer={"metrics": ("mae", "mse", "accuracy")}),
    "everything": row(
        optimizer="adamw", trainer={"clip_norm": 1.0, "clip_value": 0.5}, **EVERYTHING
    ),
    "no hidden layer": row([5, 3]),
    "norm first": row([5, LayerNorm(), Linear(4), BatchNorm(), Linear(3)]),
    "dropout first": row([5, Dropout(0.2), Linear(3)]),
    "activation first": row([5, Activation("tanh"), Linear(3)]),
    "two activations": row([5, Linear(4), Activation("relu"), Activation("elu"), Linear(3)]),
    "a parameter": row([5, Linear(4), Activation("leaky_relu", {"slope": 0.2}), Linear(3)]),
    "wide": row([40, 130, 70, 33], optimizer="adam", **EVERYTHING),
}
"""All that the trainer can ask for."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TABLE)
def test_every_program_of_a_trainer_runs_as_a_compiled_epoch(
    name, dtype, strict, has_tiles, pinned, interpreted, case, assert_same_bits
):
    """Full batches and a last one of one row; bits as the interpreter's, values as the oracle's."""
    chosen = case(**TABLE[name])
    shuffle = len(name) % 2 == 0
    trainer, got = chosen.train(pinned(strict, 1), dtype, shuffle=shuffle)
    _, want = chosen.train(interpreted(strict), dtype, shuffle=shuffle)
    if has_tiles:
        assert_same_bits(got, want)
    else:
        near(got, want, dtype)
    assert np.isfinite(trainer.history["loss"]).all()
    epochs = 2 if dtype == "float64" else 0
    _, got = chosen.train(pinned(strict, 1), dtype, shuffle=shuffle, epochs=epochs)
    _, want = chosen.train(get_backend("reference"), dtype, shuffle=shuffle, epochs=epochs)
    near(got, want, dtype)


def near(got, want, dtype):
    """Equal within the tolerances of the conformance suite's networks."""
    for name, values in want.items():
        allowed = networks.TOLERANCES[dtype] * np.abs(values).max(initial=networks.FLOOR)
        np.testing.assert_allclose(got[name], values, rtol=0, atol=allowed, err_msg=name)


# --- what an executable refuses ------------------------------------------------------------------


def bound(backend, rows=16, total=48):
    """An executable of a small model with its State and its data."""
    trainer = Trainer(MLP([5, 40, 3], dtype="float64", seed=5), backend=backend)
    program = trainer.step_program(rows, shuffle=False)
    rng = np.random.default_rng(1)
    data = {"x": rng.normal(size=(total, 5)), "y": rng.integers(0, 3, total)}
    return backend.bind(program, trainer.state), trainer.state, data


@pytest.mark.parametrize("row", [33, 48, 1 << 40, -1, -(1 << 40)])
def test_rows_outside_the_data_are_refused_by_every_executor(row, compiled, interpreted):
    for backend in (compiled, interpreted(compiled)):
        executable, state, data = bound(backend)
        executable.feed(**data)
        state.set("row", row)
        before = state.snapshot()
        with pytest.raises(InputError, match=r"rows|shape"):
            executable.run(2)
        assert state.snapshot()["parameters"].tobytes() == before["parameters"].tobytes()


@pytest.mark.parametrize("steps", [4, 5, 1000])
def test_steps_beyond_the_data_run_as_far_as_it_reaches(steps, compiled, has_tiles, interpreted):
    ends = []
    for backend in (compiled, interpreted(compiled)):
        executable, state, data = bound(backend)
        executable.feed(**data)
        with pytest.raises(ProgramError, match="rows 48 to 64, the data has 48"):
            executable.run(steps)
        ends.append({n: state.snapshot()[n].tobytes() for n in ("parameters", "counters")})
    if has_tiles:
        assert ends[0] == ends[1]


@pytest.mark.parametrize("call", ["run", "profile"])
def test_an_executable_wants_its_inputs_first(call, compiled):
    executable, _, data = bound(compiled)
    with pytest.raises(ProgramError, match="feed"):
        getattr(executable, call)(1)
    with pytest.raises(ProgramError, match="expected"):
        executable.feed(x=data["x"])
    with pytest.raises(LabelError, match="must lie in"):
        executable.feed(**{**data, "y": data["y"] + 3})


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "unaligned": unaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": read_only,
}


@pytest.mark.parametrize("name", ["fortran", "strided", "reversed", "unaligned"])
def test_arrays_that_kernels_cannot_take_are_refused_with_the_remedy(name, compiled):
    executable, _, data = bound(compiled)
    with pytest.raises(ProgramError, match=r"'x' must be C-contiguous.*ascontiguousarray"):
        executable.feed(**{**data, "x": LAYOUTS[name](data["x"])})


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_trainer_takes_arrays_of_any_layout(layout, compiled, tmp_path, assert_same_bits):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(48, 5)), rng.integers(0, 3, 48)
    memory = np.memmap(tmp_path / "x", np.float64, "w+", shape=x.shape)
    memory[...] = x
    runs = []
    for features, labels in ((x, y), (layout(x), layout(y)), (memory, layout(y))):
        trainer = Trainer(MLP([5, 40, 3], dtype="float64", seed=5), backend=compiled)
        trainer.fit(features, labels, batch_size=16, shuffle=False, progress=False)
        outputs = trainer.outputs(features)
        loss, _ = trainer.gradients(features, labels)
        evaluated = np.array(trainer.evaluate(features, labels)["loss"])
        values = {"outputs": outputs, "loss": np.array(loss), "evaluated": evaluated}
        runs.append({**trainer.state.snapshot(), **values})
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


# --- divergence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("row", [0, 37, 96])
def test_a_bad_loss_within_an_epoch_ends_it_before_that_step_s_update(
    row, threads, compiled, pinned, interpreted, assert_same_bits
):
    """The step of the bad row leaves everything as the step before it left it."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(97, 5)), rng.normal(size=(97, 3))
    x[row] = 1e200
    ends = []
    for backend in (pinned(compiled, threads, 100), interpreted(compiled)):
        trainer = Trainer(
            MLP([5, 40, 3], loss="mse", dtype="float64", seed=5), "adam", backend=backend
        )
        executable = backend.bind(trainer.step_program(16, shuffle=False), trainer.state)
        executable.feed(x=x, y=y)
        assert executable.run(6) == min(row // 16, 6)
        assert trainer.state.number("diverged") == (row < 96)
        kept = trainer.state.snapshot()
        ends.append({n: kept[n] for n in ("parameters", "moment1", "counters", "scalars")})
    assert_same_bits(*ends)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_diverged_training_names_the_tensor(threads, compiled, pinned):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(97, 5)), rng.normal(size=(97, 3))
    x[50] = 1e200
    trainer = Trainer(
        MLP([5, 40, 3], loss="mse", dtype="float64", seed=5), backend=pinned(compiled, threads, 100)
    )
    with pytest.raises(DivergedError) as caught:
        trainer.fit(x, y, batch_size=16, shuffle=False, progress=False)
    assert (caught.value.epoch, caught.value.step) == (0, 3)
    assert caught.value.tensor.startswith("loss")
    assert trainer.state.number("step") == 3
    assert all(np.isfinite(a).all() for a in trainer.weights().values())


# --- profile -------------------------------------------------------------------------------------


def test_a_profile_times_every_part_and_trains_as_a_run_does(compiled, pinned, assert_same_bits):
    one, state, data = bound(pinned(compiled, 1))
    two, other, _ = bound(compiled)
    one.feed(**data)
    two.feed(**data)
    assert one.run(3) == 3
    parts = two.profile(3)
    assert_same_bits(other.snapshot(), state.snapshot())
    assert sum(seconds for _, seconds in parts) > 0
    assert all(seconds >= 0 for _, seconds in parts)
    assert {i.op for i, _ in parts} == {i.op for i in two.program.instructions}
    assert all(instruction in two.program.instructions for instruction, _ in parts)
    other.set("row", 0)
    again = two.profile(1)
    assert sum(s for _, s in again) < 100 * sum(s for _, s in parts)


# --- memory --------------------------------------------------------------------------------------


def numpy_bytes():
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
    )
    return sum(trace.size for trace in snapshot.traces)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["everything", "layer norm", "optimizer momentum"])
def test_neither_steps_nor_runs_leave_arrays_behind(name, threads, compiled, pinned, case):
    chosen = case(**TABLE[name])
    model = chosen.model("float32")
    trainer = Trainer(
        model, chosen.optimizer, backend=pinned(compiled, threads), **(chosen.trainer or {})
    )
    executable = trainer.backend.bind(trainer.step_program(16, shuffle=False), trainer.state)
    x, y = chosen.data(64, "float32")
    executable.feed(x=x.astype(np.float32), y=y)
    row = trainer.state.view("row")

    def run(times):
        for _ in range(times):
            row[...] = 0
            assert executable.run(4) == 4

    tracemalloc.start()
    try:
        run(12)
        gc.collect()
        before = numpy_bytes()
        run(5)
        tracemalloc.reset_peak()
        current = tracemalloc.get_traced_memory()[0]
        run(50)
        assert tracemalloc.get_traced_memory()[1] - current < 32 * 1024
        assert numpy_bytes() == before
    finally:
        tracemalloc.stop()


# --- Programs that no trainer makes --------------------------------------------------------------


def test_a_tied_weight_is_transposed_after_each_of_its_updates(compiled, has_tiles, interpreted):
    """Used by two layers, it has two copies; both follow the optimizer."""
    builder = Builder(8, "float64")
    x, y = builder.input("x", (8, 6)), builder.input("y", (8, 6))
    w, c = builder.parameter("w", (6, 6)), builder.parameter("c", (6,))
    hidden = builder.call("tanh", builder.call("linear", x, w, c))
    again = builder.call("tanh", builder.call("linear", hidden, w, c))
    loss = builder.call("mse", builder.call("linear", again, w, c), y)
    differentiate(builder, loss)
    with builder.update_phase():
        builder.call(
            "sgd",
            builder.flat("parameters"),
            builder.flat("gradients"),
            builder.entry("learning_rate"),
        )
        builder.call("advance", builder.entry("row"), rows=8)
    program = builder.program(guard=loss, loss=loss)
    rng = np.random.default_rng(2)
    data = {"x": rng.normal(size=(80, 6)), "y": rng.normal(size=(80, 6))}
    ends = []
    for backend in (compiled, interpreted(compiled), get_backend("reference")):
        state = State(program.layout, backend.device)
        state.set("w", np.random.default_rng(3).normal(size=(6, 6)))
        state.set("learning_rate", 0.1)
        executable = backend.bind(program, state)
        executable.feed(**data)
        assert executable.run(10) == 10
        ends.append(state.get("w"))
    assert isinstance(
        compiled.bind(program, State(program.layout, compiled.device)), EpochExecutable
    )
    if has_tiles:
        np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_allclose(ends[0], ends[2], rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_equal_the_interpreter_on_threads(seed, compiled, has_tiles, pinned):
    """The conformance suite's networks, with skip connections, on three threads."""
    network = networks.random_network(seed + 100, "float64")
    got, executable = networks.run_network(network, pinned(compiled, 3), networks.STEPS)
    want, _ = networks.run_network(network, compiled, networks.STEPS, Interpreter)
    assert isinstance(executable, EpochExecutable)
    for name, values in want.items():
        if has_tiles:
            assert got[name].tobytes() == values.tobytes(), name
        else:
            np.testing.assert_allclose(got[name], values, rtol=1e-9, atol=1e-12)
