"""Building Programs, and what the finished Program refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnkernels.errors import InputError, ProgramError, ShapeError, UnknownNameError
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import Builder, Instruction, Slot
from nnkernels.spec import OPERATORS


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_must_be_positive(rows):
    with pytest.raises(InputError, match="rows"):
        Builder(rows)


@pytest.mark.parametrize("dtype", ["float16", "int64", "nonsense", None, complex, ">f4"])
def test_dtypes_that_no_operator_computes_in_are_refused(dtype):
    with pytest.raises(InputError, match="float32 or float64"):
        Builder(1, dtype)


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64")])
def test_a_dtype_has_several_spellings(dtype):
    assert Builder(1, dtype).dtype == "float64"


def test_shapes_follow_from_the_operators():
    b = Builder(5)
    x = b.input("x", (5, 3))
    z = b.call("linear", x, b.parameter("w", (3, 2)), b.parameter("b", (2,)))
    loss, probabilities = b.call("softmax_cross_entropy", z, b.input("y", (5,), "int64"))
    assert [b.slots[s].shape for s in (z, loss, probabilities)] == [(5, 2), (), (5, 2)]


def test_shapes_that_do_not_fit_are_refused_by_operator():
    b = Builder(5)
    x, w = b.input("x", (5, 3)), b.parameter("w", (4, 2))
    with pytest.raises(ShapeError, match="matmul"):
        b.call("matmul", x, w)
    with pytest.raises(ShapeError, match="relu"):
        b.call("relu", b.input("labels", (5,), "int64"))
    with pytest.raises(ShapeError, match="1 inputs"):
        b.call("relu", x, x)


def test_unknown_names_get_the_nearest_match():
    b = Builder(2)
    x = b.input("x", (2, 2))
    with pytest.raises(UnknownNameError, match="relu"):
        b.call("rellu", x)
    with pytest.raises(UnknownNameError, match="slope"):
        b.call("leaky_relu", x, slop=0.1)
    with pytest.raises(UnknownNameError, match="learning_rate"):
        b.entry("learning_rat")


def test_parameters_out_of_range_are_refused():
    b = Builder(2)
    with pytest.raises(InputError, match="p must lie in"):
        b.call("dropout", b.input("x", (2, 2)), b.entry("seed"), b.entry("step"), p=1.5)


def test_a_parameter_declared_again_is_the_same():
    b = Builder(2)
    assert b.parameter("w", (2, 3)) == b.parameter("w", (2, 3))
    assert b.statistic("s", (3,)) == b.statistic("s", (3,))


def test_a_parameter_declared_otherwise_is_refused():
    b = Builder(2)
    b.parameter("w", (2, 3))
    with pytest.raises(ProgramError, match="'w'"):
        b.parameter("w", (3, 2))
    with pytest.raises(ProgramError, match="'w'"):
        b.statistic("w", (2, 3))


def test_names_of_the_state_are_taken():
    b = Builder(2)
    for declare in (b.parameter, b.statistic, b.input):
        with pytest.raises(ProgramError, match="'step'"):
            declare("step", (2,))
    with pytest.raises(ProgramError, match="twice"):
        b.add(replace(Slot("x", (), "float32"), name=b.slots[b.input("x", ())].name))


def test_an_operator_named_like_a_counter_does_not_hide_it():
    b = Builder(2)
    b.call("step", b.input("x", (2, 2)))
    assert b.slots[b.entry("step")].buffer == "counters"


def test_parameters_lie_aligned_in_one_flat_buffer():
    b = Builder(2)
    slots = [b.slots[b.parameter(n, (s,))] for n, s in (("a", 3), ("b", 17), ("c", 1))]
    assert [s.offset for s in slots] == [0, 64, 192]
    assert b.slots[b.flat("parameters")].shape == (64,)
    assert b.slots[b.flat("moment1")].shape == b.slots[b.flat("gradients")].shape == (64,)


def test_every_parameter_has_a_gradient_and_moments_of_its_name():
    layout = train_program(MLP([3, 2]), 4, Step(Adam(), labels=True)).layout
    entries = {e.name: e for e in layout.entries}
    weight = entries["linear0.weight"]
    for suffix, buffer in (("gradient", "gradients"), ("moment1", "moment1")):
        assert replace(weight, name=f"linear0.weight.{suffix}", buffer=buffer) in layout.entries


def test_the_layout_does_not_depend_on_rows_or_metrics():
    network = MLP([3, 2], norm=None)
    one, other = (
        train_program(network, rows, Step(Adam(), metrics, labels=True, schedule=5)).layout
        for rows, metrics in ((4, ()), (7, ("accuracy",)))
    )
    assert one == other


def program():
    return train_program(MLP([3, 2]), 4, Step(labels=True))


def test_reading_before_writing_is_refused():
    good = program()
    with pytest.raises(ProgramError, match="before it is written"):
        replace(good, instructions=good.instructions[1:]).validate()


def test_repeated_names_are_refused():
    good = program()
    slots = (*good.slots[:-1], replace(good.slots[-1], name=good.slots[0].name))
    with pytest.raises(ProgramError, match="unique"):
        replace(good, slots=slots).validate()


@pytest.mark.parametrize("number", [-1, 10_000])
def test_slots_that_do_not_exist_are_refused(number):
    good = program()
    wrong = replace(good.instructions[0], inputs=(number, *good.instructions[0].inputs[1:]))
    with pytest.raises(ProgramError, match=str(number)):
        replace(good, instructions=(wrong, *good.instructions[1:])).validate()


@pytest.mark.parametrize("change", [{"offset": 1 << 20}, {"offset": -64}, {"buffer": "nowhere"}])
def test_addresses_outside_the_state_are_refused(change):
    good = program()
    at = next(i for i, s in enumerate(good.slots) if s.buffer == "parameters")
    slots = (*good.slots[:at], replace(good.slots[at], **change), *good.slots[at + 1 :])
    with pytest.raises(ProgramError, match="buffer"):
        replace(good, slots=slots).validate()


def test_update_instructions_come_last():
    good = program()
    early = replace(good.instructions[0], phase="update")
    with pytest.raises(ProgramError, match="update"):
        replace(good, instructions=(early, *good.instructions[1:])).validate()


def test_whole_inputs_and_constants_are_not_written():
    b = Builder(2)
    whole = b.input("x", (2, 2), window=False)
    b.emit("relu", (whole,), (whole,), {})
    with pytest.raises(ProgramError, match="writes to 'x'"):
        b.program()
    b = Builder(2)
    x = b.input("x", (2, 2))
    b.emit("relu", (x,), (b.constant(1.0, (2, 2)),), {})
    with pytest.raises(ProgramError, match="writes to"):
        b.program()


def test_a_program_is_data():
    """Instructions name catalogue operators and carry all their parameters."""
    for instruction in program().instructions:
        assert isinstance(instruction, Instruction)
        assert set(instruction.params) == set(OPERATORS[instruction.op].params)
