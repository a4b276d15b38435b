"""Processes: cold and damaged caches, many at once, forks, the end of the interpreter."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

DEADLINE_S = 120

RELU = """
import warnings
import numpy as np
import nnkernels as nk
from nnkernels.backends.numba.compiling import linking

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = np.linspace(-2, 2, 1001, dtype=np.float32)
    right = bool((nk.get_backend("numba").relu(x) == np.maximum(x, 0)).all())
compiled = sum(e.seconds > 0 for e in linking._entries.values())
print(right, compiled, len(caught), *(str(w.message).split(":")[0] for w in caught))
"""

TRAIN = """
import numpy as np
import nnkernels as nk
from nnkernels.nn import MLP, Trainer


def train(backend="numba(threads=2)", epochs=2):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 20)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.int64)
    trainer = Trainer(MLP([20, 64, 2], activation="tanh", seed=1), "adam", backend=backend)
    trainer.fit(x, y, epochs=epochs, batch_size=40, progress=False)
    return float(trainer.history["loss"][-1])
"""


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """A cache folder that holds relu."""
    folder = tmp_path_factory.mktemp("cache")
    assert run(RELU, XDG_CACHE_HOME=str(folder)) == "True 1 0"
    return folder


def test_a_second_process_compiles_nothing(warm):
    assert run(RELU, XDG_CACHE_HOME=str(warm)) == "True 0 0"


def test_many_processes_fill_a_cold_cache_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: run(RELU, XDG_CACHE_HOME=str(tmp_path)), range(8)))
    assert {answer.split()[0] for answer in answers} == {"True"}
    assert {answer.split()[2] for answer in answers} == {"0"}
    assert run(RELU, XDG_CACHE_HOME=str(tmp_path)) == "True 0 0"


def flipped(warm: Path, seed: int) -> str:
    """What a process answers after one bit of the cached relu was flipped."""
    (file,) = warm.rglob("activations_relu_*.o")
    damaged = bytearray(file.read_bytes())
    bit = random.Random(seed).randrange(8 * len(damaged))
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    answer = run(RELU, XDG_CACHE_HOME=str(warm))
    assert file.read_bytes() != bytes(damaged), "it was not compiled again"
    return answer


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(s, marks=pytest.mark.slow) for s in range(6, 200))]
)
def test_a_flipped_bit_costs_one_compilation_and_one_warning(warm, seed):
    assert flipped(warm, seed).startswith("True 1 1 ")


def test_a_folder_that_cannot_be_made_degrades_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    answer = run(RELU, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert answer.startswith("True 1 1 compiled kernels are kept in memory")


def test_without_jit_the_results_are_right_and_coverage_says_so():
    script = (
        TRAIN
        + """
backend = nk.get_backend("numba")
print(set(backend.coverage().values()) <= {"fallback", "composed"})
print(np.isclose(train("numba"), train("numpy"), rtol=1e-5))
print(nk.explain("relu", backend)[0].why)
"""
    )
    covered, right, why = run(script, NUMBA_DISABLE_JIT="1").splitlines()
    assert (covered, right) == ("True", "True")
    assert "fallback" in why


def test_without_numba_the_reason_has_the_remedy():
    script = """
import sys
sys.modules["numba"] = None
import nnkernels as nk
print(nk.get_backend("auto").name)
try:
    nk.get_backend("numba")
except nk.errors.BackendUnavailableError as error:
    print(error)
"""
    name, reason = run(script).splitlines()
    assert name in ("native", "numpy")
    assert "Numba is not installed; run: pip install 'nnkernels[numba]'" in reason
