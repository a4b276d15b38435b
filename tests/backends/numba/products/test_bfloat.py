"""Products in bfloat16: rounded as IEEE 754 rounds, added up in float32, asked for by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numba import njit

import nnkernels.backends.numba
import nnkernels.data
from nnkernels import get_backend
from nnkernels.backends.numba.products import bfloat, microkernel
from nnkernels.backends.numba.products.microkernel import has_pairs
from nnkernels.errors import InputError
from nnkernels.nn import MLP, Trainer
from nnkernels.testing import verify
from nnkernels.testing.suite import NETWORKS

needs_pairs = pytest.mark.skipif(not has_pairs(), reason="this CPU has no AVX512_BF16")


def rounded(x):
    """float32 rounded to bfloat16, to nearest and ties to even; subnormal numbers are zero."""
    bits = x.view(np.uint32).astype(np.uint64)
    bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16
    result = bits.astype(np.uint32).view(np.float32)
    return np.where(np.abs(result) < np.finfo(np.float32).tiny, np.copysign(0, x), result)


@pytest.fixture(scope="module")
def half():
    return get_backend("numba", precision="bf16")


@needs_pairs
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (5, 7, 9), (130, 70, 301), (40, 1, 77), (6, 300, 513)]
)
def test_products_are_those_of_the_rounded_operands(half, shape, transpose_a, transpose_b):
    m, n, k = shape
    rng = np.random.default_rng(m + n)
    a = rng.standard_normal((k, m) if transpose_a else (m, k)).astype(np.float32)
    b = rng.standard_normal((n, k) if transpose_b else (k, n)).astype(np.float32)
    got = half.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    left, right = (rounded(x).astype(np.float64) for x in (a, b))
    left, right = left.T if transpose_a else left, right.T if transpose_b else right
    bound = 4 * np.finfo(np.float32).eps * np.sqrt(k) * (np.abs(left) @ np.abs(right))
    assert (np.abs(got - left @ right) <= bound).all()


@njit
def _bits(x, single, low, high):
    for i in range(x.size):
        single[i] = bfloat.rounded(x[i])
        low[i] = bfloat.paired(x[i], np.float32(0))
        high[i] = bfloat.paired(np.float32(0), x[i])


def test_numbers_are_rounded_to_nearest_bit_by_bit():
    """All exponents, ties, subnormal numbers, infinities and NaN, on any processor."""
    upper = np.arange(0, 1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = (upper[:, None] | lower).ravel()
    x = bits.view(np.float32)
    single, low, high = np.zeros(x.size, np.uint16), *np.zeros((2, x.size), np.uint32)
    _bits(x, single, low, high)
    nearest = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
    want = np.where(np.isnan(x), (bits >> 16) | 0x40, nearest).astype(np.uint32)
    np.testing.assert_array_equal(single, want)
    np.testing.assert_array_equal(low, want)
    np.testing.assert_array_equal(high, want << 16)


@needs_pairs
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_the_same_bits_however_rows_are_divided(half, transpose_a, transpose_b):
    m, n, k = 205, 1100, 523
    rng = np.random.default_rng(3)
    a = rng.standard_normal((m, k)).astype(np.float32)
    b = rng.standard_normal((n, k) if transpose_b else (k, n)).astype(np.float32)

    def product(rows):
        left = np.ascontiguousarray(rows.T) if transpose_a else rows
        return half.matmul(left, b, transpose_a=transpose_a, transpose_b=transpose_b)

    whole = product(a)
    for cuts in ([1], [96, 100], [7, 8, 203]):
        parts = [product(part) for part in np.split(a, cuts)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@needs_pairs
def test_every_kind_of_number_is_rounded_to_nearest(half):
    """A product with 1: all exponents, ties, both signs, infinities; NaN stays NaN."""
    upper = np.arange(0, 1 << 16, 7, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (upper[:, None] | lower).ravel().view(np.float32)
    got = half.matmul(x[:, None].copy(), np.ones((1, 1), np.float32))[:, 0]
    np.testing.assert_array_equal(got, np.where(np.isnan(x), np.nan, rounded(x)))


@needs_pairs
def test_float64_and_empty_sums_stay_as_they_are(half):
    a, b = np.random.default_rng(0).standard_normal((2, 9, 9))
    np.testing.assert_array_equal(half.matmul(a, b), get_backend("numba").matmul(a, b))
    empty = np.zeros((3, 0), np.float32)
    assert (half.matmul(empty, empty.T) == 0).all()


@needs_pairs
@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_bits_for_any_number_of_threads(half, pinned, threads):
    data = nnkernels.data.load("glyphs", train=198, test=10)
    weights = []
    for count in (1, threads):
        model = MLP([784, 70, 10], activation="relu", seed=1)
        trainer = Trainer(model, "adam", backend=pinned(half, count))
        trainer.fit(data.x_train, data.y_train, epochs=1, batch_size=99, progress=False)
        weights.append(trainer.weights())
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


@needs_pairs
def test_training_learns_as_well():
    data = nnkernels.data.load("glyphs", train=2000, test=500)
    accuracies = []
    for precision in ("fp32", "bf16"):
        backend = get_backend("numba", precision=precision)
        model = MLP([784, 64, 10], activation="relu", seed=1)
        trainer = Trainer(model, "adam", learning_rate=3e-3, backend=backend)
        trainer.fit(data.x_train, data.y_train, epochs=3, batch_size=50, progress=False)
        accuracies.append(trainer.evaluate(data.x_test, data.y_test)["accuracy"])
    assert min(accuracies) > 0.85
    assert abs(accuracies[0] - accuracies[1]) < 0.03


@needs_pairs
def test_the_name_records_it_and_a_swap_is_kept(half):
    assert half.name == "numba(precision=bf16)"
    swapped = get_backend("numba[matmul=numpy]").configure(precision="bf16")
    x = np.full((1, 1), 1 + 2.0**-12, np.float32)
    assert swapped.matmul(x, x)[0, 0] == x[0, 0] * x[0, 0]
    assert half.matmul(x, x)[0, 0] == 1


@needs_pairs
def test_its_products_keep_the_bounds_of_their_format():
    products = ["matmul", "matmul_backward", "linear", "linear_backward", "linear_activation"]
    names = [*products, "relu", NETWORKS]
    verify("numba(precision=bf16)", operators=names, quick=True).check()


@needs_pairs
def test_errors_of_that_size_fail_where_nothing_was_said(half):
    claimed = replace(half, precision="fp32")
    report = verify(claimed, operators=["matmul"], quick=True)
    assert {failure.dtype for failure in report.failures} == {"float32"}


def test_a_processor_without_it_says_so(monkeypatch):
    monkeypatch.setattr(microkernel, "has_pairs", lambda: False)
    without = nnkernels.backends.numba.load()
    assert without.precisions == ("fp32",)
    with pytest.raises(InputError, match=r"computes in fp32, not 'bf16'.*no AVX512_BF16"):
        without.configure(precision="bf16")
