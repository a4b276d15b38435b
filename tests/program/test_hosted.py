"""Data that stays in host memory: the Interpreter places the rows of a step on the device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnkernels.errors import DTypeError, LabelError
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import Step, predict_program, train_program
from nnkernels.program import Builder, State
from nnkernels.program.hosted import read_in_rows
from nnkernels.testing import opaque_backend

ROWS, BATCHES = 4, 3
COUNT = ROWS * BATCHES
NETWORK = MLP([3, 4, 2], norm="batch", dropout=0.2, dtype="float64", seed=1)
RNG = np.random.default_rng(0)
DATA = {
    "x": RNG.normal(size=(COUNT, 3)),
    "y": RNG.integers(0, 2, COUNT),
    "order": RNG.permutation(COUNT),
}


@pytest.fixture
def backend():
    """A fake device whose Executables also take host arrays."""
    return replace(opaque_backend(), staging=dict)


def step(*, gather):
    return train_program(NETWORK, ROWS, Step(Adam(), labels=True, gather=COUNT if gather else None))


def trained(backend, *hosted, gather):
    """The State after all batches; arrays of these names stay in host memory."""
    program = step(gather=gather)
    state = State(program.layout, backend.device)
    for name, array in {**NETWORK.parameters, **NETWORK.statistics}.items():
        state.set(name, array)
    executable = backend.bind(program, state)
    names = ("x", "y", "order")[: 3 if gather else 2]
    executable.feed(**{n: DATA[n] if n in hosted else backend.asarray(DATA[n]) for n in names})
    assert executable.run(BATCHES) == BATCHES
    return state.snapshot()


@pytest.mark.parametrize(
    "hosted", ["x", "y", "xy", ("x", "order"), ("order",), tuple(DATA)], ids=str
)
def test_batches_by_an_order_are_the_same_wherever_data_lies(backend, hosted):
    resident = trained(backend, gather=True)
    for buffer, values in trained(backend, *hosted, gather=True).items():
        np.testing.assert_array_equal(values, resident[buffer], buffer)


@pytest.mark.parametrize("hosted", ["x", "y", "xy"])
def test_windows_are_the_same_wherever_data_lies(backend, hosted):
    resident = trained(backend, gather=False)
    for buffer, values in trained(backend, *hosted, gather=False).items():
        np.testing.assert_array_equal(values, resident[buffer], buffer)


def test_arrays_may_move_between_two_feeds(backend):
    program = step(gather=True)
    state = State(program.layout, backend.device)
    executable = backend.bind(program, state)
    snapshots = []
    for place in (backend.asarray, np.asarray, backend.asarray):
        state.restore({name: np.zeros_like(b) for name, b in state.snapshot().items()})
        executable.feed(**{name: place(array) for name, array in DATA.items()})
        assert executable.run(1) == 1
        snapshots.append(state.snapshot())
    for other in snapshots[1:]:
        for buffer, values in snapshots[0].items():
            np.testing.assert_array_equal(other[buffer], values, buffer)


def test_what_is_not_finite_is_found_in_host_memory_too(backend):
    program = step(gather=True)
    executable = backend.bind(program, State(program.layout, backend.device))
    x = DATA["x"].copy()
    x[DATA["order"][1]] = np.inf
    executable.feed(**{**DATA, "x": x})
    assert executable.first_bad() == "x"


def test_host_arrays_are_checked_as_others_are(backend):
    program = step(gather=True)
    executable = backend.bind(program, State(program.layout, backend.device))
    with pytest.raises(DTypeError, match="'x' must be float64"):
        executable.feed(**{**DATA, "x": DATA["x"].astype("float32")})
    with pytest.raises(LabelError, match="'y' must lie in"):
        executable.feed(**{**DATA, "y": DATA["y"] + 1})


def test_what_a_step_writes_must_be_on_the_device(backend):
    program = predict_program(NETWORK, ROWS, link=None)
    assert read_in_rows(program) == {"x"}
    executable = backend.bind(program, State(program.layout, backend.device))
    with pytest.raises(DTypeError, match="'prediction' must be an array of device opaque"):
        executable.feed(x=DATA["x"], prediction=np.zeros((COUNT, 2)))


def test_a_backend_without_staging_takes_no_host_arrays():
    backend = opaque_backend()
    program = step(gather=False)
    executable = backend.bind(program, State(program.layout, backend.device))
    with pytest.raises(DTypeError, match="'x' must be an array of device opaque"):
        executable.feed(x=DATA["x"], y=backend.asarray(DATA["y"]))


def test_only_what_is_read_in_rows_may_stay():
    b = Builder(ROWS, "float64")
    data, whole = (b.input(name, (COUNT, 2), window=False) for name in ("data", "whole"))
    numbers = b.input("numbers", (ROWS,), "int64", window=False, interval=(0, COUNT))
    order = b.input("order", (ROWS,), "int64", interval=(0, COUNT))
    both = b.input("both", (COUNT, 2), window=False)
    for source, rows in ((data, order), (whole, numbers), (both, order)):
        b.call("gather_rows", source, rows)
    b.call("add", both, both)
    assert read_in_rows(b.program()) == {"data", "order"}
