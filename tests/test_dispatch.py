"""Public calls: choosing a backend, checking arguments, writing results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest

import nnkernels
from nnkernels import Backend, Kernel, ops
from nnkernels.backend import reference_kernel
from nnkernels.backends._host import HOST
from nnkernels.dispatch import choice, plan
from nnkernels.errors import (
    BackendError,
    DeviceMismatchError,
    DTypeError,
    InputError,
    KernelMissingError,
    LabelError,
    NnkernelsError,
    OutputError,
    ShapeError,
    UnknownNameError,
)
from nnkernels.program import Interpreter
from nnkernels.spec import OPERATORS, get_op
from nnkernels.testing import opaque_backend
from nnkernels.testing.layouts import HOST_ONLY, VIEWS, spread, spread_index
from nnkernels.testing.samples import samples

F32, F64 = np.dtype("float32"), np.dtype("float64")
BACKENDS = ("numpy", "reference")
X = np.array([[-1.0, 2.0, -3.0], [4.0, -5.0, 6.0]])


@functools.cache
def sample(name: str, dtype: np.dtype = F32):
    """Inputs of an operator, several rows and columns."""
    return next(iter(samples(get_op(name), dtype, plans="small")))


def inputs_of(name: str, dtype: np.dtype = F32) -> list[np.ndarray]:
    return [np.array(a) for a in sample(name, dtype).inputs]


def new_outs(name: str) -> tuple[np.ndarray, ...]:
    return tuple(np.full(s, 1, d) for s, d in sample(name).result_specs())


def fingerprint(*arrays) -> list[str]:
    return [hashlib.sha256(np.asarray(a).tobytes()).hexdigest() for a in arrays]


def as_tuple(results) -> tuple:
    return results if isinstance(results, tuple) else (results,)


def refuse(name: str, inputs: list, kinds=NnkernelsError, params=None, outs=None) -> str:
    """The call fails with a documented error on every backend and modifies nothing."""
    params = dict(sample(name).params) if params is None else params
    outs = new_outs(name) if outs is None else outs
    if outs:
        params["out"] = outs[0] if len(outs) == 1 else outs
    arrays = [a for a in (*inputs, *outs) if isinstance(a, np.ndarray) and a.dtype != object]
    before = fingerprint(*arrays)
    for backend in BACKENDS:
        with pytest.raises(kinds) as caught:
            get_op(name).on(nnkernels.get_backend(backend), *inputs, **params)
        assert isinstance(caught.value, (ValueError, TypeError))
        assert str(caught.value).startswith(name)
    assert fingerprint(*arrays) == before
    return str(caught.value)


# --- arrays that are none, of the wrong type or of the wrong shape -----------------------------


class Exploding:
    """Looks like an array, and fails like a tensor that requires a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach() first")


