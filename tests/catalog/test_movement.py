import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnkernels as nn
from nnkernels.errors import InputError, LabelError, OutputError, ShapeError

BACKENDS = ("numpy", "reference")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return nn.get_backend(request.param)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gather_rows_copies_features(backend, dtype):
    x = np.random.default_rng(0).standard_normal((10, 4)).astype(dtype)
    rows = np.array([9, 0, 3, 3])
    for view in (x, np.asfortranarray(x), x[::-1].copy()[::-1]):
        got = backend.gather_rows(view, rows)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, x[rows])


def test_gather_rows_writes_into_out_and_takes_no_rows(backend):
    x = np.arange(12.0).reshape(4, 3)
    out = np.empty((6, 3))[::3]
    assert backend.gather_rows(x, np.array([2, 1]), out=out) is out
    np.testing.assert_array_equal(out, x[[2, 1]])
    assert backend.gather_rows(x, np.array([], np.int64)).shape == (0, 3)


@pytest.mark.parametrize("row", [-1, 4])
def test_gather_rows_refuses_rows_that_do_not_exist(row):
    out = np.full((1, 3), 7.0)
    with pytest.raises(LabelError, match="rows"):
        nn.ops.gather_rows(np.ones((4, 3)), np.array([row]), out=out)
    np.testing.assert_array_equal(out, 7)


def test_gather_rows_copies_labels(backend):
    labels = np.array([5, 6, 7])
    np.testing.assert_array_equal(backend.gather_rows(labels, np.array([2, 0])), [7, 5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_hot(backend, dtype):
    got = backend.one_hot(np.array([2, 0, 2]), classes=3, dtype=dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, [[0, 0, 1], [1, 0, 0], [0, 0, 1]])
    out = np.asfortranarray(np.full((3, 4), 9.0, np.float32))
    backend.one_hot(np.array([3, 0, 1]), classes=4, out=out)
    np.testing.assert_array_equal(out, np.eye(4)[[3, 0, 1]])


def test_one_hot_refuses_bad_labels_and_classes():
    with pytest.raises(LabelError, match="labels"):
        nn.ops.one_hot(np.array([3]), classes=3)
    with pytest.raises(InputError, match="classes"):
        nn.ops.one_hot(np.array([0]), classes=0)
    with pytest.raises(InputError, match="required"):
        nn.ops.one_hot(np.array([0]))
    with pytest.raises(OutputError):
        nn.ops.one_hot(np.array([0]), classes=3, out=np.empty((1, 4), np.float32))


@given(st.lists(st.integers(0, 6), max_size=30))
def test_argmax_undoes_one_hot(labels):
    for name in BACKENDS:
        backend = nn.get_backend(name)
        rows = backend.one_hot(np.array(labels, np.int64), classes=7)
        assert backend.argmax(rows).tolist() == labels


def test_argmax_takes_the_first_of_equals_and_the_first_nan(backend):
    nan = np.nan
    x = np.array([[1, 3, 3], [-np.inf] * 3, [5, nan, nan]])
    for view in (x, np.asfortranarray(x)):
        got = backend.argmax(view)
        assert got.dtype == np.int64
        assert got.tolist() == [1, 0, 1]
    with pytest.raises(ShapeError):
        backend.argmax(np.ones((2, 0)))


def test_count_correct_of_labels(backend):
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    got = backend.count_correct(scores, np.array([1, 1, 0]))
    assert (got.dtype, got.shape, got.item()) == (np.int64, (), 2)
    assert backend.count_correct(np.ones((0, 2)), np.array([], np.int64)).item() == 0


def test_count_correct_of_one_hot_rows(backend):
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert backend.count_correct(scores, np.eye(2)[[1, 0, 0]]).item() == 2


def test_count_correct_of_binary_scores(backend):
    scores, targets = np.array([[0.2], [0.5], [0.7], [0.9]]), np.array([[0.0], [0.0], [0.0], [1.0]])
    assert backend.count_correct(scores, targets).item() == 3
    assert backend.count_correct(scores, targets, threshold=0.8).item() == 4


def test_count_correct_refuses_labels_out_of_range():
    with pytest.raises(LabelError, match="targets"):
        nn.ops.count_correct(np.ones((1, 3)), np.array([3]))


@pytest.mark.parametrize(
    ("name", "arguments", "params"),
    [
        ("gather_rows", (np.ones((500, 1000)), np.arange(500)), {}),
        ("one_hot", (np.zeros(50_000, np.int64),), {"classes": 10}),
        ("argmax", (np.ones((50_000, 10)),), {}),
        ("count_correct", (np.ones((50_000, 10)), np.zeros(50_000, np.int64)), {}),
    ],
)
def test_bound_calls_keep_no_memory_and_make_no_large_arrays(name, arguments, params):
    call = nn.bind(name, *arguments, backend="numpy", **params)
    call()
    tracemalloc.start()
    try:
        call()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000
    assert peak < 300_000  # NumPy's own cast buffers hold 8,192 elements; the arrays are larger
