from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy import products
from nnkernels.backends.cupy.launching import Epilogue, Product
from nnkernels.backends.cupy.products import ReluMask, mask_bytes, plain
from nnkernels.backends.cupy.products.cublaslt import Epilogue as LtEpilogue
from nnkernels.errors import BackendError
from nnkernels.testing.simulated.lt import WORKSPACE_BYTES, Faults

from .conftest import Gpu, placed

pytestmark = pytest.mark.usefixtures("finishing")

TRANSPOSITIONS = [(False, False), (True, False), (False, True), (True, True)]
SHAPES = [(40, 33, 96), (1, 5, 3), (7, 1, 1), (130, 129, 64)]
EPILOGUES = list(LtEpilogue)


def nans(*shape, dtype="float32"):
    return placed(np.full(shape, np.nan, dtype))


class Case:
    """A product with all that its epilogue may ask for, and what must come out."""

    def __init__(self, kind, m=40, n=33, k=96, dtype="float32", transposed=(False, False)):
        draw = np.random.default_rng(5)
        a = draw.standard_normal((k, m) if transposed[0] else (m, k)).astype(dtype)
        b = draw.standard_normal((n, k) if transposed[1] else (k, n)).astype(dtype)
        bias = draw.standard_normal(n).astype(dtype)
        stored = np.maximum(draw.standard_normal((m, n)), 0).astype(dtype)
        self.kind, self.shape = kind, (m, n)
        self.out, self.bias_grad = nans(m, n, dtype=dtype), nans(n, dtype=dtype)
        self.mask = placed(stored) if kind == "drelu_bias_grad" else None
        asked = {
            "bias": placed(bias) if kind in ("bias", "bias_relu") else None,
            "bias_grad": self.bias_grad if kind and "grad" in kind else None,
            "mask": self.mask,
        }
        epilogue = Epilogue(kind, **asked) if kind else None
        self.product = Product(placed(a), placed(b), self.out, *transposed, epilogue)
        wide = [x.astype(np.float64) for x in (a, b, bias)]
        left, right = (x.T if t else x for x, t in zip(wide, transposed, strict=False))
        result = left @ right
        if kind in ("bias", "bias_relu"):
            result = result + wide[2]
        if kind == "bias_relu":
            result = np.maximum(result, 0)
        if kind == "drelu_bias_grad":
            result = np.where(stored > 0, result, 0)
        self.expected = result
        self.expected_grad = right.sum(0) if kind == "bias_grad" else result.sum(0)
        self.tolerance = 1e-12 if dtype == "float64" else 2e-4

    def check(self):
        np.testing.assert_allclose(self.out.values, self.expected, 0, self.tolerance)
        if self.kind and "grad" in self.kind:
            np.testing.assert_allclose(
                self.bias_grad.values, self.expected_grad, 0, 20 * self.tolerance
            )


def of_shape(kind, shape, **given):
    return Case(kind, *shape, **given)


# --- plain products ------------------------------------------------------------------------------