class Frame:
    """What of a DataFrame is seen here."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._values, dtype)


UNUSABLE = {
    "ragged": lambda a: [[1.0, 2.0], [3.0]],
    "object": lambda a: a.astype(object),
    "missing": lambda a: Frame(np.full(a.shape, None)),
    "str": lambda a: a.astype("U8"),
    "bytes": lambda a: a.astype("S8"),
    "datetime": lambda a: np.zeros(a.shape, "datetime64[s]"),
    "timedelta": lambda a: np.zeros(a.shape, "timedelta64[s]"),
    "structured": lambda a: np.zeros(a.shape, [("x", "f4"), ("y", "f4")]),
    "complex": lambda a: a.astype(complex),
    "longdouble": lambda a: a.astype(np.longdouble),
    "float16": lambda a: a.astype(np.float16),
    "exploding": lambda a: Exploding(),
    "none": lambda a: None,
    "a text": lambda a: "1.0",
    "a dict": lambda a: {"x": 1.0},
    "a set": lambda a: {1.0},
    "a generator": lambda a: (x for x in [1.0, 2.0]),
    "a function": lambda a: np.sum,
    "masked": lambda a: np.ma.array(a, mask=np.ones(a.shape, bool)),
}

FLOATS_ONLY = {
    "integers": lambda a: np.ones(a.shape, np.int64),
    "booleans": lambda a: np.ones(a.shape, bool),
}

INTEGERS_ONLY = {
    "fractions": lambda a: np.full(a.shape, 0.5),
    "whole floats": lambda a: np.zeros(a.shape),
    "booleans": lambda a: np.zeros(a.shape, bool),
}


@contextlib.contextmanager
def noting(text: str):
    """Say in which turn of a loop a test failed."""
    try:
        yield
    except BaseException as error:
        error.add_note(text)
        raise


NUMBERS_ONLY = {"float16", "longdouble"}
"""What scalars and counters may be: they are read, not computed with."""


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_unusable_arrays_are_refused(name):
    for fault, position in itertools.product(UNUSABLE, range(len(get_op(name).inputs))):
        kind = sample(name).signature.inputs[position].kind
        if fault in NUMBERS_ONLY and kind in ("scalar", "counter"):
            continue
        inputs = inputs_of(name)
        inputs[position] = UNUSABLE[fault](inputs[position])
        with noting(f"{fault} as {get_op(name).inputs[position]}"):
            assert get_op(name).inputs[position] in refuse(name, inputs)


def alone(name: str) -> bool:
    """Whether a single array of any shape is all that the operator takes."""
    signature = sample(name).signature
    return len(signature.inputs) == 1 and signature.inputs[0].variadic


@pytest.mark.parametrize("name", sorted(n for n in OPERATORS if not alone(n)))
def test_four_dimensions_too_many_are_refused(name):
    for position, array in enumerate(inputs_of(name)):
        inputs = inputs_of(name)
        inputs[position] = np.ones((*array.shape, 2, 2, 2, 2), array.dtype)
        with noting(f"as {get_op(name).inputs[position]}"):
            refuse(name, inputs, (ShapeError, InputError))


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_arrays_of_another_kind_are_refused(name):
    for position, argument in enumerate(sample(name).signature.inputs):
        faults = {"float": FLOATS_ONLY, "int": INTEGERS_ONLY}.get(argument.kind, {})
        for fault in faults.values():
            if len(get_op(name).signatures(sample(name).params)) > 1 and argument.kind == "int":
                continue  # floating rows are the other alternative
            inputs = inputs_of(name)
            inputs[position] = fault(inputs[position])
            assert get_op(name).inputs[position] in refuse(name, inputs, DTypeError)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_precisions_are_not_mixed(name):
    floats = [i for i, a in enumerate(sample(name).signature.inputs) if a.kind == "float"]
    for position in floats if len(floats) > 1 else []:
        inputs = inputs_of(name)
        inputs[position] = inputs[position].astype(F64)
        message = refuse(name, inputs, DTypeError)
        assert "float32" in message and "float64" in message and "astype" in message


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_a_row_too_many_is_refused(name):
    """Every argument that shares a dimension with another one."""
    for position, array in enumerate(inputs_of(name)):
        signature = sample(name).signature
        others = [a for i, a in enumerate(signature.inputs) if i != position]
        label = signature.inputs[position].dims[:1]
        if not array.ndim or not any(label[0].rstrip("+") in _labels(a) for a in others):
            continue
        inputs = inputs_of(name)
        inputs[position] = np.concatenate([array, array[:1]])
        refuse(name, inputs, (ShapeError, LabelError))


def _labels(argument) -> set[str]:
    return {d.rstrip("+") for d in argument.dims}


def required(name: str) -> set[str]:
    """Labels of which at least one element is asked for."""
    dims = [d for a in sample(name).signature.inputs for d in a.dims]
    return {d[:-1] for d in dims if d.endswith("+")}


def emptied(array: np.ndarray, dims: tuple[str, ...], label: str) -> np.ndarray:
    """The array without any element along the dimensions called ``label``."""
    labels = [d.rstrip("+") for d in dims if d != "..."]
    return array[(Ellipsis, *(slice(0 if d == label else None) for d in labels))]


@pytest.mark.parametrize("name", sorted(n for n in OPERATORS if required(n)))
def test_no_element_where_one_is_needed_is_refused(name):
    for label in required(name):
        pairs = zip(inputs_of(name), sample(name).signature.inputs, strict=True)
        inputs = [emptied(array, argument.dims, label) for array, argument in pairs]
        with noting(f"along {label}"):
            message = refuse(name, inputs, ShapeError, outs=())
            assert f"at least one element along {label}" in message


def test_messages_say_what_was_expected_what_came_and_what_to_do():
    a, b = np.ones((2, 3), "f4"), np.ones((4, 5), "f4")
    with pytest.raises(ShapeError) as caught:
        ops.matmul(a, b)
    assert all(p in str(caught.value) for p in ("matmul", "b has shape (4, 5)", "k = 3", "(k,n)"))
    with pytest.raises(DTypeError) as caught:
        ops.matmul(a, b.astype("f8"))
    assert "b.astype('float32')" in str(caught.value)
    with pytest.raises(DTypeError, match=r"x must be float32 or float64, got int64: x\.astype"):
        ops.relu(np.arange(3))


def test_missing_surplus_and_repeated_arguments_are_refused():
    with pytest.raises(InputError, match="matmul: argument 'b' is missing"):
        ops.matmul(X)
    with pytest.raises(InputError, match=r"relu: takes arrays \('x',\), got 2"):
        ops.relu(X, X)
    with pytest.raises(InputError, match="'x'"):
        ops.relu(X, x=X)
    with pytest.raises(UnknownNameError, match=r"'slop'\. Did you mean 'slope'"):
        ops.leaky_relu(X, slop=0.1)


def test_a_refused_parameter_is_refused_whatever_was_called_before():
    """True equals 1 and 1.0, and so does its hash: a kept plan must not let it in."""
    labels = np.zeros(2, np.int64)
    assert ops.one_hot(labels, classes=1).shape == (2, 1)
    for value in (True, 1.0):
        with pytest.raises(InputError, match="classes must be a whole number"):
            ops.one_hot(labels, classes=value)


@pytest.mark.parametrize("dtype", ["zzz", "int32", "float16", "complex64", "object", ""])
def test_a_dtype_that_is_none_of_ours_is_refused(dtype):
    with pytest.raises((InputError, DTypeError), match=r"one_hot.*float32"):
        ops.one_hot(np.zeros(2, np.int64), classes=2, dtype=dtype)


# --- arrays that are welcome -------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "value",
    [
        X.tolist(),
        tuple(map(tuple, X)),
        Frame(X),
        np.ma.array(X),
        np.ma.array(X, mask=np.zeros(X.shape, bool)),
        X.view(np.matrix),
        X.astype(">f8"),
        np.asfortranarray(X),
        X[:, ::-1][:, ::-1],
    ],
    ids=["list", "tuple", "frame", "masked", "unmasked", "matrix", "big-endian", "fortran", "neg"],
)
def test_what_holds_numbers_becomes_a_plain_array(value, backend):
    y = get_op("relu").on(nnkernels.get_backend(backend), value)
    assert type(y) is np.ndarray and y.dtype == F64 and y.dtype.isnative
    assert np.array_equal(y, np.maximum(X, 0))


def test_a_matrix_multiplies_like_an_array():
    eye = np.eye(3).view(np.matrix)
    y = ops.bias_add(X.view(np.matrix), np.asarray(eye)[0])
    assert type(y) is np.ndarray and y.shape == X.shape


def test_a_memory_map_is_read_in_place(tmp_path):
    X.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", F64, "r", shape=X.shape)
    y = ops.relu(mapped)
    assert type(y) is np.ndarray and np.array_equal(y, np.maximum(X, 0))


def test_a_cpu_tensor_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    y = ops.relu(torch.tensor(X))
    assert type(y) is np.ndarray and np.array_equal(y, np.maximum(X, 0))
    for tensor in (torch.tensor(X, requires_grad=True), torch.tensor(X).to(torch.bfloat16)):
        with pytest.raises((InputError, DTypeError), match="relu: x "):
            ops.relu(tensor)


def test_a_tensor_keeps_its_precision():
    torch = pytest.importorskip("torch")
    assert ops.relu(torch.ones(2, dtype=torch.float32)).dtype == F32
    with pytest.raises(DTypeError, match="float64"):
        ops.add(np.ones(2, "f4"), torch.ones(2, dtype=torch.float64))


def test_a_frame_is_not_cast_silently():
    """An object with an array inside has a precision; a list of numbers has none."""
    with pytest.raises(DTypeError, match="float64"):
        ops.add(np.ones(3, "f4"), Frame(np.ones(3)))


@pytest.mark.parametrize("value", [2, 2.5, True, [1, 2], [[1.5]], []])
def test_numbers_and_lists_take_the_precision_of_the_arrays(value):
    x = np.ones(np.shape(value), "f4")
    assert ops.add(x, value).dtype == ops.add(value, x).dtype == F32
    assert ops.relu(value).dtype == F64


def test_numbers_serve_as_learning_rate_and_counter():
    for lr in (0.5, np.float32(0.5), np.float64(0.5), np.asarray(0.5)):
        param = np.ones(3, "f4")
        assert ops.sgd(param, np.ones(3, "f4"), lr) is param
        assert param.tolist() == [0.5, 0.5, 0.5]
    for step in (1, np.int32(1), np.uint8(1), np.asarray(1)):
        arrays = [np.ones(3) for _ in range(4)]
        ops.adam(*arrays, 0.1, step)


@pytest.mark.parametrize("layout", [*VIEWS, *HOST_ONLY])
@pytest.mark.parametrize("name", ["matmul", "softmax", "linear_backward", "count_correct", "add"])
def test_layouts_give_the_same_result(name, layout):
    """Exactly, where no summation order is involved; the conformance suite covers the rest."""
    arrange = {**VIEWS, **HOST_ONLY}[layout]
    inputs = inputs_of(name, F64)
    if layout == "zero-stride":
        inputs = [np.array(np.broadcast_to(a[:1], a.shape)) if a.ndim else a for a in inputs]
    numpy = nnkernels.get_backend("numpy")
    arranged = [arrange(numpy, a) for a in inputs]
    before = fingerprint(*arranged)
    params = sample(name, F64).params
    expected = as_tuple(get_op(name).on(numpy, *inputs, **params))
    results = as_tuple(get_op(name).on(numpy, *arranged, **params))
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)
    assert fingerprint(*arranged) == before


def spy(seen: list):
    def kernel(*inputs, out=None, **params):
        seen.extend([*inputs, out])

    return kernel


def test_a_repeated_giant_is_never_copied():
    """2**35 rows in 16 bytes: the last one is right."""
    row = np.arange(4, dtype="f4")
    giant = np.broadcast_to(row, (2**35, 4))
    for backend in BACKENDS:
        rows = np.array([2**35 - 1, 0])
        y = get_op("gather_rows").on(nnkernels.get_backend(backend), giant, rows)
        assert y.tolist() == [row.tolist()] * 2
    seen: list = []
    spied = nnkernels.get_backend("numpy").replace(gather_rows=spy(seen))
    spied.gather_rows(giant, rows)
    assert seen[0] is giant


def test_a_label_beyond_a_giant_is_refused():
    giant = np.broadcast_to(np.zeros(4, "f4"), (2**35, 4))
    with pytest.raises(LabelError, match=str(2**35)):
        ops.gather_rows(giant, np.array([2**35]))


# --- values that are checked -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint64", ">i4"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_of_any_integer_type_are_read(dtype, backend):
    labels = np.array([2, 0, 1], dtype)
    rows = get_op("one_hot").on(nnkernels.get_backend(backend), labels, classes=3)
    assert np.array_equal(rows, np.eye(3)[[2, 0, 1]])


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([0, 3, 1], "labels[1] is 3"),
        ([0, 1, -1], "labels[2] is -1"),
        ([-(2**63), 0, 0], "labels[0] is -9223372036854775808"),
        ([2**63 - 1, 0, 0], "labels[0] is 9223372036854775807"),
    ],
)
def test_labels_out_of_range_are_named_with_their_place(labels, named):
    labels = np.array(labels, np.int64)
    out = np.ones((3, 3), "f4")
    message = refuse("one_hot", [labels], LabelError, {"classes": 3}, (out,))
    assert named in message and "[0, 3)" in message and "1 of 3" in message


def test_unsigned_labels_do_not_wrap():
    for value in (2**64 - 1, 2**63):
        labels = np.array([0, value], np.uint64)
        message = refuse("one_hot", [labels], LabelError, {"classes": 3}, (np.ones((2, 3), "f4"),))
        assert "labels" in message and str(value) in message


def test_labels_are_checked_on_every_call_also_by_a_kept_plan():
    scores, labels = np.zeros((2, 3)), np.array([0, 2])
    ops.softmax_cross_entropy(scores, labels)
    labels[1] = 3
    for _ in range(2):
        with pytest.raises(LabelError, match=r"target\[1\] is 3"):
            ops.softmax_cross_entropy(scores, labels)


@pytest.mark.parametrize("lr", [0, 0.0, -1.0, np.inf, np.nan, np.float32(np.nan)])
def test_a_learning_rate_must_be_positive_and_finite(lr):
    message = refuse("sgd", [np.ones(3), np.ones(3), lr], InputError, {}, ())
    assert "lr must lie in (0,inf)" in message


@pytest.mark.parametrize("step", [0, -1, 2**63])
def test_a_step_counter_must_be_positive(step):
    state = [np.ones(3), np.ones(3), np.zeros(3), np.zeros(3)]
    assert "step" in refuse("adam", [*state, 0.1, step], InputError, {}, ())


@pytest.mark.parametrize("classes", [0, -1, 2.5, "3", None, 10**30])
def test_a_number_of_classes_must_be_one(classes):
    with pytest.raises((InputError, MemoryError)):
        ops.one_hot(np.zeros(2, np.int64), classes=classes)


def test_class_rows_may_stand_for_labels():
    """The second alternative of a signature, with arrays and with lists."""
    scores, labels = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), np.array([2, 0])
    rows = np.eye(3)[labels]
    expected = ops.softmax_cross_entropy(scores, labels)
    for target in (rows, rows.tolist(), labels.tolist(), [2, 0]):
        got = ops.softmax_cross_entropy(scores, target)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)
    single = ops.softmax_cross_entropy(scores.astype("f4"), rows.astype("f4"))
    assert single[0].dtype == F32


def test_class_rows_of_another_precision_are_refused():
    scores = np.zeros((2, 3), "f4")
    with pytest.raises(DTypeError, match="target"):
        ops.softmax_cross_entropy(scores, np.eye(2, 3))


# --- out ---------------------------------------------------------------------------------------


def with_outs() -> list[str]:
    return sorted(n for n in OPERATORS if sample(n).signature.outputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", with_outs())
def test_results_land_in_out_of_any_layout(name, backend):
    chosen, params = nnkernels.get_backend(backend), sample(name).params
    expected = as_tuple(get_op(name).on(chosen, *inputs_of(name), **params))
    for arrange in (np.array, lambda a: spread(a)[spread_index(a.ndim)]):
        outs = tuple(arrange(o) for o in new_outs(name))
        out = outs[0] if len(outs) == 1 else outs
        results = as_tuple(get_op(name).on(chosen, *inputs_of(name), out=out, **params))
        for given, got, want in zip(outs, results, expected, strict=False):
            assert got is given
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-12)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


WRONG_OUT = {
    "read-only": read_only,
    "another precision": lambda a: a.astype("f8" if a.dtype == F32 else "f4"),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "a dimension more": lambda a: np.ones((1, *a.shape), a.dtype),
    "larger": lambda a: np.ones(tuple(n + 1 for n in a.shape) or (2,), a.dtype),
    "a list": lambda a: a.tolist() if a.ndim else [0.0],
    "a number": lambda a: 3.0,
    "a text": lambda a: "out",
}
WRONG_OUT_ERRORS = (OutputError, DTypeError, DeviceMismatchError)


@pytest.mark.parametrize("name", with_outs())
def test_a_wrong_out_is_refused(name):
    for fault, position in itertools.product(WRONG_OUT, range(len(new_outs(name)))):
        outs = list(new_outs(name))
        if fault == "big-endian" and outs[position].dtype.itemsize == 1:
            continue
        outs[position] = WRONG_OUT[fault](outs[position])
        with noting(f"{fault} at {position}"):
            message = refuse(name, inputs_of(name), WRONG_OUT_ERRORS, None, tuple(outs))
            assert "out" in message


@pytest.mark.parametrize("name", [n for n in with_outs() if len(new_outs(n)) > 1])
def test_a_wrong_number_of_outs_is_refused(name):
    outs = new_outs(name)
    for wrong in (outs[:-1], (*outs, outs[0])):
        message = refuse(name, inputs_of(name), OutputError, None, wrong)
        assert f"out must be {len(outs)} arrays" in message


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [n for n in with_outs() if len(new_outs(n)) > 1])
def test_outputs_that_are_not_wanted_may_be_left_out(name, backend):
    chosen, params = nnkernels.get_backend(backend), sample(name).params
    expected = get_op(name).on(chosen, *inputs_of(name), **params)
    for position in range(len(new_outs(name))):
        outs = tuple(o if i == position else None for i, o in enumerate(new_outs(name)))
        results = get_op(name).on(chosen, *inputs_of(name), out=outs, **params)
        assert results[position] is outs[position]
        np.testing.assert_allclose(results[position], expected[position], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["relu", "tanh", "softmax", "log_softmax", "add"])
def test_rowwise_operators_work_in_place(name, backend):
    chosen = nnkernels.get_backend(backend)
    expected = get_op(name).on(chosen, *inputs_of(name))
    for position in range(len(get_op(name).inputs)):
        inputs = inputs_of(name)
        assert get_op(name).on(chosen, *inputs, out=inputs[position]) is inputs[position]
        assert np.array_equal(inputs[position], expected)


def test_a_partial_overlap_is_refused():
    memory = np.arange(10.0)
    for x, out in (
        (memory[:-1], memory[1:]),
        (memory, memory[::-1]),
        (memory[:4], memory[3:7]),
        (memory[::2], memory[1:6]),
    ):
        assert "overlaps" in refuse("relu", [x], OutputError, {}, (out,))
    assert ops.relu(memory[::2], out=memory[1::2]) is not None  # interleaved, yet apart


def test_a_product_cannot_overwrite_its_operand():
    a = np.eye(3)
    assert "overlaps" in refuse("matmul", [a, np.eye(3)], OutputError, {}, (a,))


def test_two_outputs_cannot_share_memory():
    x, ones = np.ones((3, 4)), np.ones(4)
    same = np.empty(3)
    refuse("layer_norm", [x, ones, ones], OutputError, {}, (np.ones((3, 4)), same, same))
    y = np.ones((3, 4))
    refuse("add_backward", [x], OutputError, {}, (y, y))


def test_the_mask_of_a_masked_out_is_not_an_output():
    with pytest.raises((OutputError, DeviceMismatchError), match="out"):
        ops.relu(X, out=np.ma.array(np.zeros(X.shape), mask=True))


# --- updates -----------------------------------------------------------------------------------

SGD = np.ones(4)


def test_an_update_returns_the_array_that_it_changed():
    param, grad = np.ones(4), np.ones(4)
    assert ops.sgd(param, grad, 0.5) is param
    assert param.tolist() == [0.5] * 4 and grad.tolist() == [1.0] * 4
    wide = np.ones((4, 3))
    ops.sgd(wide[:, 1], grad, 0.5)
    assert wide.tolist() == [[1.0, 0.5, 1.0]] * 4


def updated_faults() -> dict:
    memory = np.ones(6)
    grad = memory[:4]
    return {
        "a list": ([1.0] * 4, grad),
        "read-only": (read_only(np.ones(4)), grad),
        "repeated": (np.broadcast_to(np.ones(1), (4,)), grad),
        "big-endian": (np.ones(4, ">f8"), grad),
        "masked": (np.ma.array(np.ones(4)), grad),
        "the gradient": (grad, grad),
        "overlapping": (memory[1:5], grad),
    }


@pytest.mark.parametrize("fault", updated_faults())
def test_what_cannot_be_updated_in_place_is_refused(fault):
    param, grad = updated_faults()[fault]
    refuse("sgd", [param, grad, 0.5], (OutputError, DTypeError), {}, ())


@pytest.mark.parametrize("fault", updated_faults())
def test_binding_refuses_the_same(fault):
    param, grad = updated_faults()[fault]
    with pytest.raises((OutputError, DTypeError), match="sgd"):
        nnkernels.bind("sgd", param, grad, 0.5)


# --- use ---------------------------------------------------------------------------------------


def served_by() -> str:
    """Which of two relus runs: the doubled one or another."""
    return "doubled" if ops.relu(np.ones(1))[0] == 2 else "plain"


@pytest.fixture
def doubled() -> Backend:
    return nnkernels.get_backend("numpy").replace(relu=lambda x: 2 * np.maximum(x, 0))


def test_use_chooses_inside_the_block_only(doubled):
    assert served_by() == "plain"
    with nnkernels.use(doubled) as chosen:
        assert chosen is doubled and served_by() == "doubled"
        with nnkernels.use("reference") as inner:
            assert inner.name == "reference" and served_by() == "plain"
        assert served_by() == "doubled"
    assert served_by() == "plain"


def test_use_ends_with_an_exception(doubled):
    with pytest.raises(ZeroDivisionError), nnkernels.use(doubled):
        raise ZeroDivisionError
    assert served_by() == "plain"


def test_use_of_an_unknown_backend_changes_nothing(doubled):
    with nnkernels.use(doubled):
        with pytest.raises(UnknownNameError), nnkernels.use("nmpy"):
            raise AssertionError("never reached")
        assert served_by() == "doubled"


def test_use_holds_in_its_own_thread_only(doubled):
    found = {}
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        found["new thread"] = served_by()
        with nnkernels.use(doubled):
            inside.set()
            done.wait(10)
            found["its block"] = served_by()

    with nnkernels.use(doubled):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
    found["ours, while theirs is open"] = served_by()
    done.set()
    thread.join(10)
    assert found == {
        "new thread": "plain",
        "its block": "doubled",
        "ours, while theirs is open": "plain",
    }


def test_an_explicit_backend_beats_the_block(doubled):
    with nnkernels.use(doubled):
        assert get_op("relu").on(nnkernels.get_backend("numpy"), np.ones(1))[0] == 1
        assert nnkernels.get_backend("numpy").relu(np.ones(1))[0] == 1


def test_threads_calling_at_once_get_the_serial_results():
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(n + 1, 5)) for n in range(8)]
    expected = [ops.softmax(x) for x in batches]
    results: dict[int, bool] = {}

    def work(index: int) -> None:
        results[index] = all(
            np.array_equal(ops.softmax(x), y)
            for _ in range(20)
            for x, y in zip(batches, expected, strict=True)
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == dict.fromkeys(range(8), True)


# --- get_backend -------------------------------------------------------------------------------


def test_names_lead_to_one_object():
    assert nnkernels.get_backend("numpy") is nnkernels.get_backend("numpy")
    assert nnkernels.get_backend(" numpy ").name == "numpy"
    assert nnkernels.get_backend() is nnkernels.get_backend("auto")
    numpy = nnkernels.get_backend("numpy")
    assert nnkernels.get_backend(numpy) is numpy


def test_auto_is_the_available_cpu_backend_of_highest_priority():
    names = ("numba", "numpy", "reference")
    best = max((nnkernels.get_backend(n) for n in names), key=lambda b: b.priority)
    assert nnkernels.get_backend("auto").name == best.name == "numba"


@pytest.mark.parametrize(
    ("arguments", "keywords", "name"),
    [
        (("numpy",), {}, "numpy"),
        (("numpy(threads=2)",), {}, "numpy(threads=2)"),
        (("numpy",), {"threads": 2}, "numpy(threads=2)"),
        (("numpy(threads=2)",), {"threads": 1}, "numpy(threads=1)"),
        (("numpy",), {"precision": "fp32"}, "numpy(precision=fp32)"),
        (("numpy",), {"strict": True}, "numpy"),
        (("auto(threads=1)",), {}, "numba(threads=1)"),
        (("numpy[relu=reference]",), {"threads": 3}, "numpy(threads=3)[relu=reference]"),
    ],
)
def test_settings_come_by_name_or_keyword(arguments, keywords, name):
    assert nnkernels.get_backend(*arguments, **keywords).name == name


@pytest.mark.parametrize("name", [None, 3, ["numpy"], b"numpy", np.ones(1), {"numpy"}])
def test_what_is_no_name_is_refused(name):
    with pytest.raises((InputError, DTypeError), match="backend"):
        nnkernels.get_backend(name)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nmpy", UnknownNameError, r"'nmpy'\. Did you mean 'numpy'"),
        ("nunba", UnknownNameError, "'numba'"),
        ("numpy:1", InputError, "one device only"),
        ("numpy(threads=0)", InputError, "threads must be 1 or more"),
        ("numpy(precision=tf32)", InputError, "computes in fp32, not 'tf32'"),
        ("numpy[rleu=reference]", UnknownNameError, "Did you mean 'relu'"),
        ("numpy[relu=nmpy]", UnknownNameError, "'nmpy'"),
        ("numpy[relu=no.such.module:f]", InputError, "cannot be imported"),
        ("numpy[relu=math:no_such]", InputError, "cannot be imported"),
        ("numpy[relu=math:pi]", InputError, "must be a function"),
        ("numpy[relu=:f]", InputError, "':f' cannot be imported"),
        ("numpy[relu=math:]", InputError, "'math:' cannot be imported"),
        ("numpy[relu=.math:sin]", InputError, "'.math:sin' cannot be imported"),
    ],
)
def test_names_that_lead_nowhere(name, kind, message):
    with pytest.raises(kind, match=message):
        nnkernels.get_backend(name)


SWAPS = """
    import numpy as np

    def relu(x, *, out):
        np.multiply(x, 10, out=out)

    class Kernels:
        @staticmethod
        def tanh(x):
            return x * 100
