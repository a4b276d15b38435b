"""Rung 5: training runs of the real trainer on a simulated device, which recorded what it did."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
from ladder.needs import require_nvrtc
from ladder.step_traffic import floor, moved

from nnkernels.backends.cupy import on
from nnkernels.backends.cupy.launching import Product
from nnkernels.backends.cupy.steps import launches
from nnkernels.errors import DivergedError
from nnkernels.nn import MLP, SGD, Adam, Trainer
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import Interpreter, State, specialise
from nnkernels.testing import simulated

WIDTHS, BATCH = (64, 48, 32, 12), 40
ROWS, EPOCHS = 4 * BATCH + 10, 6
FULL, SHORT = 4 * EPOCHS, EPOCHS
"""Steps of full batches, and of the last short ones: 30 in all."""

EAGER, GRAPH = "plain,cubin,lt", "plain,cubin,lt,graph"

CURVE = 1e-5
"""Largest relative difference of an epoch's loss from that of the float64 trainer."""

W2 = (784, 512, 512, 10), 128, Adam(), "adam"
W3 = (1024, 4096, 4096, 1000), 512, SGD(momentum=0.9), "momentum"
TRAFFIC = 1.15
"""Bytes of a step, in those of the floor."""


def model(dtype="float32", **options):
    return MLP(list(WIDTHS), activation="relu", loss="softmax_cross_entropy", dtype=dtype, seed=3)


@functools.cache
def data():
    draw = np.random.default_rng(7)
    x = draw.standard_normal((ROWS, WIDTHS[0])).astype(np.float32)
    return x, (x @ draw.standard_normal((WIDTHS[0], WIDTHS[-1]))).argmax(1)


class Run:
    """A training run, and what the device was asked for meanwhile."""

    def __init__(self, layers, order=None):
        require_nvrtc()
        self.cp = simulated.cupy(order=order)
        backend = on(self.cp, layers=layers)
        self.trainer = Trainer(model(), "adam", learning_rate=1e-3, backend=backend)
        self.cp.log.reset()
        self.trainer.fit(*data(), epochs=EPOCHS, batch_size=BATCH, progress=False)
        self.losses = np.asarray(self.trainer.history["loss"])
        self.state = self.trainer.state.snapshot()
        self.entries = list(self.cp.log.entries)

    def steps(self):
        """What was asked for from the first launch of every eager step to its last."""
        found, step = [], None
        for entry in self.entries:
            if entry.captured:
                continue
            if entry.kind == "launch" and entry.name.startswith("gather_step"):
                step = []
            if step is not None:
                step.append(entry)
            if entry.kind == "launch" and entry.name.startswith("adam"):
                found.append(step)
                step = None
        return found


run = functools.cache(Run)


def listed(backend, rows):
    step = Step(Adam(), ("accuracy",), labels=True, gather=ROWS)
    return launches(specialise(train_program(model(), rows, step), backend), backend)


@functools.cache
def reference():
    trainer = Trainer(model("float64"), "adam", learning_rate=1e-3, backend="numpy")
    x, y = data()
    return trainer.fit(x, y, epochs=EPOCHS, batch_size=BATCH, progress=False)


# --- a training run ------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["plain", EAGER, GRAPH])
def test_the_loss_is_that_of_the_float64_trainer(layers):
    expected = np.asarray(reference()["loss"])
    assert np.max(np.abs(run(layers).losses - expected) / expected) <= CURVE
    accuracy = run(layers).trainer.history["accuracy"]
    np.testing.assert_allclose(accuracy, reference()["accuracy"], atol=1e-12)


@pytest.mark.parametrize("layers", ["plain", EAGER])
def test_every_step_is_the_list_and_nothing_else(layers):
    steps = run(layers).steps()
    assert len(steps) == FULL + SHORT
    backend = run(layers).trainer.backend
    lists = [listed(backend, rows) for rows in (BATCH, ROWS % BATCH)]
    kinds = {"plain": "matmul"}.get(layers, "cublaslt")
    expected = {
        tuple(
            (kinds, "") if isinstance(item.what, Product) else ("launch", item.what.kernel)
            for item in items
        )
        for items in lists
    }
    seen = {tuple((e.kind, e.name if e.kind == "launch" else "") for e in step) for step in steps}
    assert seen == expected


def test_nothing_is_allocated_and_nothing_waits_within_a_step():
    kinds = {e.kind for layers in ("plain", EAGER, GRAPH) for s in run(layers).steps() for e in s}
    assert kinds == {"launch", "matmul", "cublaslt"}


def test_a_graph_is_the_list_and_launched_once_a_step():
    graph = run(GRAPH)
    nodes = {e.name for e in graph.entries if e.kind == "graph"}
    assert nodes == {f"{len(listed(graph.trainer.backend, BATCH))} nodes"}
    launched = sum(e.kind == "graph" for e in graph.entries)
    assert launched == FULL - EPOCHS  # the first step on another order runs eagerly
    assert len(graph.steps()) == EPOCHS + SHORT


def test_eager_and_graph_give_the_same_bits():
    require_same_bits(run(EAGER), run(GRAPH))


def test_runs_give_the_same_bits_however_streams_are_scheduled():
    for order in (1, 2):
        require_same_bits(run(GRAPH), run(GRAPH, order))


def require_same_bits(one, other):
    for buffer, values in one.state.items():
        np.testing.assert_array_equal(values, other.state[buffer], err_msg=buffer)
    np.testing.assert_array_equal(one.losses, other.losses)


# --- what a step launches and moves --------------------------------------------------------------


