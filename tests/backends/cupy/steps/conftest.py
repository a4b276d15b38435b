"""Steps on outlines of arrays, which need nothing, and on a simulated device, which needs NVRTC."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy import on
from nnkernels.backends.cupy.steps import launches
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import State, specialise
from nnkernels.testing import simulated


@pytest.fixture(scope="session")
def outlined():
    """A backend that is only asked what it would do."""
    return on(simulated.cupy(), layers="plain")


@pytest.fixture
def listed(outlined):
    """``listed(program, epilogues)``: what a step launches, in words."""

    def listed(program, epilogues=True):
        items = launches(specialise(program, outlined), outlined, epilogues=epilogues)
        return [_word(item) for item in items]

    return listed


def _word(item):
    epilogue = getattr(item.what, "epilogue", None)
    name = item.name if epilogue is None else f"{item.name}+{epilogue.kind}"
    for ending in ("_vec", "_warp", "_block"):
        name = name.removesuffix(ending)
    return name


@pytest.fixture
def step_of():
    """``step_of(model, optimizer, rows, **step)``: a training step."""

    def step_of(model, optimizer, rows, **step):
        labels = model.loss.takes_labels
        return train_program(model, rows, Step(optimizer, labels=labels, **step))

    return step_of


@pytest.fixture(scope="module", params=["plain", "plain,cubin,lt,graph"])
def device(request):
    """A backend on a simulated device, by the lowest layer and by all."""
    require_nvrtc()
    return on(simulated.cupy(), layers=request.param)


@pytest.fixture(scope="module")
def full():
    """A backend on a simulated device, by all layers."""
    require_nvrtc()
    return on(simulated.cupy(), layers="plain,cubin,lt,graph")


def require_nvrtc():
    pytest.importorskip("cupy", reason="no NVRTC: install nnkernels[ladder]")


@pytest.fixture
def bound():
    """``bound(backend, program, model)``: an Executable and its State, with the model's arrays."""

    def bound(backend, program, model=None, kind=None):
        state = State(program.layout, backend.device)
        if model is not None:
            for name, array in {**model.parameters, **model.statistics}.items():
                state.set(name, array)
        make = kind or type(backend).bind
        return make(backend, program, state), state

    return bound


@pytest.fixture
def classes():
    """``classes(rows, columns, count)``: features and labels."""

    def classes(rows, columns, count, seed=0):
        draw = np.random.default_rng(seed)
        x = draw.standard_normal((rows, columns)).astype(np.float32)
        return x, (x @ draw.standard_normal((columns, count))).argmax(1)

    return classes