"""


@pytest.fixture
def swap_module(tmp_path, monkeypatch):
    """A module of the user's, importable in this test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))

    yield write
    for name in ("nnk_swaps", "nnk_swap_fails"):
        sys.modules.pop(name, None)
    choice.named.cache_clear()


def test_a_function_of_a_module_is_swapped_in_by_name(swap_module):
    swap_module("nnk_swaps", SWAPS)
    name = "numpy[relu=nnk_swaps:relu,tanh=nnk_swaps:Kernels.tanh]"
    backend = nnkernels.get_backend(name)
    assert backend.name == name
    assert backend.relu(X).tolist() == (10 * X).tolist()
    assert backend.tanh(X).tolist() == (100 * X).tolist()


@pytest.mark.parametrize("source", ["raise OSError('no disk')", "def f(:", "raise SystemExit(3)"])
def test_a_module_that_fails_at_import_is_an_input_error(swap_module, source):
    swap_module("nnk_swap_fails", source)
    with pytest.raises(InputError, match="nnk_swap_fails:relu"):
        nnkernels.get_backend("numpy[relu=nnk_swap_fails:relu]")


# --- kernels that fail -------------------------------------------------------------------------


def failing(error: BaseException):
    def kernel(x, *, out):
        raise error

    return kernel


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), OSError(5, "io"), AssertionError()])
def test_an_exception_in_a_kernel_is_a_backend_error_with_its_cause(error):
    backend = nnkernels.get_backend("numpy").replace(relu=failing(error))
    with pytest.raises(BackendError) as caught:
        backend.relu(X)
    assert caught.value.__cause__ is error
    message = str(caught.value)
    assert all(part in message for part in ("relu", backend.name, type(error).__name__))


