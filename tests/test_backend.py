"""Backends: immutable, named by what they are, and honest about which kernel runs."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnkernels
from nnkernels import Backend, Kernel, ops
from nnkernels.backend import KernelTable, adapt, reference_kernel
from nnkernels.backends._host import HOST
from nnkernels.errors import BackendError, InputError, KernelMissingError, UnknownNameError
from nnkernels.program import Interpreter
from nnkernels.spec import OPERATORS, get_op
from nnkernels.testing import opaque_backend

X = np.array([[-1.0, 2.0], [3.0, -4.0]])


def double_relu(x, *, out):
    """A swapped kernel that cannot be mistaken for another: 2 max(x, 0)."""
    np.maximum(x, 0, out=out)
    np.multiply(out, 2, out=out)


def returned_relu(x):
    return 2 * np.maximum(x, 0)


class CallableRelu:
    def __call__(self, x, *, out):
        double_relu(x, out=out)

    def method(self, x, *, out):
        double_relu(x, out=out)


@pytest.fixture
def numpy() -> Backend:
    return nnkernels.get_backend("numpy")


@pytest.fixture
def bare() -> Backend:
    """A backend with one kernel and no fallback."""
    return Backend("bare", HOST, {"relu": Kernel(double_relu)}, Interpreter)


# --- immutable ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["name", "kernels", "strict", "device", "swaps"])
def test_no_field_can_be_set(numpy, name):
    with pytest.raises(AttributeError):
        setattr(numpy, name, None)


@pytest.mark.parametrize("field", ["kernels", "swaps"])
def test_no_kernel_or_swap_can_be_slipped_in(field):
    backend = nnkernels.get_backend("numpy").replace(relu=double_relu)
    with pytest.raises(TypeError):
        getattr(backend, field)["tanh"] = getattr(backend, field)["relu"]


def test_a_backend_does_not_share_the_table_it_was_made_from():
    table = {"relu": Kernel(double_relu)}
    backend = Backend("own", HOST, table, Interpreter)
    table.clear()
    assert backend.relu(X).tolist() == [[0.0, 4.0], [6.0, 0.0]]


def test_settings_and_swaps_make_new_backends(numpy):
    before = (numpy.name, numpy.threads, numpy.strict, dict(numpy.kernels))
    other = numpy.configure(threads=3, strict=True).replace(relu=double_relu)
    assert (other.threads, other.strict) == (3, True)
    assert (numpy.name, numpy.threads, numpy.strict, dict(numpy.kernels)) == before


# --- names -------------------------------------------------------------------------------------


@given(
    threads=st.none() | st.integers(1, 64),
    precision=st.none() | st.just("fp32"),
    swaps=st.dictionaries(st.sampled_from(["relu", "tanh", "matmul"]), st.just("reference")),
)
def test_a_name_says_everything_and_can_be_given_back(threads, precision, swaps):
    backend = nnkernels.get_backend("numpy", threads=threads, precision=precision).replace(**swaps)
    again = nnkernels.get_backend(backend.name)
    assert (again.name, again.threads, again.swaps) == (backend.name, threads, swaps)
    assert (again.precision, again.base) == ("fp32", "numpy")


def test_names_of_swaps_are_sorted_and_added_up(numpy):
    first = numpy.replace(tanh="reference").replace(relu="reference")
    assert first.name == "numpy[relu=reference,tanh=reference]"
    assert first.name == numpy.replace(relu="reference", tanh="reference").name
    assert first.configure(threads=2).name == "numpy(threads=2)[relu=reference,tanh=reference]"
    assert repr(first) == f"<backend {first.name}>"


def test_a_function_of_a_module_is_named_so_that_it_can_be_imported(numpy):
    assert numpy.replace(relu=double_relu).name == f"numpy[relu={__name__}:double_relu]"


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2", [1]])
def test_bad_thread_counts_are_refused(numpy, threads):
    with pytest.raises(InputError, match="threads must be"):
        numpy.configure(threads=threads)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "double", 32, ["fp32"]])
def test_a_precision_that_the_backend_lacks_is_refused(numpy, precision):
    with pytest.raises(InputError, match="computes in fp32, not"):
        numpy.configure(precision=precision)


# --- swapping ----------------------------------------------------------------------------------

FORMS = {
    "function with out": double_relu,
    "function without out": returned_relu,
    "kernel": Kernel(double_relu),
    "object": CallableRelu(),
    "method": CallableRelu().method,
    "partial": functools.partial(double_relu),
    "lambda": lambda x: 2 * np.maximum(x, 0),
}


@pytest.mark.parametrize("value", FORMS.values(), ids=FORMS)
def test_a_swapped_kernel_runs(numpy, value):
    swapped = numpy.replace(relu=value)
    assert swapped.relu(X).tolist() == [[0.0, 4.0], [6.0, 0.0]]
    out = np.empty_like(X)
    assert swapped.relu(X, out=out) is out
    assert out.tolist() == [[0.0, 4.0], [6.0, 0.0]]
    assert numpy.relu(X).tolist() == [[0.0, 2.0], [3.0, 0.0]]
    assert swapped.coverage()["relu"] == "swapped"


def test_a_ufunc_is_a_kernel(numpy):
    assert numpy.replace(relu=np.negative).relu(X).tolist() == (-X).tolist()


def test_a_kernel_of_another_backend_is_taken_by_name(numpy):
    swapped = numpy.replace(relu="reference")
    assert swapped.resolve("relu", {}).kernel.function is reference_kernel(get_op("relu")).function
    assert swapped.coverage()["relu"] in ("swapped", "reference")


def test_an_updating_operator_can_be_swapped(numpy):
    """A function of the user's own that updates in place, with or without parameters."""

    def my_sgd(param, grad, lr, *, weight_decay):
        param -= 2 * lr * grad

    param = np.ones(3)
    numpy.replace(sgd=my_sgd).sgd(param, np.ones(3), 0.25)
    assert param.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("value", [3, None, ["relu"], X])
