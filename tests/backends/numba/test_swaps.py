"""Kernels of users: compiled ones run within the epoch, Python ones in the interpreter."""

from __future__ import annotations

import ctypes
import sys
import types as modules

import numpy as np
import pytest
from numba import cfunc, njit, prange, types

from nnkernels import explain, get_backend
from nnkernels.backends._compiled.epochs.executor import EpochExecutable
from nnkernels.backends.numba.compiling.intrinsics import view
from nnkernels.errors import BackendError, InputError
from nnkernels.explain import notes
from nnkernels.nn import MLP, Trainer
from nnkernels.program import State
from nnkernels.spec import get_op

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(97, 5)), RNG.integers(0, 3, 97)
SIGNATURE = types.int64(types.int64, types.int64, types.int64)

THREADS = (1, 2, 3)


def numpy_relu(x, out):
    """What every swapped ``relu`` computes: twice the ordinary one."""
    np.maximum(x, 0, out=out)
    out *= 2


@njit
def relu_writing(x, out):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = 2 * max(x[i, j], 0)


@njit
def relu_returning(x):
    return 2 * np.maximum(x, 0)


@njit
def relu_with_a_result(x, out):
    relu_writing(x, out)
    return 7


@cfunc(SIGNATURE)
def relu_pointer(record, first, last):
    """float64 only: addresses of x and out, then the number of elements."""
    words = view(record, 3, first)
    x, out = view(words[0], words[2], 0.0), view(words[1], words[2], 0.0)
    for i in range(first, last):
        out[i] = 2 * max(x[i], 0)
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
def relu_callback(record, first, last):
    """The same, called through ctypes: it is Python that holds the lock while it runs."""
    words = (ctypes.c_int64 * 3).from_address(record)
    x, out = ((ctypes.c_double * words[2]).from_address(words[k]) for k in (0, 1))
    numpy_relu(np.asarray(x)[first:last], np.asarray(out)[first:last])
    return 0


@njit
def softmax(x):
    out = np.empty_like(x)
    for i in range(x.shape[0]):
        powers = np.exp(x[i] - x[i].max())
        out[i] = powers / powers.sum()
    return out


def numpy_softmax(x):
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@njit
def linear(x, w, b, out):
    for i in range(x.shape[0]):
        for j in range(w.shape[1]):
            total = b[j]
            for k in range(w.shape[0]):
                total += x[i, k] * w[k, j]
            out[i, j] = total


def numpy_linear(x, w, b):
    return x @ w + b


@njit
def sgd(param, grad, lr, weight_decay):
    for i in range(param.size):
        param[i] -= 3 * lr[0] * (grad[i] + weight_decay * param[i])


def numpy_sgd(param, grad, lr, weight_decay):
    param -= 3 * lr * (grad + weight_decay * param)


@njit
def loss(logits, target, loss, probs):
    total = 0.0
    for i in range(logits.shape[0]):
        powers = np.exp(logits[i] - logits[i].max())
        probs[i] = powers / powers.sum()
        total -= np.log(probs[i, target[i]])
    loss[0] = total / logits.shape[0]


def numpy_loss(logits, target, out, reduction):
    loss, probs = out
    probs[...] = numpy_softmax(logits)
    loss[...] = -np.log(probs[np.arange(len(target)), target]).mean()


@njit
def norm(grad, max_norm):
    size = np.sqrt((grad * grad).sum())
    grad *= min(1.0, max_norm / size)
    return size


def numpy_norm(grad, max_norm):
    size = np.sqrt((grad * grad).sum())
    grad *= min(1.0, max_norm / size)
    return size


SWAPS = {
    "writing": ("relu", relu_writing, numpy_relu),
    "returning": ("relu", relu_returning, numpy_relu),
    "a result that is none": ("relu", relu_with_a_result, numpy_relu),
    "cfunc": ("relu", relu_pointer, numpy_relu),
    "ctypes": ("relu", relu_callback, numpy_relu),
    "not elementwise": ("softmax", softmax, numpy_softmax),
    "product": ("linear", linear, numpy_linear),
    "optimizer": ("sgd", sgd, numpy_sgd),
    "loss": ("softmax_cross_entropy", loss, numpy_loss),
}
"""The operator, a compiled kernel for it, and what it computes by NumPy."""