@pytest.mark.parametrize("lt", [True, False], ids=["lt", "plain"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", TRANSPOSITIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_orientation_by_both(lt, dtype, transposed, shape):
    gpu, case = Gpu(lt=lt), of_shape(None, shape, dtype=dtype, transposed=transposed)
    products.prepare(gpu, case.product)()
    case.check()
    assert len(gpu.cp.cublaslt.products) == lt and len(gpu.multiplied) == (not lt)


@pytest.mark.parametrize("kind", [None, "bias", "bias_relu", "bias_grad", "drelu_bias_grad"])
@pytest.mark.parametrize("faults", [Faults(), Faults(missing=frozenset(EPILOGUES[1:]))])
@pytest.mark.parametrize("lt", [True, False], ids=["lt", "plain"])
def test_every_epilogue_on_the_way_or_after(kind, faults, lt):
    gpu, case = Gpu(faults, lt), Case(kind)
    products.prepare(gpu, case.product)()
    case.check()


@pytest.mark.parametrize("transposed", TRANSPOSITIONS[:2])
def test_the_bias_gradient_is_summed_over_the_untransposed_b(transposed):
    gpu, case = Gpu(), Case("bias_grad", transposed=transposed)
    products.prepare(gpu, case.product)()
    case.check()
    assert gpu.cp.cublaslt.products == [LtEpilogue.BGRADA]


def test_transposed_operands_reach_cupy_as_views():
    gpu, case = Gpu(lt=False), Case(None, transposed=(True, True))
    products.prepare(gpu, case.product)()
    ((a, b, out),) = gpu.multiplied
    assert a.data.ptr == case.product.a.data.ptr and b.data.ptr == case.product.b.data.ptr
    assert out is case.product.out


# --- what was done on the way is said ------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (None, "cublasLt fp32"),
        ("bias", "cublasLt fp32 with BIAS"),
        ("bias_relu", "cublasLt fp32 with RELU_BIAS"),
        ("bias_grad", "cublasLt fp32 with BGRADA"),
        (
            "drelu_bias_grad",
            "cublasLt fp32, then drelu_bias_grad by our kernels (it has no exact algorithm)",
        ),
    ],
)
def test_how_is_described(kind, text):
    gpu = Gpu()
    assert products.prepare(gpu, Case(kind).product).describe() == text
    without = Gpu(lt=False)
    then = f", then {kind} by our kernels" if kind else ""
    assert products.prepare(without, Case(kind).product).describe() == f"cupy.matmul{then}"


def test_a_missing_epilogue_is_described_and_asked_for_once():
    gpu = Gpu(Faults(missing=frozenset({LtEpilogue.BIAS})))
    for _ in range(2):
        case = Case("bias")
        prepared = products.prepare(gpu, case.product)
        prepared()
        case.check()
        assert "then bias by our kernels" in prepared.describe()
    assert gpu.cp.cublaslt.products == [LtEpilogue.DEFAULT] * 2


# --- relu's bits ---------------------------------------------------------------------------------


def forward_and_backward(gpu, shape=(40, 33, 96)):
    """A relu's product, and the one behind it that asks for its derivative, with one mask."""
    forward = of_shape("bias_relu", shape)
    backward = of_shape("drelu_bias_grad", shape)
    bits = placed(np.zeros(mask_bytes(*forward.shape), np.uint8))
    mask = ReluMask(forward.out, bits)
    calls = [
        products.prepare(
            gpu, each.product._replace(epilogue=each.product.epilogue._replace(mask=mask))
        )
        for each in (forward, backward)
    ]
    for call in calls:
        call()
    forward.check()
    a, b = (x.values.astype(np.float64) for x in backward.product[:2])
    expected = np.where(forward.out.values > 0, a @ b, 0)
    np.testing.assert_allclose(backward.out.values, expected, 0, 2e-4)
    np.testing.assert_allclose(backward.bias_grad.values, expected.sum(0), 0, 4e-3)
    return [call.describe() for call in calls]


@pytest.mark.parametrize("shape", [*SHAPES, (3, 128, 2)])
def test_bits_go_from_the_forward_to_the_backward_product(shape):
    gpu = Gpu()
    assert forward_and_backward(gpu, shape) == [
        "cublasLt fp32 with RELU_AUX_BIAS",
        "cublasLt fp32 with DRELU_BGRAD",
    ]


@pytest.mark.parametrize(
    ("missing", "forward", "backward"),
    [
        ({LtEpilogue.RELU_AUX_BIAS}, "with RELU_BIAS", "by our kernels"),
        ({LtEpilogue.DRELU_BGRAD}, "with RELU_AUX_BIAS", "by our kernels"),
        (set(EPILOGUES[1:]), "by our kernels", "by our kernels"),
    ],
)
def test_without_one_half_the_stored_output_serves(missing, forward, backward):
    first, second = forward_and_backward(Gpu(Faults(missing=frozenset(missing))))
    assert forward in first and backward in second


def test_bits_of_an_earlier_list_are_not_read_after_a_forward_without_them():
    mask = ReluMask(None, None)
    mask.written = True
    case = Case("bias_relu")
    epilogue = case.product.epilogue._replace(mask=mask)
    products.prepare(Gpu(lt=False), case.product._replace(epilogue=epilogue))
    assert not mask.written