def test_what_is_no_kernel_is_refused(numpy, value):
    with pytest.raises(InputError, match="relu must be a function"):
        numpy.replace(relu=value)


def test_an_unknown_operator_cannot_be_swapped(numpy):
    with pytest.raises(UnknownNameError, match="Did you mean 'relu'"):
        numpy.replace(rleu=double_relu)


def test_an_unknown_backend_cannot_give_a_kernel(numpy):
    with pytest.raises(UnknownNameError, match="'nmpy'"):
        numpy.replace(relu="nmpy")


def test_a_kernel_of_another_device_is_refused():
    with pytest.raises(InputError, match="whose device is cpu, not opaque"):
        opaque_backend().replace(relu="numpy")


def test_a_backend_that_composes_an_operator_has_no_kernel_to_give(numpy):
    """A name whose operator is composed there (its own relu is swapped) gives nothing."""
    with pytest.raises(KernelMissingError, match="no kernel of its own for linear_activation"):
        numpy.replace(linear_activation="numpy[relu=reference]")


WRONG_RESULTS = {
    "shape": lambda x: np.maximum(x, 0)[:, :1],
    "broadcastable": lambda x: np.float64(1.0),
    "dtype": lambda x: np.maximum(x, 0).astype("float32"),
    "complex": lambda x: x.astype(complex),
    "nothing": lambda x: None,
    "text": lambda x: "relu",
}


@pytest.mark.parametrize("function", WRONG_RESULTS.values(), ids=WRONG_RESULTS)
def test_a_wrong_result_is_a_backend_error(numpy, function):
    with pytest.raises(BackendError) as caught:
        numpy.replace(relu=function).relu(X)
    assert "relu" in str(caught.value) and "expected (2, 2) float64" in str(caught.value)


def test_a_wrong_number_of_results_is_a_backend_error(numpy):
    swapped = numpy.replace(dropout=lambda x, seed, step, **params: (x,))
    with pytest.raises(BackendError, match="dropout"):
        swapped.dropout(X, 1, 2)


def test_several_results_may_be_returned(numpy):
    swapped = numpy.replace(dropout=lambda x, seed, step, **params: (x * 3, np.ones(x.shape, bool)))
    y, mask = swapped.dropout(X, 1, 2)
    assert y.tolist() == (3 * X).tolist() and mask.all()
    only = np.empty(X.shape, bool)
    assert swapped.dropout(X, 1, 2, out=(None, only)) == (None, only)
    assert only.all()


def test_a_function_whose_signature_is_unknown_is_taken_as_a_kernel():
    kernel = adapt(get_op("relu"), np.negative)
    assert callable(kernel.function)


# --- which kernel runs -------------------------------------------------------------------------


def test_a_swap_reaches_every_fused_operator(numpy):
    """relu = 2 max(x, 0), and linear + relu computes with it."""
    swapped = numpy.replace(relu=double_relu)
    w, b = np.eye(2), np.zeros(2)
    y, z = swapped.linear_activation(X, w, b, activation="relu")
    assert (y.tolist(), z.tolist()) == ((2 * np.maximum(X, 0)).tolist(), X.tolist())
    found = swapped.resolve("linear_activation", {"activation": "relu"})
    assert (found.why, found.kernel, found.parts) == ("composed", None, ("linear", "relu"))
    untouched = swapped.resolve("linear_activation", {"activation": "tanh"})
    assert untouched.why == numpy.resolve("linear_activation", {"activation": "tanh"}).why


