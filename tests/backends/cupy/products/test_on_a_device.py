"""Products and their epilogues with our real kernels, on the simulated device."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cupy")

from nnkernels.backends.cupy import products
from nnkernels.backends.cupy.gpu import Gpu
from nnkernels.backends.cupy.launching import Epilogue, Product
from nnkernels.backends.cupy.products import ReluMask, mask_bytes
from nnkernels.backends.cupy.products.cublaslt import Epilogue as LtEpilogue
from nnkernels.testing import simulated
from nnkernels.testing.simulated.lt import Faults

M, N, K = 40, 33, 96
NONE = Faults(missing=frozenset(set(LtEpilogue) - {LtEpilogue.DEFAULT}))

AFTER = ["bias_relu", "relu_backward_bias_grad", "bias_grad", "column_totals"]
"""The last two sum the columns of 96 rows in slices."""


@pytest.fixture
def cp(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return simulated.cupy()


@pytest.mark.parametrize(
    ("layers", "faults"),
    [("plain", Faults()), ("plain,lt", Faults()), ("plain,lt", NONE)],
    ids=["plain", "epilogues", "none"],
)
def test_a_layer_forward_and_backward(cp, layers, faults):
    cp.cublaslt.faults = faults
    draw = np.random.default_rng(3)
    x, w, b = (draw.standard_normal(s).astype(np.float32) for s in ((M, K), (K, N), (N,)))
    gpu, (a, c, bias) = Gpu(cp, 0, layers), (cp.asarray(each) for each in (x, w, b))
    y, gradient = (cp.empty((M, N), np.float32) for _ in range(2))
    sums, other = (cp.empty((N,), np.float32) for _ in range(2))
    mask = ReluMask(y, cp.empty((mask_bytes(M, N),), np.uint8))
    asked = [
        (y, Epilogue("bias_relu", bias=bias, mask=mask)),
        (gradient, Epilogue("drelu_bias_grad", mask=mask, bias_grad=sums)),
        (cp.empty((M, N), np.float32), Epilogue("bias_grad", bias_grad=other)),
    ]
    calls = [products.prepare(gpu, Product(a, c, o, epilogue=e)) for o, e in asked]
    cp.log.reset()
    for call in calls:
        call()
    assert cp.log.allocations == cp.log.synchronisations == 0
    assert cp.log.products == 3 * (layers == "plain,lt")
    launched = [] if (layers, faults) == ("plain,lt", Faults()) else AFTER
    assert cp.log.names("launch") == launched
    product = x.astype(np.float64) @ w
    expected = np.where(product + b > 0, product, 0)
    np.testing.assert_allclose(y.get(), np.maximum(product + b, 0), 0, 1e-4)
    np.testing.assert_allclose(gradient.get(), expected, 0, 1e-4)
    np.testing.assert_allclose(sums.get(), expected.sum(0), 0, 1e-3)
    np.testing.assert_allclose(other.get(), w.astype(np.float64).sum(0), 0, 1e-4)