@pytest.mark.parametrize("error", [MemoryError("full"), KeyboardInterrupt(), BackendError("mine")])
def test_what_is_not_the_kernels_fault_passes_through(error):
    backend = nnkernels.get_backend("numpy").replace(relu=failing(error))
    with pytest.raises(type(error)) as caught:
        backend.relu(X)
    assert caught.value is error


def test_a_kernel_with_another_signature_is_a_backend_error():
    backend = nnkernels.get_backend("numpy").replace(relu=lambda a, b, *, out: None)
    with pytest.raises(BackendError, match="TypeError"):
        backend.relu(X)


def test_kernels_run_without_floating_point_warnings():
    bad = np.array([[np.inf, -np.inf], [1e300, np.nan]])
    for backend in BACKENDS:
        assert np.isnan(get_op("matmul").on(nnkernels.get_backend(backend), bad, bad)).any()
        get_op("softmax").on(nnkernels.get_backend(backend), bad)
    with np.errstate(all="raise"):
        ops.matmul(bad, bad)


# --- devices -----------------------------------------------------------------------------------


def test_arrays_of_another_device_are_refused():
    opaque = opaque_backend()
    theirs = opaque.asarray(X)
    for call in (
        lambda: opaque.relu(X),
        lambda: opaque.add(theirs, X),
        lambda: opaque.relu(X.tolist()),
        lambda: nnkernels.get_backend("numpy").relu(theirs),
        lambda: opaque.relu(theirs, out=np.empty_like(X)),
        lambda: ops.relu(X, out=theirs),
        lambda: opaque_backend().relu(theirs),
    ):
        with pytest.raises(DeviceMismatchError):
            call()


