"""The NumPy kernels of activations and losses: accuracy, layouts, aliasing, no allocation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nnkernels import signature as sig
from nnkernels.backends.numpy import activations, losses
from nnkernels.spec import get_op

KERNELS = {**activations.kernels, **losses.kernels}
SETTINGS = {
    "elu": [{}, {"alpha": 1.7}],
    "gelu": [{}, {"approximate": "tanh"}],
    "leaky_relu": [{}, {"slope": 0.0}, {"slope": 2.5}],
    "softplus": [{}, {"beta": 0.37}],
    "huber": [{"delta": 0.3}, {"reduction": "sum"}],
}
FLOATS = ["float32", "float64"]


def cases():
    """Kernel name, parameters, and which alternative of the signature."""
    for name in KERNELS:
        operator = get_op(name)
        default = [{}, {"reduction": "sum"}] if "reduction" in operator.params else [{}]
        for params in SETTINGS.get(name.removesuffix("_backward"), default):
            full = operator.full_params(params)
            for alternative in operator.signatures(full):
                yield name, full, alternative


ALL = list(cases())
IDS = [f"{name}-{'-'.join(map(str, p.values()))}-{len(s.inputs[-1].dims)}d" for name, p, s in ALL]
every_case = pytest.mark.parametrize(("name", "params", "signature"), ALL, ids=IDS)


def sizes(signature, rows, columns):
    """Sizes of the labels for a matrix of ``rows`` by ``columns``."""
    variadic_rows = any(a.dims == ("...", "c+") for a in signature.inputs)
    return {"b": rows, "c": columns, "...": (rows,) if variadic_rows else (rows, columns)}


def sample(rng, argument, dims, dtype):
    """Magnitudes log-uniform from 1e-6 to 1e2, folded into the argument's interval."""
    shape = sig.shape_of(argument, dims)
    if argument.kind == "int":
        return rng.integers(0, dims["c"], shape)
    values = 10 ** rng.uniform(-6, 2, shape) * rng.choice([-1, 1], shape)
    low, high = argument.interval.bounds(dims) if argument.interval else (-np.inf, np.inf)
    if high == 1:
        values = np.tanh(values) if low == -1 else np.abs(np.tanh(values))
    elif np.isfinite(low):
        values = np.maximum(values, low)
    elif np.isfinite(high):
        values = np.minimum(values, high)
    return values.astype(dtype)


def draw(rng, signature, rows, columns, dtype):
    dims = sizes(signature, rows, columns)
    return [sample(rng, a, dims, dtype) for a in signature.inputs], dims


def call_of(name, params, signature, inputs, dims, dtype, outs=None):
    """A call of the kernel without arguments, and the arrays that it fills."""
    kernel, floating = KERNELS[name], np.dtype(dtype)
    if outs is None:
        outs = [np.full(sig.shape_of(a, dims), 77, a.dtype(floating)) for a in signature.outputs]
    work = tuple(
        np.full(sig.shape_of(a, dims), 55, a.dtype(floating))
        for a in sig.parse_arguments(kernel.workspace)
    )
    keywords = dict(params, out=outs[0] if len(outs) == 1 else tuple(outs))
    if work:
        keywords["work"] = work

    def call():
        with np.errstate(all="ignore"):
            kernel.function(*inputs, **keywords)

    return call, outs


def wide(array):
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def assert_within_bound(name, params, outs, inputs, dtype):
    operator, exact = get_op(name), tuple(wide(a) for a in inputs)
    wanted = operator.evaluate(*exact, **params)
    bounds = operator.error.bound(wanted, exact, params, np.dtype(dtype))
    for got, reference, bound in zip(outs, wanted, bounds, strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_less(np.abs(wide(got) - reference), bound + 1e-320)


@every_case
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (33, 10), (7, 200)])
def test_kernels_keep_their_bound_and_their_inputs(name, params, signature, shape, dtype):
    rng = np.random.default_rng(shape)
    inputs, dims = draw(rng, signature, *shape, dtype)
    before = [a.copy() for a in inputs]
    call, outs = call_of(name, params, signature, inputs, dims, dtype)
    call()
    assert_within_bound(name, params, outs, before, dtype)
    for array, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@every_case
