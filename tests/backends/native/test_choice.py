"""Who computes a product: own tiles, packed operands, BLAS; and what happens without a BLAS."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.linalg

from nnkernels import ops
from nnkernels.backends import _blas
from nnkernels.backends.native import choice, kernels

MIB = 1 << 20


def yes() -> bool:
    return True


def chosen(bits: int, m: int, n: int, k: int, itemsize: int = 4) -> str:
    return choice.choose(bits, m, n, k, itemsize, yes)


@pytest.mark.parametrize("bits", choice.OWN_BYTES)
def test_blas_computes_beyond_the_limit_alone(bits):
    k = 1 << 10
    n = choice.OWN_BYTES[bits] // (4 * k)
    assert chosen(bits, 8, n, k) != "blas"
    assert chosen(bits, 8, n + 1, k) == "blas"
    assert chosen(bits, 8, n, k, itemsize=8) == "blas"


@pytest.mark.parametrize(
    ("m", "n", "k", "code"),
    [
        (64, 512, 256, "packed"),  # 512 KiB
        (63, 512, 256, "own"),
        (64, 511, 256, "own"),
        (1, 4096, 2048, "packed"),  # 32 MiB
        (1, 4095, 2048, "own"),
        (5, 1 << 40, 0, "own"),  # nothing to add up
        (0, 0, 0, "own"),
    ],
)
def test_operands_are_packed_where_that_pays(m, n, k, code):
    assert chosen(512, m, n, k) == code


def test_sizes_that_blas_cannot_count_are_ours():
    assert chosen(256, 8, 3 * MIB, 1) == "blas"
    assert chosen(256, 1 << 31, 3 * MIB, 1) == "packed"
    assert chosen(256, 8, 1 << 31, 1) == "packed"


def test_blas_is_asked_for_only_where_it_is_wanted():
    def refuse() -> bool:
        raise AssertionError("SciPy was loaded for a small product")

    assert choice.choose(128, 8, 8, 8, 4, refuse) == "own"


@pytest.fixture
def without_blas(monkeypatch):
    """As if SciPy's module of BLAS could not be imported."""
    for cached in (_blas.gemm_address, _blas.has_gemm):
        cached.cache_clear()
    monkeypatch.delattr(scipy.linalg, "cython_blas", raising=False)
    monkeypatch.setitem(sys.modules, "scipy.linalg.cython_blas", None)
    yield
    for cached in (_blas.gemm_address, _blas.has_gemm):
        cached.cache_clear()


@pytest.mark.parametrize("rows", [3, 70])
def test_without_a_blas_our_own_kernels_compute_everything(rows, native_on, without_blas):
    backend = native_on("baseline")
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(rows, 300)), rng.normal(size=(300, 400))
    assert b.nbytes > choice.OWN_BYTES[128]
    assert not kernels.has_gemm()
    bound = 300 * np.finfo(float).eps * (np.abs(a) @ np.abs(b))
    assert np.all(np.abs(ops.matmul.on(backend, a, b) - a @ b) <= bound)


def test_with_one_it_computes_what_is_large(native_on):
    assert kernels.has_gemm()
    matmul = native_on("baseline").kernels["matmul"].function
    params = {"transpose_a": False, "transpose_b": False}
    for width, code in ((10, "_own"), (400, "_blas")):
        (step,) = matmul.steps([(3, 300), (300, width)], ["float64"] * 2, params, [True])
        assert step.entry.name == f"{code}|float64"
