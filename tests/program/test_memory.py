"""The arena: reuse of memory never changes a result."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels
from nnkernels.program import Builder, Instruction, Program, Slot, State, differentiate, interpreter
from nnkernels.program.format import ARENA, aligned
from nnkernels.program.memory import plan_arena

ROWS, WIDTH = 3, 4
UNARY = ("relu", "tanh", "sigmoid", "softmax", "gelu", "identity", "log_softmax", "step")
STEPS = st.tuples(
    st.sampled_from([*UNARY, "add", "linear", "dropout", "layer_norm"]),
    st.integers(0, 99),
    st.integers(0, 99),
)


def build(steps: list[tuple[str, int, int]], *, backward: bool) -> Program:
    """A random DAG; the numbers choose operands among what exists so far."""
    b = Builder(ROWS, "float64")
    values = [b.input("x", (ROWS, WIDTH)), b.parameter("p", (ROWS, WIDTH))]
    for name, first, second in steps:
        x = values[first % len(values)]
        if name == "add":
            values.append(b.call("add", x, values[second % len(values)]))
        elif name == "linear":
            which = second % 2
            w = b.parameter(f"w{which}", (WIDTH, WIDTH)), b.parameter(f"b{which}", (WIDTH,))
            values.append(b.call("linear", x, *w))
        elif name == "dropout":
            seed = b.entry("seed"), b.entry("step")
            values.append(b.call("dropout", x, *seed, p=0.3, layer=second)[0])
        elif name == "layer_norm":
            w = b.parameter("gamma", (WIDTH,)), b.parameter("beta", (WIDTH,))
            values.append(b.call("layer_norm", x, *w)[0])
        else:
            values.append(b.call(name, x))
    last = b.call("add", values[-1], values[1])
    loss = b.call("mse", last, values[0])
    if backward:
        differentiate(b, loss)
    return b.program(loss=loss, prediction=last)


def arrays(program: Program) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        e.name: rng.normal(size=e.shape) for e in program.layout.entries if e.buffer == "parameters"
    }


def separate(program: Program) -> tuple[dict[int, int], int]:
    """A plan in which no slot shares memory with another."""
    offsets, size = {}, 0
    for number, slot in enumerate(program.slots):
        if slot.buffer == ARENA:
            offsets[number], size = size, size + aligned(max(slot.nbytes, 1))
    return offsets, size


def results(program: Program, backend: nnkernels.Backend) -> dict[str, np.ndarray]:
    state = State(program.layout, backend.device)
    for name, value in arrays(program).items():
        state.set(name, value)
    run = backend.bind(program, state)
    run.feed(x=np.random.default_rng(1).normal(size=(ROWS, WIDTH)))
    run.run(2)
    outputs = {role: run.fetch(role) for role in program.outputs}
    return {**outputs, **state.snapshot()}


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("backend", ["numpy", "reference"])
@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=12), st.booleans())
def test_reusing_memory_changes_nothing(backend, steps, backward):
    program = build(steps, backward=backward)
    chosen = nnkernels.get_backend(backend)
    reused = results(program, chosen)
    with mock.patch.object(interpreter, "plan_arena", separate):
        assert_equal(reused, results(program, chosen))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=12))
def test_an_executable_computes_what_the_references_say(evaluate, numpy_backend, steps):
    program = build(steps, backward=True)
    x = np.random.default_rng(1).normal(size=(ROWS, WIDTH))
    expected = evaluate(program, {"x": x, **arrays(program), "seed": 0, "step": 0})
    got = results(program, numpy_backend)
    np.testing.assert_allclose(got["loss"], expected[program.slots[program.outputs["loss"]].name])
    gradients = {e.name: e for e in program.layout.entries if e.buffer == "gradients"}
    for name, entry in gradients.items():
        flat = got["gradients"][entry.offset // 8 :][: int(np.prod(entry.shape))]
        want = expected.get(name, np.zeros(entry.shape))
        np.testing.assert_allclose(flat.reshape(entry.shape), want, rtol=1e-9, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=12))
def test_slots_that_live_at_once_are_apart(steps):
    program = build(steps, backward=True)
    offsets, size = plan_arena(program)
    spans = {s: (o, o + program.slots[s].nbytes) for s, o in offsets.items()}
    assert all(low >= 0 and high <= size and low % 64 == 0 for low, high in spans.values())
    alive = lifetimes(program)
    for a, (first, last) in alive.items():
        for b, (start, end) in alive.items():
            if a < b and first < end and start < last:
                assert spans[a][1] <= spans[b][0] or spans[b][1] <= spans[a][0]


def lifetimes(program: Program) -> dict[int, tuple[int, int]]:
    """First and last instruction of every arena slot; outputs live to the end."""
    alive: dict[int, tuple[int, int]] = {}
    for position, instruction in enumerate(program.instructions):
        for slot in (*instruction.inputs, *instruction.outputs):
            if slot is not None and program.slots[slot].buffer == ARENA:
                alive[slot] = (alive.get(slot, (position, 0))[0], position)
    end = len(program.instructions)
    alive |= {s: (alive[s][0], end) for s in program.outputs.values() if s in alive}
    return alive


def chain(length: int) -> Program:
    b = Builder(ROWS)
    x = b.call("relu", b.input("x", (ROWS, WIDTH)))
    for _ in range(length):
        x = b.call("tanh", x)
    return b.program(y=x)


def test_a_chain_of_elementwise_operators_runs_in_place():
    assert plan_arena(chain(20)) == (dict.fromkeys(range(1, 22), 0), aligned(ROWS * WIDTH * 4))


def test_an_operand_that_is_still_needed_is_not_overwritten():
    b = Builder(ROWS)
    x = b.call("relu", b.input("x", (ROWS, WIDTH)))
    y = b.call("tanh", x)
    offsets, _ = plan_arena(b.program(y=b.call("add", x, y)))
    assert offsets[x] != offsets[y]


def test_a_matrix_product_never_runs_in_place():
    b = Builder(ROWS)
    x = b.call("relu", b.input("x", (ROWS, ROWS)))
    y = b.call("matmul", x, b.parameter("w", (ROWS, ROWS)))
    offsets, _ = plan_arena(b.program(y=y))
    assert offsets[x] != offsets[y]


def test_an_input_of_another_size_is_not_taken_over():
    b = Builder(ROWS)
    x = b.call("relu", b.input("x", (ROWS, WIDTH)))
    with b.label("loss"):
        loss = b.call("mse", x, b.input("t", (ROWS, WIDTH)))
    offsets, _ = plan_arena(b.program(loss=loss))
    assert offsets[x] != offsets[loss]


def test_a_slot_that_is_written_again_keeps_its_memory(numpy_backend):
    b = Builder(ROWS, "float64")
    x = b.input("x", (ROWS, WIDTH))
    kept = b.call("relu", x)
    first = b.call("tanh", kept)
    other = b.call("tanh", b.call("sigmoid", first))
    b.emit("add", (other, first), (kept,), {})
    program = b.program(kept=kept, other=other)
    got = results(program, numpy_backend)
    with mock.patch.object(interpreter, "plan_arena", separate):
        assert_equal(got, results(program, numpy_backend))


def test_an_output_takes_no_operand_that_is_written_too():
    b = Builder(ROWS)
    grad = b.call("relu", b.input("x", (ROWS, WIDTH)))
    other = b.add(Slot("other", (ROWS, WIDTH), "float32"))
    b.emit("add_backward", (grad,), (other, grad), {})
    offsets, _ = plan_arena(b.program(other=other))
    assert offsets[grad] != offsets[other]


def test_memory_of_dead_slots_is_used_again():
    b = Builder(ROWS)
    x = b.input("x", (ROWS, ROWS))
    w = b.parameter("w", (ROWS, ROWS))
    y = x
    for _ in range(10):
        y = b.call("matmul", y, w)
    assert plan_arena(b.program(y=y))[1] == 2 * aligned(ROWS * ROWS * 4)


def test_empty_slots_have_an_address():
    slots = (Slot("x", (0, 4), "float32", "input"), Slot("y", (0, 4), "float32"))
    program = Program(
        slots, (Instruction("relu", (0,), (1,)),), 1, "float32", Builder(1).layout, {}
    )
    assert plan_arena(program) == ({1: 0}, 64)
