"""The State: named views of flat buffers."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.errors import ProgramError, ShapeError, UnknownNameError
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import Slot, State


@pytest.fixture
def state(numpy_backend) -> State:
    program = train_program(MLP([3, 2], norm=None), 4, Step(Adam(), labels=True, schedule=2))
    return State(program.layout, numpy_backend.device)


def test_it_is_zero_at_first(state):
    assert not any(values.any() for values in state.snapshot().values())


def test_views_share_the_flat_buffer(state):
    state.view("linear0.weight")[1, 1] = 5
    assert 5 in state.buffers["parameters"]
    assert state.view("linear0.weight").ctypes.data % 64 == 0


def test_get_copies_and_set_converts(state):
    state.set("linear0.bias", [1, 2])
    copy = state.get("linear0.bias")
    copy[0] = 9
    np.testing.assert_array_equal(state.get("linear0.bias"), np.array([1, 2], "float32"))


def test_numbers(state):
    state.set("learning_rate", 0.5)
    state.set("seed", 2**62 + 1)
    assert (state.number("learning_rate"), state.number("seed")) == (0.5, 2**62 + 1)


def test_a_snapshot_restores_everything(state):
    state.set("linear0.weight", np.ones((3, 2)))
    kept = state.snapshot()
    for buffer in state.buffers.values():
        buffer[...] = 3
    state.restore(kept)
    for name, values in state.snapshot().items():
        np.testing.assert_array_equal(values, kept[name])


def test_names_by_buffer(state):
    assert state.names("parameters") == ["linear0.weight", "linear0.bias"]
    assert "linear0.weight.moment2" in state.names()


def test_wrong_names_and_shapes_are_refused(state):
    with pytest.raises(UnknownNameError, match=r"linear0\.weight"):
        state.view("linear0.weigth")
    with pytest.raises(ShapeError, match=r"linear0\.bias"):
        state.set("linear0.bias", np.zeros(3))
    with pytest.raises(ProgramError, match="buffer"):
        state.slot(Slot("x", (2,), "float32", "moment9"))
