"""Programs in their smallest pieces."""

from __future__ import annotations

import pytest

from nnkernels.backends.cupy.steps.pieces import GUARD, PUT, TAKE, Region, take_apart
from nnkernels.nn import MLP, SGD
from nnkernels.nn.lowering import predict_program
from nnkernels.program import Builder, differentiate, specialise


@pytest.fixture
def pieces_of(outlined):
    return lambda program: take_apart(specialise(program, outlined), outlined)


def ops(found):
    return [piece.op for piece in found.pieces]


def test_layers_are_taken_apart_and_know_where_they_come_from(pieces_of, step_of):
    found = pieces_of(step_of(MLP([4, 3, 2]), SGD(), 8))
    forward = [TAKE, TAKE, "matmul", "bias_add", "relu", "matmul", "bias_add"]
    assert ops(found)[:7] == forward
    assert [p.origin.op for p in found.pieces[2:7]] == ["linear_activation"] * 3 + ["linear"] * 2
    backward = ["matmul", "matmul", "bias_grad", "relu_backward", "matmul", "bias_grad"]
    assert ops(found)[9:15] == backward
    assert ops(found)[15:] == [GUARD, "accumulate", "tick", "sgd", "advance"]


def test_windows_are_taken_first_and_put_back_last(pieces_of):
    found = pieces_of(predict_program(MLP([4, 2]), 8, link="softmax"))
    assert ops(found) == [TAKE, "matmul", "bias_add", "softmax", "advance", PUT]
    slots = found.program.slots
    assert slots[found.pieces[0].inputs[0]].name == "x"
    assert slots[found.pieces[-1].result].name == "prediction"
    assert found.program.outputs["prediction"] == found.pieces[-1].inputs[0]


def test_a_window_is_taken_at_the_row_of_the_device(pieces_of, step_of):
    found = pieces_of(step_of(MLP([4, 2]), SGD(), 8))
    row = next(r for r in found.pieces[-1].writes)
    assert row in found.pieces[0].reads
    assert found.program.slots[found.row].name == "row"


def test_updates_read_the_guard(pieces_of, step_of):
    found = pieces_of(step_of(MLP([4, 2]), SGD(), 8))
    guard = next(p for p in found.pieces if p.op == GUARD)
    update = next(p for p in found.pieces if p.op == "sgd")
    assert set(guard.writes) & set(update.reads)
    assert {r.memory for r in update.writes} == {"parameters"}


def test_copies_of_what_never_changes_are_read_where_they_come_from(pieces_of):
    b = Builder(2)
    x, w = b.input("x", (2, 3)), b.parameter("w", (3, 3))
    y = b.call("matmul", x, w)
    loss = b.call("add", b.call("mse", y, x), b.call("l2_penalty", w))
    differentiate(b, loss)
    found = pieces_of(b.program(loss=loss))
    assert "identity" not in ops(found)
    backward = next(p for p in found.pieces if p.op == "mse_backward")
    assert found.program.slots[backward.inputs[0]].value == 1


def test_a_copy_of_what_changes_stays(pieces_of):
    b = Builder(2)
    w = b.parameter("w", (3,))
    before = b.call("identity", w)
    with b.update_phase():
        b.call("sgd", b.flat("parameters"), b.flat("gradients"), b.entry("learning_rate"))
    found = pieces_of(b.program(before=before))
    assert ops(found) == ["identity", "sgd"]


def test_an_output_that_was_a_copy_is_what_it_copied(pieces_of):
    b = Builder(2)
    x = b.input("x", (2, 3))
    y = b.call("relu", x)
    found = pieces_of(b.program(y=b.call("identity", y)))
    assert ops(found) == [TAKE, "relu"]
    assert found.program.outputs["y"] == found.pieces[1].result


def test_regions_overlap_in_bytes_of_one_memory():
    region = Region("parameters", 64, 128)
    assert region.overlaps(Region("parameters", 0, 65))
    assert not region.overlaps(Region("parameters", 0, 64))
    assert not region.overlaps(Region("parameters", 128, 192))
    assert not region.overlaps(Region("gradients", 64, 128))