def step_list(widths, rows, optimizer, *, epilogues):
    backend = on(simulated.cupy(), layers="plain")
    step = Step(optimizer, ("accuracy",), labels=True, gather=16 * rows)
    program = train_program(MLP(list(widths), loss="softmax_cross_entropy"), rows, step)
    items = launches(specialise(program, backend), backend, epilogues=epilogues)
    return [item.what for item in items]


def test_w2_is_eleven_launches_with_epilogues():
    widths, rows, optimizer, _ = W2
    found = step_list(widths, rows, optimizer, epilogues=True)
    assert sum(isinstance(what, Product) for what in found) == 8
    assert len(found) == 11


def test_w2_is_fifteen_launches_without_epilogues():
    widths, rows, optimizer, _ = W2
    found = step_list(widths, rows, optimizer, epilogues=False)
    assert sum(isinstance(what, Product) for what in found) == 8
    assert len(found) == 15


@pytest.mark.parametrize("epilogues", [True, False])
@pytest.mark.parametrize("workload", [W2, W3], ids=["W2", "W3"])
def test_a_step_moves_little_more_than_it_must(workload, epilogues):
    widths, rows, optimizer, name = workload
    nbytes = sum(map(moved, step_list(widths, rows, optimizer, epilogues=epilogues)))
    least = floor(widths, rows, name)
    assert least <= nbytes <= TRAFFIC * least


def test_the_bytes_of_kernels_are_those_that_the_interpreter_counts():
    require_nvrtc()
    cp = simulated.cupy(counted=True)
    backend = on(cp, layers="plain")
    network, rows = MLP([256, 128, 64], loss="softmax_cross_entropy"), 64
    step = Step(Adam(), ("accuracy",), labels=True, gather=4 * rows)
    executable, arrays = bound(backend, network, train_program(network, rows, step))
    executable.feed(**arrays(4 * rows, 256, 64, order=True))
    cp.statistics.clear()
    assert executable.run(1) == 1
    counted = {
        kernel: 32 * (seen.loads.sectors + seen.stores.sectors)
        for kernel, seen in cp.statistics.items()
    }
    expected = collections.Counter[str]()
    for item in executable.launches:
        if not isinstance(item.what, Product):
            expected[item.what.kernel] += moved(item.what)
    assert set(counted) == set(expected)
    # A bias, or a learning rate, is asked for by every thread, and comes from a cache then.
    assert 0.97 <= sum(counted.values()) / sum(expected.values()) <= 1.10


# --- what goes wrong, and other networks ---------------------------------------------------------


def bound(backend, network, program, kind=None):
    """An Executable of a network's step, and a function that makes its inputs."""
    state = State(program.layout, backend.device)
    for name, array in {**network.parameters, **network.statistics}.items():
        state.set(name, array)
    state.set("schedule", np.full(program.layout.buffers["schedule"][1], 1e-3))
    state.set("seed", 5)

    def arrays(rows, columns, classes, *, order=False):
        draw = np.random.default_rng(1)
        found = {
            "x": draw.standard_normal((rows, columns)).astype(np.float32),
            "y": draw.integers(0, classes, rows),
        }
        if order:
            found["order"] = draw.permutation(rows)
        return {name: backend.asarray(array) for name, array in found.items()}

    make = kind or type(backend).bind
    return make(backend, program, state), arrays


@pytest.mark.parametrize("layers", ["plain", GRAPH])
def test_a_step_that_diverges_changes_nothing(layers):
    require_nvrtc()
    x, y = data()
    large = x.copy()
    large[2 * BATCH] = 3e38
    settings = {"epochs": 1, "batch_size": BATCH, "shuffle": False, "progress": False}
    diverged, good = (
        Trainer(model(), "adam", learning_rate=1e-3, backend=on(simulated.cupy(), layers=layers))
        for _ in range(2)
    )
    with pytest.raises(DivergedError, match=r"epoch 0, step 2: 'activation1\.relu' is not finite"):
        diverged.fit(large, y, **settings)
    good.fit(x[: 2 * BATCH], y[: 2 * BATCH], **settings)
    for buffer, values in good.state.snapshot().items():
        if buffer not in ("gradients", "schedule"):
            np.testing.assert_array_equal(diverged.state.snapshot()[buffer], values, err_msg=buffer)


NETWORKS = {
    "dropout": {"dropout": 0.3},
    "batch norm": {"norm": "batch"},
    "both": {"norm": "batch", "dropout": 0.3},
}


@pytest.mark.parametrize("layers", ["plain", GRAPH])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_are_trained_as_by_the_interpreter(layers, name):
    require_nvrtc()
    backend = on(simulated.cupy(), layers=layers)
    network = MLP(list(WIDTHS), loss="softmax_cross_entropy", seed=3, **NETWORKS[name])
    # Adam would divide the noise in the gradient of a bias before a normalisation by itself.
    step = Step(SGD(momentum=0.9), ("accuracy",), labels=True, gather=ROWS, schedule=4)
    program = train_program(network, BATCH, step)
    states = []
    for kind in (None, Interpreter):
        executable, arrays = bound(backend, network, program, kind)
        executable.feed(**arrays(ROWS, WIDTHS[0], WIDTHS[-1], order=True))
        assert executable.run(4) == 4
        states.append(executable.state.snapshot())
    ours, expected = states
    for buffer, values in expected.items():
        scale = np.abs(values).max(initial=0)
        np.testing.assert_allclose(ours[buffer], values, rtol=0, atol=1e-5 * scale, err_msg=buffer)