def test_a_kept_plan_does_not_let_arrays_of_another_device_in():
    """Also where the kernel itself would not notice."""
    opaque = opaque_backend().replace(relu=lambda x, *, out: None)
    opaque.relu(opaque.asarray(X))
    with pytest.raises(DeviceMismatchError):
        opaque.relu(X)
    with nnkernels.use(opaque), pytest.raises(DeviceMismatchError):
        ops.relu(X)


class FakeGpuArray:
    """What NumPy arrays are not: memory behind a CUDA pointer."""

    shape, dtype = (2, 3), F64
    __cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f8", "data": (0, False), "version": 3}


def test_a_gpu_array_without_its_backend_is_refused():
    with pytest.raises(DeviceMismatchError, match="FakeGpuArray"):
        ops.relu(FakeGpuArray())


# --- bind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_a_bound_call_gives_the_results_of_a_plain_one(name, backend):
    params = sample(name).params
    expected = as_tuple(get_op(name).on(nnkernels.get_backend(backend), *inputs_of(name), **params))
    bound = nnkernels.bind(name, *inputs_of(name), backend=backend, **params)
    for got, want in zip(as_tuple(bound()), expected, strict=True):
        assert np.array_equal(got, want, equal_nan=got.dtype.kind == "f")


def test_a_bound_call_returns_the_same_arrays_and_follows_its_inputs():
    x, out = X.copy(), np.empty_like(X)
    bound = nnkernels.bind(ops.relu, x)
    first = bound()
    assert first.tolist() == np.maximum(X, 0).tolist()
    x *= -1
    assert bound() is first
    assert first.tolist() == np.maximum(-X, 0).tolist()
    assert nnkernels.bind("relu", x, out=out)() is out