def test_a_relu_that_drops_nan_is_not_used():
    first, second = forward_and_backward(Gpu(Faults(drops_nan=True)))
    assert "by our kernels" in first and "by our kernels" in second
    kept = Case("bias_relu")
    kept.product.a.values[3] = np.nan
    products.prepare(Gpu(Faults(drops_nan=True)), kept.product)()
    assert np.isnan(kept.out.values[3]).all() and np.isfinite(kept.out.values[4]).all()


def test_mask_bytes_are_rows_of_128_bits():
    assert [mask_bytes(3, columns) for columns in (1, 128, 129)] == [48, 48, 96]


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("fp32", 0, 3e-5), ("tf32", 1e-4, 2e-2), ("fp16", 1e-4, 2e-2), ("bf16", 1e-3, 2e-1)],
)
def test_a_precision_is_used_where_it_is_asked_for_and_nowhere_else(precision, least, most):
    gpu, case = Gpu(), Case(None)
    products.prepare(gpu, case.product, precision)()
    error = np.abs(case.out.values - case.expected).max()
    assert least <= error <= most


def test_float64_stays_float64_in_every_precision():
    case = Case(None, dtype="float64")
    products.prepare(Gpu(), case.product, "bf16")()
    case.check()


def test_a_precision_without_cublaslt_is_refused():
    with pytest.raises(BackendError, match="precision 'tf32' needs the layer 'lt', which is off"):
        products.prepare(Gpu(lt=False), Case(None).product, "tf32")
    products.prepare(Gpu(lt=False), Case(None, dtype="float64").product, "tf32")


def test_cupys_own_tf32_switch_is_refused(monkeypatch):
    monkeypatch.setenv(plain.TF32_VARIABLE, "1")
    with pytest.raises(BackendError, match="CUPY_TF32 is set"):
        products.prepare(Gpu(lt=False), Case(None).product)
    products.prepare(Gpu(lt=False), Case(None, dtype="float64").product)
    products.prepare(Gpu(), Case(None).product)


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("cublasLtCreate", 1, r"cublasLtCreate gave status 1 \(CUBLAS_STATUS_NOT_INITIALIZED\)"),
        ("cublasLtMatmulDescCreate", 3, r"status 3 \(CUBLAS_STATUS_ALLOC_FAILED\)"),
        ("cublasLtMatmulAlgoGetHeuristic", 14, r"status 14 \(CUBLAS_STATUS_INTERNAL_ERROR\)"),
        ("cublasLtMatmulAlgoGetHeuristic", 15, r"status 15 \(CUBLAS_STATUS_NOT_SUPPORTED\)"),
        ("cublasLtMatrixLayoutCreate", 99, r"status 99 \(unknown\)"),
    ],
)
def test_a_library_that_fails_is_switched_off_and_cupy_goes_on(function, status, message):
    gpu, case = Gpu(Faults(statuses={function: status})), Case("bias_relu")
    prepared = products.prepare(gpu, case.product)
    prepared()
    case.check()
    assert len(gpu.layers.reasons) == 1 and prepared.describe().startswith("cupy.matmul")
    with pytest.raises(BackendError, match=message):
        products.prepare_lt(gpu, case.product)


def test_no_algorithm_at_all_is_an_error():
    gpu = Gpu(Faults(missing=frozenset(LtEpilogue)))
    with pytest.raises(BackendError, match="NOT_SUPPORTED"):
        products.prepare_lt(gpu, Case("bias").product)


