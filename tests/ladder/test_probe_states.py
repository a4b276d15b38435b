"""Rung 0: what the probe says of the real CuPy on drivers that are none.

A stub ``libcuda.so.1``, built by the C compiler here, answers as old, empty and mismatched drivers
do; each state is looked at in a process of its own, for CuPy asks the driver once. No stub can
pass for a driver with a device: CUDA's runtime asks it for private tables.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ladder.needs import require, require_nvrtc

STUB = Path(__file__).parents[1] / "backends" / "cupy" / "stub_driver.c"

PROBE = """
import json
from nnkernels.backends.cupy.probe import probe
print(json.dumps(probe()))
"""

WITHOUT_HEADERS = """
import cuda.pathfinder
cuda.pathfinder.find_nvidia_header_directory = lambda name: None
import cupy
from nnkernels.backends.cupy import probe
try:
    cupy._core.core.compile_with_cache("", prepend_cupy_headers=False)
except Exception as error:
    print(type(error).__name__, error)
try:
    probe._check_headers(cupy, 0)
except probe._Found as found:
    print(found.state.kind)
"""

CUBLAS = """
import cupy
from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
from nnkernels.backends.cupy import probe
try:
    print(bool(load_nvidia_dynamic_lib("cublas")))
except DynamicLibNotFoundError:
    print(False)
try:
    probe._check_cublas(cupy, 0)
    print("none")
except probe._Found as found:
    print(found.state.kind)
"""


@pytest.fixture(scope="module", autouse=True)
def real_cupy():
    require_nvrtc()


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> Path:
    """A folder with the stub driver."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    require(compiler, "C compiler")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    command = [str(compiler), "-shared", "-fPIC", "-o", str(library), str(STUB), "-ldl"]
    subprocess.run(command, check=True)
    return folder


def run(code: str, **environment: str) -> str:
    """What a process prints; it must print nothing else, and warn of nothing."""
    clean = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "CUPY_TF32")}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"STUB_VERSION": "12080"}, "old-driver", "nnkernels[cuda12]"),
        ({"STUB_VERSION": "11080"}, "old-driver", "update the driver to 580"),
        ({"STUB_INIT": "100"}, "no-device", "nvidia-smi"),
        ({"STUB_INIT": "100", "CUDA_VISIBLE_DEVICES": "7"}, "no-device", "VISIBLE_DEVICES='7'"),
        ({"STUB_INIT": "803"}, "driver-mismatch", "reboot"),
        ({"STUB_INIT": "999"}, "driver-error", "cudaErrorUnknown"),
    ],
)
def test_a_driver_that_is_there_and_of_no_use(stub, settings, kind, says):
    found, sentence = json.loads(run(PROBE, LD_LIBRARY_PATH=str(stub), **settings))
    assert found == kind
    assert says in sentence


def test_no_driver_at_all(tmp_path):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    found, sentence = json.loads(run(PROBE, LD_LIBRARY_PATH=str(tmp_path)))
    assert found == "no-driver"
    assert "libcuda.so.1" in sentence


def test_cupy_compiles_nothing_without_headers_and_the_probe_knows():
    refused, kind = run(WITHOUT_HEADERS).splitlines()
    assert refused.startswith("RuntimeError Failed to find CUDA headers")
    assert kind == "no-headers"


def test_the_probe_knows_whether_there_is_cublas():
    there, kind = run(CUBLAS).splitlines()
    assert kind == ("none" if there == "True" else "no-cublas")