def test_a_bound_call_stays_with_its_backend(doubled):
    with nnkernels.use(doubled):
        bound = nnkernels.bind("relu", np.ones(1))
    assert bound()[0] == 2
    assert nnkernels.bind("relu", np.ones(1), backend=doubled)()[0] == 2


@pytest.mark.parametrize("name", ["relu", "matmul", "softmax", "linear_backward", "adam", "gelu"])
def test_a_bound_call_allocates_no_array(name):
    """Scratch and outputs are made once; only NumPy's own memory is counted."""
    wide = {
        "relu": [np.ones((64, 512))],
        "gelu": [np.ones((64, 512))],
        "softmax": [np.ones((64, 512))],
        "matmul": [np.ones((256, 256)) for _ in range(2)],
        "linear_backward": [np.ones((256, 256)) for _ in range(3)],
        "adam": [*(np.ones(32768) for _ in range(4)), 0.1, 1],
    }[name]
    bound = nnkernels.bind(name, *wide, backend="numpy")
    bound()
    tracemalloc.start()
    try:
        bound()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5):
            bound()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # NumPy's own loops may buffer 64 KiB; one array here has 256 KiB or more.
    assert peak - before < 128 * 1024


def test_a_bound_call_is_checked_once():
    with pytest.raises(UnknownNameError, match="Did you mean 'relu'"):
        nnkernels.bind("rleu", X)
    with pytest.raises(ShapeError):
        nnkernels.bind("matmul", X, X)
    with pytest.raises(LabelError):
        nnkernels.bind("one_hot", np.array([3]), classes=3)
    with pytest.raises(OutputError):
        nnkernels.bind("relu", X, out=np.empty(3))


