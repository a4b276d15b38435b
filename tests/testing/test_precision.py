"""A precision allows one rounding, of what products multiply; everything else is still a fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnkernels import get_backend
from nnkernels.testing import verify
from nnkernels.testing.precision import bfloat16, oracle_backend, precision_of
from nnkernels.testing.suite import NETWORKS

PRODUCTS = ["matmul", "matmul_backward", "linear", "linear_backward", "linear_activation"]


def oriented(a, b, transpose_a, transpose_b):
    return (a.T if transpose_a else a), (b.T if transpose_b else b)


def rounds_operands(a, b, *, transpose_a, transpose_b):
    a, b = oriented(a, b, transpose_a, transpose_b)
    return bfloat16(a) @ bfloat16(b) if a.dtype == np.float32 else a @ b


def rounds_results(a, b, *, transpose_a, transpose_b):
    product = rounds_operands(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    return bfloat16(product) if a.dtype == np.float32 else product


def cuts_operands(a, b, *, transpose_a, transpose_b):
    a, b = oriented(a, b, transpose_a, transpose_b)
    if a.dtype != np.float32:
        return a @ b
    a, b = ((np.ascontiguousarray(x).view(np.uint32) & 0xFFFF0000).view(np.float32) for x in (a, b))
    return a @ b


def rounds_float64(a, b, *, transpose_a, transpose_b):
    a, b = oriented(a, b, transpose_a, transpose_b)
    return bfloat16(a) @ bfloat16(b)


def failing(precision, matmul, operators=("matmul",)):
    backend = replace(get_backend("numpy"), precision=precision).replace(matmul=matmul)
    return {f.dtype for f in verify(backend, operators=operators, quick=True).failures}


def test_rounded_operands_are_right_where_the_precision_says_so():
    assert failing("bf16", rounds_operands, [*PRODUCTS, NETWORKS]) == set()


@pytest.mark.parametrize(
    ("precision", "matmul", "dtype"),
    [
        ("fp32", rounds_operands, "float32"),
        ("bf16", rounds_results, "float32"),
        ("bf16", cuts_operands, "float32"),
        ("bf16", rounds_float64, "float64"),
    ],
)
def test_every_other_rounding_is_a_fault(precision, matmul, dtype):
    assert failing(precision, matmul) == {dtype}


def test_a_precision_is_that_of_float32():
    backend = replace(get_backend("numpy"), precision="bf16")
    assert [precision_of(backend, d) for d in ("float32", "float64")] == ["bf16", "fp32"]
    assert oracle_backend("fp32").name == "reference"


def test_numbers_become_the_nearest_of_bfloat16_and_of_two_the_even_one():
    ulp = 2.0**-7
    x = [1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.51 * ulp, -1 - ulp / 2, 3.39e38, 3.4e38, -np.inf, np.nan]
    want = [1, 1 + 2 * ulp, 1 + ulp, -1, 255 * 2.0**120, np.inf, -np.inf, np.nan]
    for dtype in (np.float32, np.float64):
        got = bfloat16(np.array(x, dtype))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, np.array(want, dtype))
