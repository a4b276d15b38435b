"""What the tests of models and training share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnkernels.nn import MLP, Trainer


@pytest.fixture(scope="session")
def classes() -> tuple[Any, Any]:
    """44 points of three overlapping classes, float64."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 44)
    return rng.normal(size=(44, 4)) + y[:, None], y


def _assert_same_state(a: Trainer, b: Trainer) -> None:
    """Every array that training goes on from is equal to the bit."""
    for name, values in a.state.snapshot().items():
        if name not in ("gradients", "schedule"):
            assert values.tobytes() == b.state.snapshot()[name].tobytes(), name


@pytest.fixture(scope="session")
def assert_same_state() -> Any:
    return _assert_same_state


def _rich_model(**options: Any) -> MLP:
    """Dropout and batch normalisation: every kind of state that a resumed run needs."""
    defaults = {"norm": "batch", "dropout": 0.2, "dtype": "float64", "seed": 3}
    return MLP([4, 6, 3], **{**defaults, **options})


@pytest.fixture(scope="session")
def rich_model() -> Any:
    return _rich_model
