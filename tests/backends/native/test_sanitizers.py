"""The conformance suite in a library with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnkernels.backends.native import library

ROOT = Path(__file__).parents[3]
VARIANTS = ["avx512", "avx2", "baseline"]

OVERRUN = """
import ctypes
import numpy as np
from nnkernels import get_backend

relu = get_backend("native").kernels["relu"].function
(step,) = relu.steps([(1000,)], ["float64"], {}, [True])
x, out = np.ones(1000), np.ones(999)
record = np.array(step.fill({"x": x.ctypes.data, "out": out.ctypes.data}))
step.entry.call(record.ctypes.data, 0, 1000)
"""


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=3000,
    )


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that uses such a library."""
    compiler = shutil.which("g++")
    if shutil.which("cmake") is None or compiler is None:
        pytest.skip("no CMake or no g++")
    folder = tmp_path_factory.mktemp("sanitized")
    settings = {
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_CUDA_COMPILER": "NOTFOUND",
        "NNK_SANITIZE": "address;undefined",
    }
    given = [f"-D{name}={value}" for name, value in settings.items()]
    for command in (
        ("cmake", "-S", ROOT, "-B", folder, *given),
        ("cmake", "--build", folder, "--parallel", "2", "--target", "native"),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    names = ("libasan.so", "libstdc++.so")
    found = [run(compiler, f"-print-file-name={name}").stdout.strip() for name in names]
    return {
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        library.PATH_VARIABLE: str(folder / library.NAME),
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_catalogue_conforms(variant, sanitized, native_on):
    native_on(variant)
    done = run(
        *(sys.executable, "-m", "nnkernels", "verify", "native", "--quick"),
        **sanitized,
        **{library.VARIANT_VARIABLE: variant},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_overrun_is_found(sanitized):
    done = run(sys.executable, "-c", OVERRUN, **sanitized)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