@njit
def failing(x, out):
    for i in range(x.shape[0]):
        if x[i, 0] > 1e6:
            raise ValueError("too large")
        out[i] = x[i]


@njit
def failing_optimizer(param, grad, lr, weight_decay):
    if weight_decay == 0:
        raise ValueError("no decay")


def train(backend, epochs=2, x=X, **options):
    activation = "softmax" if "softmax" in backend.swaps else "relu"
    model = MLP([5, 40, 33, 3], dtype="float64", seed=2, activation=activation, **options)
    trainer = Trainer(model, "sgd", backend=backend, learning_rate=0.02)
    trainer.fit(x, Y, epochs=epochs, batch_size=32, progress=False)
    return {**trainer.state.snapshot(), "loss": trainer.history["loss"]}


@pytest.mark.parametrize(("op", "compiled", "by_numpy"), SWAPS.values(), ids=SWAPS)
def test_a_compiled_kernel_is_part_of_the_epoch(
    op, compiled, by_numpy, numba, pinned, interpreted, assert_same_bits
):
    """Called by itself, in the interpreter and in epochs it gives the same, and not the default."""
    swapped = numba.replace(**{op: compiled})
    assert swapped.coverage()[op] == "swapped"
    want = train(interpreted(swapped))
    for threads in THREADS:
        got = train(pinned(swapped, threads))
        assert_same_bits(got, want)
    for name, values in train(get_backend("numpy").replace(**{op: by_numpy})).items():
        np.testing.assert_allclose(want[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    if op in ("relu", "sgd"):
        assert not np.allclose(want["loss"], train(numba)["loss"], rtol=1e-3)


@pytest.mark.parametrize("name", [n for n, (op, *_) in SWAPS.items() if op == "relu"])
def test_a_swapped_relu_counts_on_every_path(name, numba, assert_same_bits):
    """Called by itself, within a fused operator, in a Program's interpreter and in its epochs."""
    swapped = numba.replace(relu=SWAPS[name][1])
    want = 2 * np.maximum(X, 0)
    np.testing.assert_array_equal(swapped.relu(X), want)
    np.testing.assert_array_equal(swapped.relu(X[::2, ::-1]), want[::2, ::-1])
    np.testing.assert_array_equal(get_op("relu").on(swapped, X), want)
    layer = swapped.linear_activation(X, np.eye(5), np.zeros(5), activation="relu")
    np.testing.assert_array_equal(layer[0] if isinstance(layer, tuple) else layer, want)


def test_a_norm_that_nobody_reads_but_fetch(numba, pinned):
    """It writes a number and an array: its one thread leaves the number for all."""
    swapped, results = numba.replace(clip_by_global_norm=norm), []
    for backend in (get_backend("numpy").replace(clip_by_global_norm=numpy_norm), swapped):
        for threads in THREADS:
            chosen = pinned(backend, threads) if backend is swapped else backend
            model = MLP([5, 40, 3], dtype="float64", seed=2)
            trainer = Trainer(model, backend=chosen, clip_norm=1e-2)
            trainer.fit(X, Y, batch_size=32, progress=False)
            results.append(trainer.state.snapshot()["parameters"])
    for each in results:
        np.testing.assert_allclose(each, results[0], rtol=1e-9)


def test_python_code_runs_in_the_interpreter_and_explain_says_so(numba):
    swapped = numba.replace(relu=numpy_relu)
    trainer = Trainer(MLP([5, 40, 33, 3], dtype="float64", seed=2), backend=swapped)
    program = trainer.step_program(32)
    executable = swapped.bind(program, State(program.layout, swapped.device))
    assert not isinstance(executable, EpochExecutable)
    told = " ".join(notes(program, swapped).lines)
    assert "interpreter" in told
    assert "relu" in told
    assert "numpy_relu" in told
    (choice,) = {c.kernel for c in explain(program, swapped) if c.op == "relu"}
    assert choice.endswith("numpy_relu")
    got, want = train(swapped), train(numba.replace(relu=relu_writing))
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("compiled", [relu_writing, relu_pointer, relu_callback])
def test_explain_names_a_compiled_kernel(compiled, numba):
    swapped = numba.replace(relu=compiled)
    program = Trainer(MLP([5, 4, 3]), backend=swapped).step_program(32)
    (found,) = {c.why for c in explain(program, swapped) if c.op == "relu"}
    assert found.startswith("swapped")
    assert "compiled epoch" in notes(program, swapped).lines[0]


def test_a_kernel_by_name(monkeypatch, numba, interpreted, assert_same_bits):
    module = modules.ModuleType("nnk_swapped_kernels")
    module.relu = relu_writing
    monkeypatch.setitem(sys.modules, module.__name__, module)
    named = get_backend("numba(threads=2)[relu=nnk_swapped_kernels:relu]")
    assert_same_bits(train(named), train(interpreted(numba.replace(relu=relu_writing))))


def test_parameters_that_an_operator_does_not_have_are_refused(numba):
    @njit
    def wrong(x, y):
        return x

    with pytest.raises(InputError, match=r"relu.*\['y'\].*'x', 'out'"):
        numba.replace(relu=wrong)


def test_several_results_cannot_be_returned(numba):
    @njit
    def wrong(logits, target):
        return logits

    with pytest.raises(InputError, match="'loss', 'probs'"):
        numba.replace(softmax_cross_entropy=wrong)


def test_code_that_does_not_compile_is_reported_with_the_types(numba, pinned):
    @njit
    def wrong(x, out):
        out[...] = x + "text"

    swapped = numba.replace(relu=wrong)
    with pytest.raises(BackendError, match=r"wrong.*array"):
        swapped.relu(X)
    with pytest.raises(BackendError, match=r"wrong.*array"):
        train(pinned(swapped, 2))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("row", [32, 95])
def test_a_kernel_that_raises_ends_the_run_and_leaves_the_weights(row, threads, numba, pinned):
    """Wherever the row lies that only one of the threads sees."""
    data = X.copy()
    data[row] = 1e9
    trainers = []
    for x, backend in ((data, pinned(numba.replace(relu=failing), threads)), (X, numba)):
        model = MLP([5, 40, 33, 3], dtype="float64", seed=2)
        trainers.append((Trainer(model, backend=backend), x))
    broken, good = (t for t, _ in trainers)
    weights = np.abs(broken.state.get("linear0.weight"))
    before = {"linear0.weight": weights, "linear0.bias": np.ones(40)}
    for trainer in (broken, good):
        trainer.set_weights(before)
    with pytest.raises(BackendError, match=r"relu=.*failing"):
        broken.fit(data, Y, batch_size=16, shuffle=False, progress=False)
    steps = row // 16
    assert broken.state.number("step") == steps
    assert all(np.isfinite(a).all() for a in broken.weights().values())
    # It can be used again, and goes on from where it was.
    broken.fit(X, Y, batch_size=16, shuffle=False, progress=False)
    assert len(broken.history) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_an_optimizer_that_raises(threads, numba, pinned):
    swapped = pinned(numba.replace(sgd=failing_optimizer), threads)
    model = MLP([5, 40, 3], dtype="float64", seed=2)
    trainer = Trainer(model, backend=swapped)
    before = trainer.weights()
    with pytest.raises(BackendError, match=r"sgd=.*failing_optimizer"):
        trainer.fit(X, Y, batch_size=32, progress=False)
    for name, values in trainer.weights().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_kernel_that_raises_when_called_by_itself(numba):
    with pytest.raises(BackendError, match=r"failing.*raised an exception"):
        numba.replace(relu=failing).relu(np.full((40, 3), 1e9))


@njit
def same_name_as_another(x):
    return x


def test_two_functions_of_one_name_are_told_apart(numba):
    first = numba.replace(relu=same_name_as_another)

    def make(factor):
        @njit
        def same_name_as_another(x):
            return factor * x

        return same_name_as_another

    others = [numba.replace(relu=make(factor)) for factor in (2.0, 3.0)]
    results = [b.relu(np.ones(3))[0] for b in (first, *others)]
    assert results == [1, 2, 3]


def test_a_kernel_with_threads_of_its_own_is_refused(numba):
    @njit(parallel=True)
    def relu(x, out):
        for i in prange(x.size):
            out.flat[i] = max(x.flat[i], 0)

    with pytest.raises(InputError, match=r"parallel=True.*compile it without"):
        numba.replace(relu=relu)
