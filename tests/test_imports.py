"""What ``import nnkernels`` loads, and what it must not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "cupy",
    "filelock",
    "joblib",
    "matplotlib",
    "msgspec",
    "numba",
    "pandas",
    "platformdirs",
    "pooch",
    "psutil",
    "pytest",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "threadpoolctl",
    "torch",
    "typer",
)

PROBE = "import sys, json\nimport {module}\njson.dump(sorted(sys.modules), sys.stdout)"


def loaded_by(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE.format(module=module)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return loaded_by("nnkernels")


@pytest.mark.parametrize("heavy", HEAVY)
def test_importing_nnkernels_leaves_heavy_libraries_alone(loaded, heavy):
    assert heavy not in loaded


def test_importing_nnkernels_loads_numpy_and_itself_only(loaded):
    """Everything else comes from the standard library or stands in NumPy's own import."""
    own = {name.partition(".")[0] for name in loaded - loaded_by("numpy")}
    assert own - set(sys.stdlib_module_names) <= {"nnkernels", "numpy"}


def test_importing_nnkernels_loads_no_backend_trainer_or_command_line(loaded):
    later = ("backends.", "nn", "data", "testing", "bench", "reproduce", "cli")
    found = {n for n in loaded for part in later if n.startswith(f"nnkernels.{part}")}
    assert found == set()