def test_a_swapped_product_reaches_the_fused_gradients(numpy):
    """linear_backward covers matmul: with another matmul it is composed."""

    def double_matmul(a, b, *, transpose_a, transpose_b):
        return 2 * (a.T if transpose_a else a) @ (b.T if transpose_b else b)

    swapped = numpy.replace(matmul=double_matmul)
    eye = np.eye(2)
    assert swapped.matmul_backward(X, eye, eye)[0].tolist() == (2 * X).tolist()


def test_a_swapped_fused_kernel_is_used_itself(numpy):
    def fused(x, w, b, *, activation):
        return np.full_like(x, 7.0), np.full_like(x, 8.0)

    swapped = numpy.replace(linear_activation=fused)
    y, z = swapped.linear_activation(X, np.eye(2), np.zeros(2), activation="relu")
    assert (y == 7).all() and (z == 8).all()


def test_a_backend_without_kernel_or_fallback_says_so(bare):
    with pytest.raises(KernelMissingError, match="bare has no kernel for 'tanh'"):
        bare.tanh(X)
    coverage = bare.coverage()
    assert (coverage["relu"], coverage["tanh"]) == ("own", "missing")


def test_the_fallback_serves_and_is_shown(bare):
    reference = nnkernels.get_backend("reference")
    backend = Backend("bare", HOST, bare.kernels, Interpreter, fallback=reference)
    assert backend.tanh(X).tolist() == np.tanh(X).tolist()
    assert backend.coverage()["tanh"] == "reference"
    assert backend.resolve("tanh", {}).why == "fallback"


def test_a_fallback_that_is_not_the_reference_is_called_one(bare):
    numpy = nnkernels.get_backend("numpy")
    backend = Backend("bare", HOST, bare.kernels, Interpreter, fallback=numpy)
    assert backend.coverage()["tanh"] == "fallback"


def test_strict_refuses_the_fallback(bare):
    numpy = nnkernels.get_backend("numpy")
    backend = Backend("bare", HOST, bare.kernels, Interpreter, fallback=numpy).configure(
        strict=True
    )
    assert backend.name == "bare"
    assert backend.relu(X)[0, 1] == 4
    with pytest.raises(KernelMissingError, match="strict forbids falling back to numpy"):
        backend.tanh(X)


def test_coverage_names_every_operator(numpy):
    kinds = {"own", "composed", "fallback", "reference"}
    assert set(numpy.coverage()) == set(OPERATORS)
    assert set(numpy.coverage().values()) <= kinds
    assert set(nnkernels.get_backend("reference").coverage().values()) == {"reference"}


def test_the_reference_swapped_in_is_not_counted_as_a_kernel_of_ones_own(numpy):
    assert numpy.replace(relu="reference").coverage()["relu"] == "reference"


# --- the small print ---------------------------------------------------------------------------


def test_operators_are_methods(numpy):
    assert numpy.relu(X).tolist() == ops.relu(X).tolist()
    assert {"relu", "replace", "coverage"} <= set(dir(numpy))


def test_an_unknown_attribute_is_an_attribute_error(numpy):
    """So that hasattr, copy, IPython and mocks behave; the nearest operator is suggested."""
    assert not hasattr(numpy, "no_such_operator")
    with pytest.raises(AttributeError, match="Did you mean 'relu'"):
        _ = numpy.rleu


def test_a_table_takes_declared_operators_once():
    table = KernelTable()

    @table.kernel
    def relu(x, *, out):
        out[...] = x

    assert table["relu"].function is relu
    with pytest.raises(BackendError, match="two kernels for operator 'relu'"):
        table.kernel(relu)
    with pytest.raises(UnknownNameError):
        table.kernel(double_relu)


def test_the_reference_kernel_writes_outputs_and_updates_in_place():
    param, grad = np.ones(3), np.ones(3)
    reference_kernel(get_op("sgd")).function(param, grad, np.float64(0.5), weight_decay=0.0)
    assert param.tolist() == [0.5, 0.5, 0.5] and grad.tolist() == [1.0, 1.0, 1.0]
    mask = np.empty(X.shape, bool)
    counters = np.asarray(1), np.asarray(1)
    reference_kernel(get_op("dropout")).function(X, *counters, out=(None, mask), p=0.0)
    assert mask.all()