def test_a_product_that_cannot_be_queued_raises():
    gpu, case = Gpu(Faults(statuses={"cublasLtMatmul": 13})), Case(None)
    prepared = products.prepare(gpu, case.product)
    with pytest.raises(BackendError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        prepared()


def test_planted_wrong_results_are_wrong():
    case = Case(None)
    products.prepare(Gpu(Faults(wrong=True)), case.product)()
    with pytest.raises(AssertionError):
        case.check()


# --- memory --------------------------------------------------------------------------------------


def test_running_allocates_nothing_and_goes_to_the_current_stream():
    gpu, case = Gpu(), Case("bias")
    prepared = products.prepare(gpu, case.product)
    assert gpu.allocated == 1
    for _ in range(3):
        prepared()
    assert gpu.allocated == 1
    assert gpu.memory.queued == [(Gpu.STREAM, "cublasLt BIAS")] * 3


@pytest.mark.parametrize(
    ("room", "used"), [(WORKSPACE_BYTES, True), (WORKSPACE_BYTES - 256, False)]
)
def test_a_workspace_that_is_given_is_used_as_far_as_it_goes(room, used):
    gpu, case = Gpu(), Case(None)
    workspace = placed(np.zeros(room, np.uint8))
    products.prepare(gpu, case.product, workspace=workspace)()
    case.check()
    assert gpu.allocated == 0
    assert workspace.values.any() == used


def test_a_plan_that_needs_workspace_is_not_used_where_there_is_less():
    gpu = Gpu()
    for room in (WORKSPACE_BYTES, WORKSPACE_BYTES - 256):
        case = Case(None)
        workspace = placed(np.zeros(room, np.uint8))
        products.prepare(gpu, case.product, workspace=workspace)()
        case.check()
    assert not workspace.values.any()


@pytest.mark.parametrize("offset", [4, 16, 128])
@pytest.mark.parametrize("name", ["a", "b", "out"])
def test_arrays_at_any_address_find_an_algorithm_of_their_own(name, offset):
    gpu, case = Gpu(), Case("bias")
    moved = {name: placed(getattr(case.product, name).values, offset)}
    for product in (case.product, case.product._replace(**moved), case.product):
        products.prepare(gpu, product)()
        np.testing.assert_allclose(product.out.values, case.expected, 0, case.tolerance)


def test_a_plan_serves_arrays_at_other_addresses():
    gpu = Gpu()
    cases = [Case("bias"), Case("bias")]
    calls = [products.prepare(gpu, case.product) for case in cases]
    found = len(gpu.cp.cublaslt._found)
    for case, call in zip(cases, calls, strict=True):
        call()
        case.check()
    assert found == 1


# --- nothing to multiply, and what does not fit --------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (5, 4, 0)])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_empty_operands_are_left_to_cupy(shape, precision):
    gpu, case = Gpu(), of_shape(None, shape)
    products.prepare(gpu, case.product, precision)()
    assert len(gpu.multiplied) == 1 and gpu.layers.reasons == []
    assert not case.out.values.any()


def replaced(**changes):
    product = Case("bias").product
    return product._replace(**changes)


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (replaced(out=nans(40, 34)), r"\(40, 96\) and \(96, 33\) does not fit out of shape"),
        (replaced(transpose_a=True), r"\(40, 96\)ᵀ and \(96, 33\) does not fit"),
        (replaced(b=nans(96, 33, dtype="float64")), "b is float64, all must be"),
        (
            replaced(epilogue=Epilogue("bias", bias=nans(32))),
            r"bias of 'bias' must have shape \(33,\)",
        ),
        (replaced(epilogue=Epilogue("bias_relu")), "bias of 'bias_relu' must have shape"),
        (replaced(epilogue=Epilogue("bias_grad")), "bias_grad of 'bias_grad' must have shape"),
        (
            replaced(epilogue=Epilogue("drelu_bias_grad", bias_grad=nans(33), mask=nans(40, 32))),
            r"mask of 'drelu_bias_grad' must have shape \(40, 33\)",
        ),
        (
            replaced(
                b=nans(33, 96), transpose_b=True, epilogue=Epilogue("bias_grad", bias_grad=nans(33))
            ),
            "sums columns of b, not transposed",
        ),
        (replaced(a=nans(96, 40).T), "a must be C-contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(product, message):
    with pytest.raises(BackendError, match=message):
        products.prepare(Gpu(), product)


def test_bits_of_bfloat16_are_no_numbers():
    arrays = [placed(np.ones((4, 4), np.uint16)) for _ in range(3)]
    with pytest.raises(BackendError, match="must be float32 or float64"):
        products.prepare(Gpu(lt=False), Product(*arrays))
