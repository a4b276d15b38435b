"""The conformance suite must report every one of these faults, by operator and check."""

import numpy as np
import pytest

from nnkernels import Kernel, get_backend
from nnkernels.testing import verify


def clipped_sigmoid(x, *, out):
    out[...] = 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def nan_relu(x, *, out):
    out[...] = x * (x > 0)


def wrong_gradient(grad, y, *, out):
    out[...] = grad * y


def reads_memory_in_c_order(x, *, out):
    np.tanh(x.ravel(order="K").reshape(x.shape), out=out)


def ignores_strides_of_out(x, *, out):
    np.tanh(x, out=out if out.flags.c_contiguous else np.empty_like(out))


def writes_through_strides(x, *, out):
    np.tanh(x, out=out)
    if out.base is not None and out.strides != np.empty_like(out).strides:
        out.base.flat[1] = 0


def modifies_its_input(x, *, out):
    np.tanh(x, out=out)
    x[...] = 0


def returns_float64(x):
    return np.tanh(x.astype(np.float64))


def tf32(array):
    """float32 with the mantissa rounded to 10 bits."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def tf32_product(a, b, *, transpose_a, transpose_b, out):
    a, b = (a.T if transpose_a else a), (b.T if transpose_b else b)
    out[...] = tf32(a) @ tf32(b) if out.dtype == np.float32 else a @ b


def half_accumulation(a, b, *, transpose_a, transpose_b, out):
    a, b = (a.T if transpose_a else a), (b.T if transpose_b else b)
    total = np.zeros(out.shape, np.float16)
    for k in range(a.shape[1]):
        total += (a[:, k, None] * b[None, k]).astype(np.float16)
    out[...] = total


def misses_the_tail(x, *, out):
    """Whole vectors of 8 only."""
    out[...] = x
    whole = out.shape[-1] // 8 * 8 if out.ndim else 0
    if whole > 0 or out.ndim == 0:
        np.tanh(x[..., :whole] if out.ndim else x, out=out[..., :whole] if out.ndim else out)


def swaps_labels(x, rows, *, out):
    out[...] = x[rows[::-1]]


def nondeterministic(x, *, out):
    """Always within the bound, never twice the same."""
    noise = np.random.default_rng().choice([0.0, 0.5], x.shape)
    out[...] = np.tanh(x) * (1 + noise * np.finfo(x.dtype).eps)


def wrong_when_aliased(grad, y, *, out):
    np.multiply(y, y, out=out)
    np.subtract(1, out, out=out)
    np.multiply(grad, out, out=out)


def needs_every_output(grad, x, w, *, out):
    out[0][...] = grad @ w.T
    out[1][...] = x.T @ grad
    out[2][...] = grad.sum(0)


def raises(x, *, out):
    raise ZeroDivisionError("planted")


def ignores_weight_decay(param, grad, lr, *, weight_decay):
    param -= (lr * grad).astype(param.dtype)


def drops_nan(x, *, out):
    np.fmax(x, 0, out=out)


FAULTS = [
    ("sigmoid", clipped_sigmoid, "values"),
    ("relu", nan_relu, "special"),
    ("relu", drops_nan, "special"),
    ("sigmoid_backward", wrong_gradient, "values"),
    ("tanh", reads_memory_in_c_order, "layout"),
    ("tanh", ignores_strides_of_out, "out"),
    ("tanh", writes_through_strides, "out"),
    ("tanh", modifies_its_input, "values"),
    ("tanh", returns_float64, "values"),
    ("matmul", tf32_product, "values"),
    ("matmul", half_accumulation, "values"),
    ("tanh", misses_the_tail, "values"),
    ("gather_rows", swaps_labels, "values"),
    ("tanh", nondeterministic, "determinism"),
    ("tanh_backward", wrong_when_aliased, "aliased"),
    ("linear_backward", needs_every_output, "optional"),
    ("relu", raises, "values"),
    ("sgd", ignores_weight_decay, "values"),
]

RAISING = (returns_float64, needs_every_output, raises)
UPDATES = ("sgd",)


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
@pytest.mark.parametrize(
    ("operator", "kernel", "check"), FAULTS, ids=lambda v: getattr(v, "__name__", v)
)
def test_a_planted_fault_is_reported(operator, kernel, check, quick):
    kernel_or_function = Kernel(kernel) if operator in UPDATES else kernel
    backend = get_backend("numpy").replace(**{operator: kernel_or_function})
    report = verify(backend, operators=[operator], quick=quick)
    assert not report.ok
    found = [f for f in report.failures if f.check == check]
    assert found
    assert ("BackendError" in found[0].message) == (kernel in RAISING)
    assert {f.operator for f in report.failures} == {operator}
    assert kernel.__name__ in report.backend


@pytest.mark.parametrize("operator", sorted({operator for operator, *_ in FAULTS}))
def test_the_numpy_kernels_themselves_pass(operator):
    verify("numpy", operators=[operator]).check()


def test_the_clipped_tail_is_reported_with_error_and_bound():
    backend = get_backend("numpy").replace(sigmoid=clipped_sigmoid)
    failure = next(
        f for f in verify(backend, operators=["sigmoid"]).failures if f.check == "values"
    )
    assert failure.error > failure.bound >= 0
    assert "sigmoid" in str(failure) and failure.dtype in str(failure)
