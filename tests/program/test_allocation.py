"""A step allocates no array: what tracemalloc sees of NumPy does not grow, nor peak."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from nnkernels.nn import MLP, SGD, Adam, AdamW, RMSprop
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import State

CLASSES = {"loss": "softmax_cross_entropy"}
CASES = {
    "W1": (
        [784, 64, 32, 10],
        32,
        {"activation": "sigmoid", "loss": "sum_squared_error"},
        SGD(),
        {},
    ),
    "W2": ([784, 128, 128, 10], 64, CLASSES, Adam(), {"metrics": ("accuracy",)}),
    "W3": ([256, 128, 128, 20], 64, CLASSES, SGD(momentum=0.9), {}),
    "W4": ([20, 64, 64, 1], 256, {"activation": "tanh", "loss": "mse"}, Adam(), {}),
    "everything": (
        [20, 64, 64, 10],
        64,
        {**CLASSES, "norm": "batch", "dropout": 0.2, "l2": 1e-4, "l1": 1e-5},
        AdamW(),
        {"metrics": ("accuracy",), "clip_norm": 1.0, "clip_value": 0.5},
    ),
    "layer norm": ([20, 64, 10], 64, {**CLASSES, "norm": "layer"}, RMSprop(), {}),
    "activations": (
        [20, 64, 64, 64, 64, 10],
        64,
        {**CLASSES, "activation": ["gelu", "silu", "elu", "softplus"]},
        SGD(momentum=0.9, nesterov=True),
        {},
    ),
    "mae": ([20, 64, 3], 64, {"loss": "huber"}, SGD(), {"metrics": ("mae", "mse")}),
}
SMALL_CHANGE = 8 * 1024
"""Bytes of Python's own objects (frames, views, numbers) in a step."""


@pytest.fixture(autouse=True)
def small_buffers():
    """Keep NumPy's own casting and broadcasting buffers, which are no arrays, out of the peak."""
    before = np.setbufsize(16)
    yield
    np.setbufsize(before)


def stepper(backend, sizes, rows, options, optimizer, step, *, shuffled, dtype):
    """A function that runs so many steps, over and over on the same rows."""
    network = MLP(sizes, dtype=dtype, **options)
    total = 4 * rows
    labels = network.loss.takes_labels
    what = Step(optimizer, labels=labels, gather=total if shuffled else None, **step)
    program = train_program(network, rows, what)
    state = State(program.layout, backend.device)
    for name, array in {**network.parameters, **network.statistics}.items():
        state.set(name, array)
    state.set("schedule", [1e-4])
    rng = np.random.default_rng(0)
    y = rng.integers(0, sizes[-1], total) if labels else rng.random((total, sizes[-1]))
    data = {"x": rng.random((total, sizes[0])).astype(dtype), "y": y if labels else y.astype(dtype)}
    if shuffled:
        data["order"] = rng.permutation(total)
    run, row = backend.bind(program, state), state.view("row")
    run.feed(**data)

    def steps(count: int) -> None:
        for _ in range(count // 4):
            row[...] = 0
            assert run.run(4) == 4

    return steps


def numpy_bytes() -> int:
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
    )
    return sum(trace.size for trace in snapshot.traces)


@pytest.mark.parametrize(
    ("shuffled", "dtype"), [(False, "float64"), (True, "float32")], ids=["in order", "shuffled"]
)
@pytest.mark.parametrize("case", CASES)
def test_a_step_allocates_no_array(numpy_backend, case, shuffled, dtype):
    steps = stepper(numpy_backend, *CASES[case], shuffled=shuffled, dtype=dtype)
    tracemalloc.start()
    try:
        steps(12)
        gc.collect()
        before = numpy_bytes()
        steps(8)  # Python fills again what the collection emptied
        tracemalloc.reset_peak()
        current = tracemalloc.get_traced_memory()[0]
        steps(20)
        peak = tracemalloc.get_traced_memory()[1]
        assert peak - current < SMALL_CHANGE
        assert numpy_bytes() == before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", ["W1", "W4", "everything"])
def test_nothing_grows_in_a_thousand_steps(numpy_backend, case):
    steps = stepper(numpy_backend, *CASES[case], shuffled=True, dtype="float32")
    tracemalloc.start()
    try:
        steps(12)
        gc.collect()
        before = numpy_bytes()
        steps(988)
        assert numpy_bytes() == before
    finally:
        tracemalloc.stop()
