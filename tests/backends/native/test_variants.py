"""The kernels of every instruction set that this processor runs, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import nnkernels as nk
from nnkernels.backends.native import library
from nnkernels.catalog import activations
from nnkernels.spec import OPERATORS

VARIANTS = ["avx512", "avx2", "baseline"]
FAMILY = [name for name, op in OPERATORS.items() if op.__module__ == activations.__name__]

VERIFY = """
import sys
from nnkernels.backends.native import library
from nnkernels.testing import verify

verify("native", operators=sys.argv[1:] or None, quick=len(sys.argv) > 1).check()
print(library.Library(library.find()).variant)
"""


def verified(variant: str, *operators: str) -> str:
    """The instruction set of a process in which the conformance suite passes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", VERIFY, *operators],
        env={**os.environ, library.VARIANT_VARIABLE: variant},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("variant", VARIANTS)
def test_activations_conform_on_every_instruction_set(variant, native_on):
    native_on(variant)
    assert len(FAMILY) > 20
    assert verified(variant, *FAMILY) == variant


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_catalogue_conforms_on_every_instruction_set(variant, native_on):
    native_on(variant)
    assert verified(variant) == variant


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_every_code_are_those_of_numpy(variant, dtype, native_on, monkeypatch):
    """Own, packed and BLAS, beyond the blocks that they work in."""
    backend = native_on(variant)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(201, 531)).astype(dtype), rng.normal(size=(531, 301)).astype(dtype)
    exact, size = a.astype(float) @ b, np.abs(a) @ np.abs(b).astype(float)
    for code in ("own", "packed", "blas"):
        monkeypatch.setattr("nnkernels.backends.native.choice.choose", lambda *_, code=code: code)
        for left, turn_a in ((a, False), (np.ascontiguousarray(a.T), True)):
            for right, turn_b in ((b, False), (np.ascontiguousarray(b.T), True)):
                fresh = backend.replace()
                got = nk.ops.matmul.on(fresh, left, right, transpose_a=turn_a, transpose_b=turn_b)
                assert np.all(abs(got - exact) <= 40 * np.finfo(dtype).eps * size), code