def test_a_composed_operator_can_be_bound(doubled):
    bound = nnkernels.bind(
        "linear_activation", X, np.eye(3), np.zeros(3), activation="relu", backend=doubled
    )
    y, z = bound()
    assert (y.tolist(), z.tolist()) == ((2 * np.maximum(X, 0)).tolist(), X.tolist())
    assert bound()[0] is y


# --- threads of libraries ----------------------------------------------------------------------


@pytest.fixture
def limits(monkeypatch):
    """The numbers of threads that calls held, in order."""
    held: list[int] = []

    @contextlib.contextmanager
    def limit(count: int):
        held.append(count)
        yield

    def limiting(backend: Backend) -> Backend:
        return dataclasses.replace(backend, limit=limit).configure(threads=1)

    return held, limiting


def outputs(results) -> list[np.ndarray]:
    return list(results) if isinstance(results, tuple) else [results]


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("op", ["relu", "adam", "softmax_cross_entropy", "batch_norm", "dropout"])
def test_a_kernel_that_calls_no_blas_holds_no_threads(limits, name, op):
    held, limiting = limits
    backend = nnkernels.get_backend(name)
    params = sample(op).params
    plain = get_op(op).on(backend, *inputs_of(op), **params)
    under = get_op(op).on(limiting(backend), *inputs_of(op), **params)
    for a, b in zip(outputs(plain), outputs(under), strict=True):
        np.testing.assert_array_equal(a, b)
    assert held == []


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("op", ["matmul", "linear", "linear_backward"])
def test_products_hold_the_threads_of_blas(limits, name, op):
    held, limiting = limits
    backend = limiting(nnkernels.get_backend(name))
    get_op(op).on(backend, *inputs_of(op), **sample(op).params)
    nnkernels.dispatch.bind(op, *inputs_of(op), backend=backend, **sample(op).params)()
    assert held == [1, 1]