def test_kernels_read_and_write_strided_arrays(name, params, signature):
    rng = np.random.default_rng(1)
    inputs, dims = draw(rng, signature, 9, 6, "float32")
    strided = [np.repeat(a, 2, -1)[..., ::2] if a.ndim else a for a in inputs]
    flipped = [a[::-1].copy()[::-1] if a.ndim else a for a in strided]
    outs = [np.full(sig.shape_of(a, dims), 77, "float32").T.copy().T for a in signature.outputs]
    call, outs = call_of(name, params, signature, flipped, dims, "float32", outs)
    call()
    assert_within_bound(name, params, outs, inputs, "float32")


@pytest.mark.parametrize(
    ("name", "params", "signature", "position"),
    [(n, p, s, i) for n, p, s in ALL if s.rowwise for i in range(len(s.inputs))],
)
def test_the_output_may_be_any_input(name, params, signature, position):
    inputs, dims = draw(np.random.default_rng(2), signature, 5, 8, "float64")
    call, (apart,) = call_of(name, params, signature, inputs, dims, "float64")
    call()
    shared = [a.copy() for a in inputs]
    call, _ = call_of(name, params, signature, shared, dims, "float64", [shared[position]])
    call()
    np.testing.assert_array_equal(shared[position], apart)


@pytest.mark.parametrize(
    ("name", "params", "signature"), [(n, p, s) for n, p, s in ALL if s.rowwise]
)
@pytest.mark.parametrize("rows", [0, None])
def test_empty_arrays_and_those_without_dimensions(name, params, signature, rows):
    dims = sizes(signature, 0, 3)
    if rows is None:
        dims["..."] = ()
    inputs = [sample(np.random.default_rng(3), a, dims, "float32") for a in signature.inputs]
    inputs = [np.asarray(a, "float32") for a in inputs]
    call, outs = call_of(name, params, signature, inputs, dims, "float32")
    call()
    assert_within_bound(name, params, outs, inputs, "float32")


@every_case
def test_kernels_allocate_no_arrays(name, params, signature):
    rows = 20_000
    inputs, dims = draw(np.random.default_rng(4), signature, rows, 3, "float32")
    call, _ = call_of(name, params, signature, inputs, dims, "float32")
    call()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    casting = 8192 * (4 + 1 + 4)  # NumPy's buffers when operands differ in dtype
    assert peak < casting < rows * 4  # a float32 vector with one value a row


@pytest.mark.parametrize("dtype", FLOATS)
def test_relu_drops_gradients_that_are_not_finite(dtype):
    grad = np.array([np.inf, np.nan, -np.inf, 2], dtype)
    outs = np.empty_like(grad)
    y = np.array([0, -0.0, 3, 4], dtype)
    activations.relu_backward(grad, y, out=outs, work=(np.empty(4, bool),))
    np.testing.assert_array_equal(outs, np.array([0, 0, -np.inf, 2], dtype))


def test_probabilities_and_loss_may_each_be_unwanted():
    x, labels = np.eye(3), np.arange(3)
    names = {"reduction": "mean"}
    operator = get_op("softmax_cross_entropy")
    wanted = operator.evaluate(x, labels, **names)
    (signature, _) = operator.signatures(names)
    dims = sizes(signature, 3, 3)
    for keep in range(2):
        outs = [np.empty_like(w) if i == keep else None for i, w in enumerate(wanted)]
        call, _ = call_of(operator.name, names, signature, [x, labels], dims, "float64", outs)
        call()
        np.testing.assert_allclose(outs[keep], wanted[keep], rtol=1e-14)
