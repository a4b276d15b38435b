"""What the tests of several backends share: the compiled ones, and models to train on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from nnkernels import plugins
from nnkernels.backend import Backend
from nnkernels.backends import native as native_backend
from nnkernels.backends._compiled.epochs.executor import EpochExecutable
from nnkernels.backends.native import library
from nnkernels.errors import BackendUnavailableError
from nnkernels.nn import MLP, Trainer
from nnkernels.program import Interpreter


def _loaded(name: str) -> Backend:
    """A backend that may be absent on a developer's machine, but not where CI runs."""
    try:
        return plugins.load(name)
    except BackendUnavailableError as error:
        if os.environ.get("NNKERNELS_REQUIRE_NATIVE") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def numba() -> Backend:
    return plugins.load("numba")


@pytest.fixture(scope="session")
def native() -> Backend:
    return _loaded("native")


@pytest.fixture(scope="session")
def native_on(native: Backend) -> Callable[[str], Backend]:
    """``native_on("avx2")``: the backend with that instruction set's kernels."""
    path = library.find()
    assert path is not None

    def on(variant: str) -> Backend:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(library.VARIANT_VARIABLE, raising=False)
            if not library.Library(path).variants.get(variant):
                pytest.skip(f"this processor does not run {variant}")
            patch.setenv(library.VARIANT_VARIABLE, variant)
            return native_backend._backend(library.Library(path))

    return on


def _pinned(backend: Backend, threads: int, chunk: int = 3) -> Backend:
    """``backend``, whose Programs run as compiled epochs on exactly so many threads."""

    compiled = backend.executor

    def bind(backend: Backend, program: Any, state: Any) -> Any:
        made = compiled(backend, program, state)
        assert isinstance(made, EpochExecutable), "this Program runs in the interpreter"
        made._pace.next = lambda: (threads, chunk)
        return made

    return replace(backend.configure(threads=threads), executor=bind)


@pytest.fixture(scope="session")
def pinned() -> Any:
    return _pinned


def _interpreted(backend: Backend) -> Backend:
    """``backend``, whose Programs run in the interpreter."""
    return replace(backend, executor=Interpreter)


@pytest.fixture(scope="session")
def interpreted() -> Any:
    return _interpreted


@dataclass(frozen=True)
class Case:
    """A model and how it is trained, on random data that its loss allows."""

    layers: Any
    options: dict[str, Any]
    optimizer: Any = "sgd"
    trainer: dict[str, Any] | None = None
    labels: bool = True

    def data(self, rows: int, dtype: str) -> tuple[Any, Any]:
        model = self.model(dtype)
        rng = np.random.default_rng(rows)
        x = rng.normal(size=(rows, model.inputs))
        if self.labels and model.loss.takes_labels:
            return x, rng.integers(0, model.outputs, rows)
        if model.loss.target_interval is None:
            return x, rng.normal(size=(rows, model.outputs))
        shares = rng.random((rows, model.outputs)) + 0.1
        return x, shares / shares.sum(1, keepdims=True)

    def model(self, dtype: str) -> MLP:
        return MLP(self.layers, dtype=dtype, seed=5, **self.options)

    def train(
        self,
        backend: Backend,
        dtype: str = "float64",
        *,
        rows: int = 33,
        batch: int = 16,
        shuffle: bool = True,
        epochs: int = 2,
    ) -> tuple[Trainer, dict[str, Any]]:
        """Train, evaluate, predict and differentiate: the trainer, and all results by name."""
        trainer = Trainer(
            self.model(dtype), self.optimizer, backend=backend, **(self.trainer or {})
        )
        x, y = self.data(rows, dtype)
        trainer.fit(x, y, epochs=epochs, batch_size=batch, shuffle=shuffle, progress=False)
        results = {n: trainer.history[n] for n in ("loss", *trainer.metrics) if epochs}
        results |= {f"evaluated {n}": np.array(v) for n, v in trainer.evaluate(x, y).items()}
        results["outputs"] = trainer.outputs(x)
        if trainer.model.loss.classifies:
            results["probabilities"] = trainer.predict_proba(x)
        loss, gradients = trainer.gradients(x, y)
        results |= {"one loss": np.array(loss), **{f"one {n}": g for n, g in gradients.items()}}
        return trainer, {**trainer.state.snapshot(), **results}


@pytest.fixture(scope="session")
def case() -> type[Case]:
    return Case


def _assert_same_bits(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got.keys() == want.keys()
    different = [n for n, values in want.items() if got[n].tobytes() != values.tobytes()]
    assert not different, f"these differ in bits: {different}"


@pytest.fixture(scope="session")
def assert_same_bits() -> Any:
    return _assert_same_bits