def test_a_users_kernel_may_call_anything_and_the_reference_too(limits):
    held, limiting = limits
    numpy = limiting(nnkernels.get_backend("numpy"))
    numpy.replace(relu=lambda x, *, out: np.maximum(x, 0, out=out)).relu(X)
    numpy.replace(tanh="reference").tanh(X)
    assert held == [1, 1]


# --- plans -------------------------------------------------------------------------------------


def test_the_kept_plans_are_bounded(monkeypatch):
    monkeypatch.setattr(plan, "plans", {})
    monkeypatch.setattr(plan, "MAX_PLANS", 8)
    for n in range(50):
        assert ops.relu(np.full(n, -1.0)).tolist() == [0.0] * n
        assert 0 < len(plan.plans) <= 8


def test_plans_keep_shapes_dtypes_parameters_and_backends_apart(doubled):
    for _ in range(2):
        assert ops.relu(np.ones(2, "f4")).dtype == F32
        assert ops.relu(np.ones(2)).dtype == F64
        assert ops.relu(np.ones(3)).shape == (3,)
        assert ops.leaky_relu(-np.ones(1), slope=0.5)[0] == -0.5
        assert ops.leaky_relu(-np.ones(1), slope=0.25)[0] == -0.25
        assert doubled.relu(np.ones(1))[0] == 2
        assert ops.relu(np.ones(1))[0] == 1


# --- backends whose kernels want packed arrays -------------------------------------------------


def packed_only(function):
    """A kernel that refuses what such a backend must never see."""

    @functools.wraps(function)
    def kernel(*inputs, out=(), **params):
        outs = out if isinstance(out, tuple) else (out,)
        for array in (*inputs, *(o for o in outs if o is not None)):
            assert array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative
        function(*inputs, out=out, **params)

    return kernel


@pytest.fixture(scope="module")
def packing() -> Backend:
    kernels = {
        name: Kernel(packed_only(reference_kernel(op).function)) for name, op in OPERATORS.items()
    }
    return Backend("packing", HOST, kernels, Interpreter, strided=False)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_packed_kernels_serve_strided_arrays(name, packing):
    for layout in ("fortran", "strided", "negative", "unaligned"):
        with noting(layout):
            check_packed(name, layout, packing)


def check_packed(name: str, layout: str, packing: Backend) -> None:
    arrange = functools.partial({**VIEWS, **HOST_ONLY}[layout], packing)
    params, plain = sample(name).params, inputs_of(name)
    expected = as_tuple(get_op(name).on(nnkernels.get_backend("reference"), *plain, **params))
    inputs = [arrange(a) for a in inputs_of(name)]
    outs = tuple(arrange(o) for o in new_outs(name))
    keywords = {"out": outs[0] if len(outs) == 1 else outs} if outs else {}
    results = as_tuple(get_op(name).on(packing, *inputs, **keywords, **params))
    targets = (*outs, *(inputs[i] for i in sample(name).updated))
    for got, target, want in zip(results, targets, expected, strict=True):
        assert got is target
        assert np.array_equal(got, want, equal_nan=got.dtype.kind == "f")
    for array, want in zip(inputs, plain, strict=True):
        assert np.array_equal(array, want, equal_nan=array.dtype.kind == "f")


def test_packed_kernels_can_be_bound_to_strided_arrays(packing):
    x, out = np.asfortranarray(X), np.ones((2, 6))[:, ::2]
    bound = nnkernels.bind("relu", x, out=out, backend=packing)
    assert bound() is out
    assert out.tolist() == np.maximum(X, 0).tolist()
    x *= -1
    assert bound().tolist() == np.maximum(-X, 0).tolist()


def test_missing_kernels_are_told_when_they_are_called():
    bare = Backend("bare", HOST, {}, Interpreter)
    with pytest.raises(KernelMissingError, match="bare has no kernel for 'relu'"):
        bare.relu(X)


# --- memory and devices of foreign arrays ------------------------------------------------------


def test_an_out_whose_elements_share_memory_is_refused():
    memory = np.zeros(3, np.float32)
    repeated = np.lib.stride_tricks.as_strided(memory, (4, 3), (0, 4))
    sliding = np.lib.stride_tricks.as_strided(np.zeros(6, np.float32), (4, 3), (4, 4))
    for out in (repeated, sliding):
        with pytest.raises(OutputError, match="share memory"):
            ops.relu(np.ones((4, 3), np.float32), out=out)
        assert not out.any()


@pytest.mark.parametrize("view", [np.s_[::2, ::-1], np.s_[::-1, ::3]])
def test_a_strided_out_without_overlap_is_accepted(view):
    whole = np.zeros((8, 9), np.float32)
    out = whole[view]
    assert ops.relu(np.ones(out.shape, np.float32), out=out) is out
    assert out.all()
    assert whole.sum() == out.size


def test_an_array_on_another_device_is_never_copied_silently():
    class Elsewhere:
        def __dlpack_device__(self):
            return 2, 0

        def __array__(self, dtype=None, copy=None):
            raise AssertionError("copied")

    with pytest.raises(DeviceMismatchError, match=r"relu: x is a .*Elsewhere, .*to_numpy"):
        ops.relu(Elsewhere())
    with pytest.raises(DeviceMismatchError, match="relu: x"):
        ops.relu(opaque_backend().asarray(np.ones(3)))
