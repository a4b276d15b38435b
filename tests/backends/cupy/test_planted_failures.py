"""A layer that fails or disagrees on the device is switched off, and work goes on right."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest

from nnkernels.backends.cupy import layers as layers_module
from nnkernels.backends.cupy.layers import LayerWarning
from nnkernels.backends.cupy.steps import pace
from nnkernels.nn import MLP, Trainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_verdicts_yet(cache, monkeypatch):
    """Compiled kernels stay, what is known of the layers does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv(layers_module.VARIABLE, raising=False)
    shutil.rmtree(cache / "nnkernels" / "layers", ignore_errors=True)


@pytest.fixture(autouse=True)
def long_chunks(monkeypatch):
    """Interpreted steps are slow, and a graph is made for chunks of several steps only."""
    monkeypatch.setattr(pace, "CHUNK_S", 1e3)


@pytest.fixture
def backend(cp):
    from nnkernels.backends.cupy import on

    return on(cp)


DRAW = np.random.default_rng(5)
X = DRAW.standard_normal((100, 8)).astype(np.float32)
LABELS = (X @ DRAW.standard_normal((8, 3))).argmax(1)


def train(backend, dtype="float32"):
    model = MLP([8, 6, 3], activation="relu", loss="softmax_cross_entropy", dtype=dtype, seed=1)
    trainer = Trainer(model, "adam", learning_rate=1e-2, backend=backend)
    return trainer.fit(X, LABELS, epochs=2, batch_size=16, progress=False)["loss"]


REFERENCE = train("numpy", "float64")


def require_right(losses):
    assert np.max(np.abs(losses - REFERENCE) / REFERENCE) < 1e-5


def states(backend):
    return {name: v.state for name, v in backend.device.gpu.layers.verdicts().items()}


def test_without_a_failure_all_layers_are_on(backend):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_right(train(backend))
    assert set(states(backend).values()) == {"on"}


@pytest.mark.parametrize(
    ("failure", "layer"),
    [
        ("cubin loading", "cubin"),
        ("cubin results", "cubin"),
        ("graph capture", "graph"),
        ("graph launch", "graph"),
        ("graph results", "graph"),
    ],
)
def test_a_layer_that_fails_its_check_is_switched_off(cp, backend, failure, layer):
    cp.plant(failure)
    with pytest.warns(LayerWarning, match=f"without its layer '{layer}'") as caught:
        losses = train(backend)
    assert len([w for w in caught if w.category is LayerWarning]) == 1
    require_right(losses)
    found = states(backend)
    assert found.pop(layer) == "off"
    assert set(found.values()) == {"on"}
    assert layer in backend.device.describe()["layers"]


@pytest.mark.parametrize("fault", ["wrong", "statuses"])
def test_cublaslt_that_fails_takes_the_graph_with_it(cp, backend, fault):
    from nnkernels.testing.simulated.lt import Faults

    planted = {"wrong": True} if fault == "wrong" else {"statuses": {"cublasLtMatmul": 14}}
    cp.cublaslt.faults = Faults(**planted)
    with pytest.warns(LayerWarning, match="without its layer 'lt'"):
        losses = train(backend)
    require_right(losses)
    assert states(backend)["lt"] == "off"
    assert not backend.device.gpu.layers.on("graph")


def test_a_graph_that_fails_after_its_check_is_replaced_by_eager_launches(cp, backend):
    assert backend.device.gpu.layers.on("graph")
    cp.plant("graph capture")
    with pytest.warns(LayerWarning, match="without its layer 'graph'"):
        losses = train(backend)
    require_right(losses)


def test_a_device_that_hangs_during_a_check_fails_it(cp, backend, monkeypatch):
    cp.plant("device hangs")
    with pytest.warns(LayerWarning, match="before the device answered"):
        assert not backend.device.gpu.layers.on("cubin")
