"""The fuzzer of ``fuzz.py`` for a short time, and that it finds what it looks for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnkernels.backends.native import library

FUZZ = Path(__file__).with_name("fuzz.py")
VARIANTS = ["avx512", "avx2", "baseline"]

GUARD = """
import ctypes, importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("fuzz", sys.argv[1])
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)
place = sys.argv[2]
guarded = fuzz.Guarded(np.arange(100.0), at_end=place == "end", writable=place != "read")
assert guarded.tobytes() == np.arange(100.0).tobytes()
at = guarded.address + {"end": 800, "begin": -8, "read": 0}[place]
ctypes.c_double.from_address(at).value = 1
"""


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def fuzz(variant: str, seconds: int, seed: int, trace: Path) -> int:
    """How many calls it made without finding anything."""
    options = ("--seconds", seconds, "--seed", seed, "--trace", trace)
    done = run(FUZZ, *options, **{library.VARIANT_VARIABLE: variant})
    assert done.returncode == 0, f"{trace.read_text()}\n{done.stderr[-4000:]}"
    found = re.match(r"(\d+) calls of (\d+) operators", done.stdout)
    assert found is not None
    assert int(found[2]) > 70
    return int(found[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_kernel_leaves_its_arrays(variant, native_on, tmp_path):
    native_on(variant)
    assert fuzz(variant, 5, 0, tmp_path / "trace") > 20


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_kernel_leaves_its_arrays_for_minutes(variant, native_on, tmp_path):
    native_on(variant)
    assert fuzz(variant, 200, np.random.default_rng().integers(1 << 31), tmp_path / "trace") > 500


@pytest.mark.parametrize("place", ["end", "begin", "read"])
def test_a_step_beyond_an_array_ends_the_process(place, native):
    assert run("-c", GUARD, FUZZ, place).returncode == -signal.SIGSEGV
