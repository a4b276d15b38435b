from __future__ import annotations

import sys

import numpy as np

import nnkernels
from nnkernels.backend import Kernel, KernelTable
from nnkernels.nn import MLP
from nnkernels.nn.lowering import Step, train_program
from nnkernels.nn.optimizers import Adam
from nnkernels.program import State


def doubled(x, *, out):
    np.multiply(np.maximum(x, 0), 2, out=out)


def program():
    model = MLP([4, 8, 8, 3], activation=["relu", "tanh"], norm="layer", dropout=0.1)
    return train_program(model, 16, Step(Adam(), ("accuracy",), labels=True, clip_norm=1.0))


def test_an_operator_is_explained_as_it_would_run_here() -> None:
    assert nnkernels.explain("relu")[0].kernel == "nnkernels.backends.numpy.activations:relu"
    with nnkernels.use(nnkernels.get_backend("numpy").replace(relu=doubled)):
        (choice,) = nnkernels.explain("relu")
    assert choice.kernel.endswith(":doubled")
    assert choice.file == __file__
    assert choice.line == doubled.__code__.co_firstlineno
    assert "swapped" in choice.why


def test_what_is_explained_is_what_runs() -> None:
    """A trace of one step shows the files and lines of the explanation, in its order."""
    step, backend = program(), nnkernels.get_backend("numpy").replace(relu=doubled)
    choices = nnkernels.explain(step, backend)
    expected = [(choice.file, choice.line) for choice in choices]
    state = State(step.layout, backend.device)
    state.set("learning_rate", 0.1)
    executable = backend.bind(step, state)
    executable.feed(x=np.ones((16, 4), np.float32), y=np.zeros(16, np.int64))

    seen: list[tuple[str, int]] = []

    def trace(frame, event, argument) -> None:
        place = (frame.f_code.co_filename, frame.f_code.co_firstlineno)
        if event == "call" and place in known:
            seen.append(place)

    known = set(expected)
    sys.setprofile(trace)
    try:
        assert executable.run(1) == 1
    finally:
        sys.setprofile(None)
    # A kernel may call another of its family (linear_backward sums the bias): the explanation's
    # entries stand in the trace in their order.
    trail = iter(seen)
    assert all(place in trail for place in expected)
    assert len(expected) == len(step.instructions)


def test_fused_and_unfused_layers_say_why() -> None:
    kernels = KernelTable(nnkernels.get_backend("numpy").kernels)

    def fused(x, w, b, *, activation, out):
        y, z = out
        result = x @ w + b
        if z is not None:
            z[...] = result
        y[...] = np.maximum(result, 0)

    kernels["linear_activation"] = Kernel(fused, owner="numpy")
    numpy = nnkernels.get_backend("numpy")
    backend = nnkernels.Backend(
        "numpy", numpy.device, kernels, numpy.executor, fallback=numpy.fallback
    )
    step = train_program(MLP([4, 8, 3]), 16, Step(Adam(), labels=True))
    notes = [c.why for c in nnkernels.explain(step, backend) if c.op == "linear_activation"]
    assert notes == ["kernel of numpy; fused: linear + relu"]
    swapped = nnkernels.explain(step, backend.replace(relu=doubled))
    assert not [c for c in swapped if c.op == "linear_activation"]
    assert any("not fused: relu not served by numpy" in c.why for c in swapped)
