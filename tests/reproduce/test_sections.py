"""Every published figure on every CPU backend, and faults that must show as misses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnkernels import get_backend
from nnkernels.errors import DatasetError, InputError, UnknownNameError
from nnkernels.reproduce import mnist, reproduce
from nnkernels.reproduce.sections import EXAMPLES

TITLES = [*EXAMPLES, "MNIST network, float64", "MNIST network, float32"]


@pytest.fixture(autouse=True)
def no_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data but what a test names."""
    monkeypatch.delenv("NNKERNELS_MNIST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_every_example_is_reproduced(backend):
    sections = list(reproduce(backend))
    assert [section.title for section in sections] == TITLES
    assert [figure for section in sections for figure in section.misses] == []
    assert sum(len(section.figures) for section in sections) == 30


def test_without_data_the_mnist_network_is_visibly_skipped():
    *_, double, single = reproduce("numpy")
    for section in (double, single):
        assert section.figures == ()
        assert "--mnist DIR" in section.skipped


def test_all_epochs_without_data_are_refused():
    with pytest.raises(InputError, match="--mnist DIR"):
        reproduce("numpy", full=True)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_first_epochs_of_the_mnist_network(mnist_folder, dtype):
    seen = []

    def progress(done: float, total: float, text: str) -> None:
        seen.append((done, total, text))

    options = {"mnist": mnist_folder, "dtypes": [dtype], "progress": progress}
    *_, section = reproduce("numpy(threads=1)", **options)
    assert section.misses == ()
    assert [f.name for f in section.figures][::2] == [
        "untrained, loss",
        "epoch 0, loss",
        "epoch 1, loss",
        "epoch 2, loss",
    ]
    assert {f.accepted for f in section.figures} == (
        {"all digits"} if dtype == "float64" else {"1e-05", "0.05"}
    )
    assert section.skipped == "epochs 20 to 499; --full runs them"
    assert all(0 <= done <= total == 3 for done, total, _ in seen)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_epochs_of_the_mnist_network(mnist_folder, dtype):
    *_, section = reproduce("numpy(threads=1)", mnist=mnist_folder, full=True, dtypes=[dtype])
    assert section.misses == ()
    assert len(section.figures) == 60
    assert section.skipped == ""


def test_a_changed_learning_rate_misses_the_trace(mnist_folder, monkeypatch):
    monkeypatch.setattr(mnist, "SHORT", 1)
    monkeypatch.setattr(mnist, "LEARNING_RATE", 0.0301)
    *_, section = reproduce("numpy(threads=1)", mnist=mnist_folder, dtypes=["float32"])
    assert [figure.ok for figure in section.figures][:2] == [True, True]
    assert not section.figures[2].ok


FAULTS = {
    "matmul": (
        lambda a, b, transpose_a, transpose_b: _product(a, b, transpose_a, transpose_b) + 0.1
    ),
    "relu": lambda x: 1.001 * np.maximum(x, 0),
    "step": lambda x: np.heaviside(-x, 0),
    "sigmoid": lambda x: 1e-3 + 1 / (1 + np.exp(-x)),
    "categorical_cross_entropy": lambda p, t, reduction: np.asarray(-np.log10((p * t).sum(1))[0]),
}


def _product(a, b, transpose_a, transpose_b):
    return (a.T if transpose_a else a) @ (b.T if transpose_b else b)


@pytest.mark.parametrize(
    ("operator", "missed"),
    [
        (
            "matmul",
            {"Matrix product", "Perceptron rule", "Dense layer", "2-3-1 network", "Learning rates"},
        ),
        ("relu", {"Dense layer"}),
        ("step", {"Perceptron step", "Perceptron rule"}),
        ("sigmoid", {"2-3-1 network"}),
        ("categorical_cross_entropy", {"Cross-entropy"}),
    ],
)
def test_a_wrong_kernel_is_a_miss_where_it_is_used(operator, missed):
    broken = get_backend("numpy").replace(**{operator: FAULTS[operator]})
    assert {s.title for s in reproduce(broken) if s.misses} == missed


def test_bad_arguments_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UnknownNameError, match="float64"):
        reproduce("numpy", dtypes=["float46"])
    with pytest.raises(UnknownNameError, match="numpy"):
        reproduce("nunpy")
    with pytest.raises(DatasetError, match="train-images"):
        list(reproduce("numpy", mnist=str(tmp_path)))
