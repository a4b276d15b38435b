"""What is launched after a product, on NumPy's memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nnkernels.backends.cupy.launching import Epilogue, Product
from nnkernels.backends.cupy.products import ReluMask, epilogues

from .conftest import placed

Y = [[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]]


def run_in_numpy(launch):
    """A call that does what one of the four kernels does."""

    def call():
        arrays = [getattr(each, "values", each) for each in launch.arguments]
        kernel = launch.kernel.removesuffix("_vec")
        if kernel in ("bias_add", "bias_relu"):
            x, bias, y, z = arrays[:4]
            assert z is None
            y[...] = x + bias if kernel == "bias_add" else np.maximum(x + bias, 0)
        elif kernel == "bias_grad":
            arrays[1][...] = arrays[0].sum(0)
        else:
            assert kernel == "relu_backward_bias_grad"
            grad, saved, out, sums = arrays[:4]
            out[...] = np.where(saved > 0, grad, 0)
            sums[...] = out.sum(0)

    assert launch.module == "linear"
    return call


@pytest.fixture
def gpu():
    """Runs launches in NumPy."""
    empty = lambda shape, dtype: placed(np.empty(shape, dtype))  # noqa: E731
    return SimpleNamespace(cp=SimpleNamespace(empty=empty), prepare=run_in_numpy)


def product(epilogue):
    """One whose plain product is there already."""
    out = placed(np.array([[-1, 2, -3], [4, -5, 6]], np.float32))
    b = placed(np.arange(6, dtype=np.float32).reshape(2, 3))
    return Product(placed(np.zeros((2, 2), np.float32)), b, out, epilogue=epilogue)


def run(gpu, asked):
    calls = epilogues.after(gpu, asked)
    assert len(calls) == 1
    for call in calls:
        call()
    return asked.out.values.tolist()


def test_without_an_epilogue_nothing_follows(gpu):
    assert epilogues.after(gpu, product(None)) == []


def test_bias_and_relu(gpu):
    bias = placed(np.array([10, 0, 1], np.float32))
    assert run(gpu, product(Epilogue("bias", bias=bias))) == [[9, 2, -2], [14, -5, 7]]
    assert run(gpu, product(Epilogue("bias_relu", bias=bias))) == [[9, 2, 0], [14, 0, 7]]


def test_the_bias_gradient_sums_b(gpu):
    sums = placed(np.zeros(3, np.float32))
    kept = run(gpu, product(Epilogue("bias_grad", bias_grad=sums)))
    assert kept == [[-1, 2, -3], [4, -5, 6]]
    assert sums.values.tolist() == [3, 5, 7]


@pytest.mark.parametrize("with_bits", [False, True])
def test_the_relus_derivative_comes_before_the_sums(gpu, with_bits):
    sums, y = placed(np.zeros(3, np.float32)), placed(np.array(Y, np.float32))
    mask = ReluMask(y, None) if with_bits else y
    asked = product(Epilogue("drelu_bias_grad", mask=mask, bias_grad=sums))
    assert run(gpu, asked) == [[0, 2, 0], [4, 0, 6]]
    assert sums.values.tolist() == [4, 2, 6]
