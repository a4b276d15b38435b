"""Steps as one CUDA graph: the same bits as eagerly, and eagerly again where that fails."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy import on
from nnkernels.backends.cupy.layers import LayerWarning
from nnkernels.backends.cupy.steps.graph import capture
from nnkernels.nn import MLP, Adam
from nnkernels.testing import simulated

ROWS, BATCHES = 6, 8
MODEL = MLP([8, 12, 5], loss="softmax_cross_entropy", seed=2)


@pytest.fixture
def trained(bound, step_of, classes):
    """``trained(backend)``: the State after some steps, and the Executable."""

    def trained(backend):
        program = step_of(MODEL, Adam(), ROWS, metrics=("accuracy",), schedule=BATCHES)
        executable, state = bound(backend, program, MODEL)
        state.set("schedule", np.full(BATCHES, 1e-2))
        x, y = classes(BATCHES * ROWS, 8, 5)
        executable.feed(x=backend.asarray(x), y=backend.asarray(y))
        assert executable.run(1) == 1
        assert executable.run(BATCHES - 1) == BATCHES - 1
        return state, executable

    return trained


def backend(layers="plain,cubin,lt,graph"):
    pytest.importorskip("cupy", reason="no NVRTC: install nnkernels[ladder]")
    return on(simulated.cupy(), layers=layers)


def require_equal(state, other):
    for buffer, values in state.snapshot().items():
        np.testing.assert_array_equal(values, other.snapshot()[buffer], err_msg=buffer)


def test_a_graph_gives_the_bits_of_eager_launches(trained):
    whole, eager = backend(), backend("plain,cubin,lt")
    require_equal(trained(whole)[0], trained(eager)[0])
    assert whole.device.gpu.cp.log.graphs >= BATCHES - 2
    assert eager.device.gpu.cp.log.graphs == 0


@pytest.mark.parametrize("failure", ["graph capture", "graph launch"])
def test_what_cannot_be_a_graph_runs_eagerly_with_one_warning(trained, failure):
    whole = backend()
    cp = whole.device.gpu.cp
    cp.plant(failure)
    with pytest.warns(LayerWarning, match="without its layer 'graph'") as caught:
        state, executable = trained(whole)
    assert len(caught) == 1
    cp.heal()
    require_equal(state, trained(backend("plain,cubin,lt"))[0])
    verdict = whole.device.gpu.layers.verdicts()["graph"]
    assert verdict.state == "off"
    assert "cudaError" in verdict.reason
    state.set("row", 0)
    cp.log.reset()
    assert executable.run(2) == 2
    assert cp.log.graphs == 0


def test_an_error_while_capturing_leaves_the_stream_usable():
    gpu = backend().device.gpu
    stream = gpu.cp.cuda.Stream(non_blocking=True)

    def fails():
        raise ZeroDivisionError("in the middle")

    with pytest.warns(LayerWarning, match="ZeroDivisionError: in the middle"):
        assert capture(gpu, stream, [fails]) is None
    assert not stream.is_capturing()


def test_what_waits_for_the_device_cannot_be_captured():
    gpu = backend().device.gpu
    stream = gpu.cp.cuda.Stream(non_blocking=True)
    with pytest.warns(LayerWarning, match="a step was not captured: CUDARuntimeError"):
        assert capture(gpu, stream, [stream.synchronize]) is None
    assert not stream.is_capturing()


def test_a_run_of_one_step_is_not_worth_a_graph(trained, classes):
    whole = backend()
    state, executable = trained(whole)
    x, y = classes(BATCHES * ROWS, 8, 5)
    executable.feed(x=whole.asarray(x), y=whole.asarray(y))
    state.set("row", 0)
    whole.device.gpu.cp.log.reset()
    executable.run(1)
    assert whole.device.gpu.cp.log.graphs == 0


@pytest.mark.parametrize("order", range(4))
def test_nothing_depends_on_how_streams_are_scheduled(trained, order):
    pytest.importorskip("cupy", reason="no NVRTC: install nnkernels[ladder]")
    shuffled = on(simulated.cupy(order=order), layers="plain,cubin,lt,graph")
    require_equal(trained(shuffled)[0], trained(backend())[0])
