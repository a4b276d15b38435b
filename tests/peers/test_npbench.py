"""NPBench's functions, from a checkout of a few lines."""

import json
from pathlib import Path

import pytest

from benchmarks.peers import catalogue, npbench, rounds

EFFORT = rounds.Effort(rounds=1, seconds=0.001, patience=60.0)

MLP = """
import numpy as np

def initialize(C_in, N, S0, S1, S2):
    rng = np.random.default_rng(42)
    sizes = [C_in, S0, S1, S2]
    x = np.random.rand(N, C_in).astype(np.float32)
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [rng.random((a, b), dtype=np.float32), rng.random(b, dtype=np.float32)]
    return (x, *layers)
"""
MLP_NUMPY = """
import numpy as np

def mlp(x, w1, b1, w2, b2, w3, b3):
    x = np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0) @ w3 + b3
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
"""
SOFTMAX = """
import numpy as np

def initialize(N, H, SM):
    return np.random.default_rng(42).random((N, H, SM, SM), dtype=np.float32)
"""
SOFTMAX_NUMPY = """
import numpy as np

def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum(axis=-1, keepdims=True)
"""
PARAMETERS = {
    "mlp": {"C_in": 3, "N": 8, "S0": 30, "S1": 20, "S2": 10},
    "softmax": {"N": 2, "H": 3, "SM": 16},
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "bench_info").mkdir()
    home = tmp_path / "npbench" / "benchmarks" / "deep_learning"
    sources = {"mlp": (MLP, MLP_NUMPY), "softmax": (SOFTMAX, SOFTMAX_NUMPY)}
    for name, (initialiser, function) in sources.items():
        (home / name).mkdir(parents=True)
        (home / name / f"{name}.py").write_text(initialiser)
        (home / name / f"{name}_numpy.py").write_text(function)
        sizes = PARAMETERS[name]
        details = {"init": {"input_args": list(sizes)}, "parameters": {"S": sizes, "M": sizes}}
        path = tmp_path / "bench_info" / f"{name}.json"
        path.write_text(json.dumps({"benchmark": details}))
    return tmp_path


@pytest.mark.parametrize(
    ("workload", "theirs"),
    [("mlp-S", "ok"), ("softmax-M", "ok"), ("softmax-S-spread", "wrong")],
)
def test_both_sides_are_judged_and_timed(checkout: Path, workload: str, theirs: str) -> None:
    npbench.check_checkout(checkout)
    ours = npbench.operators(catalogue.own("numpy"), workload)
    candidates = [ours, *npbench.candidates(checkout, workload)]
    task = npbench.task(checkout, workload)
    rows = rounds.measure(task, [(c, 1) for c in candidates], EFFORT, lambda text: None)
    assert [(row.kind, row.status) for row in rows] == [("ours", "ok"), ("stock", theirs)]
    assert all(row.samples for row in rows)


def test_every_form_of_the_checkout_is_found(checkout: Path) -> None:
    home = checkout / "npbench" / "benchmarks" / "deep_learning" / "softmax"
    for name in ("softmax_numba_n.py", "softmax_numba_np.py", "softmax_dace.py"):
        (home / name).touch()
    titles = [candidate.title for candidate in npbench.candidates(checkout, "softmax-S")]
    assert titles == ["NPBench numpy", "NPBench numba_n", "NPBench numba_np"]


def test_a_form_that_is_not_there_is_listed(checkout: Path) -> None:
    home = checkout / "npbench" / "benchmarks" / "deep_learning" / "mlp"
    (home / "mlp_numpy.py").unlink()
    (found,) = npbench.candidates(checkout, "mlp-S")
    assert found.missing == "the checkout has no mlp_numpy.py"


def test_what_does_not_fit_into_memory_is_told(checkout: Path) -> None:
    assert npbench.too_large(checkout, "softmax-S", 1) is None
    assert "processes need" in npbench.too_large(checkout, "mlp-S", 10**12)
