"""Kernels that NVRTC compiled, against NumPy."""

import os

import numpy as np
import pytest

from nnkernels.testing.ptx import Fault, Kind, Module, Statistics, run

SOURCE = r"""
#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)
#define MAP(name, type, expression)                                                      \
  extern "C" __global__ void name(const type* __restrict__ x, type* y, unsigned n) {     \
    const unsigned i = INDEX;                                                            \
    if (i < n) { const type v = x[i]; y[i] = expression; }                               \
  }
MAP(exp_f, float, expf(v))
MAP(log_f, float, logf(v))
MAP(tanh_f, float, tanhf(v))
MAP(sin_f, float, sinf(v))
MAP(third_f, float, v / 3.0f)
MAP(exp_d, double, exp(v))
MAP(log_d, double, log(v))
MAP(pow_d, double, pow(v, 1.7))
MAP(erfc_d, double, erfc(v))
MAP(cos_d, double, cos(v))
MAP(round_d, double, round(v))
MAP(third_d, double, v / 3.0)

extern "C" __global__ void __launch_bounds__(256)
row_sums(const float* __restrict__ x, float* __restrict__ y, unsigned columns) {
  __shared__ float parts[8];
  float sum = 0.f;
  for (unsigned c = threadIdx.x; c < columns; c += blockDim.x)
    sum += x[(size_t)blockIdx.x * columns + c];
  for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = sum;
  BARRIER
  if (threadIdx.x == 0) {
    for (unsigned w = 1; w < blockDim.x / 32; ++w) sum += parts[w];
    y[blockIdx.x] = sum;
  }
}

extern "C" __global__ void halves(const unsigned short* x, unsigned short* y) {
  float f;
  unsigned short r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x[threadIdx.x]));
  f = f * 1.5f + 1.0f;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(f));
  y[threadIdx.x] = r;
}

__device__ __noinline__ float polynomial(float x, const float* c, int degree) {
  float y = 0.f;
  for (int k = degree; k >= 0; --k) y = y * x + c[k];
  return y;
}
extern "C" __global__ void polynomials(const float* x, const float* c, float* y, int degree) {
  y[threadIdx.x] = polynomial(x[threadIdx.x], c, degree) + polynomial(1.f, c, 2);
}

extern "C" __global__ void copy4(const float4* __restrict__ x, float4* __restrict__ y, unsigned n) {
  for (unsigned i = INDEX; i < n; i += gridDim.x * blockDim.x) y[i] = x[i];
}

extern "C" __global__ void pick(const int* x, float* y, int k) {
  float local[16];
  for (int n = 0; n < 16; ++n) local[n] = x[n] * 2.f;
  y[threadIdx.x] = local[(threadIdx.x + k) & 15];
}
"""


def ptx(source: str, architecture: str = "compute_75") -> str:
    """What NVRTC makes of a source; skips, or fails where the ladder is asked for."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # whatever an installation without NVRTC raises
        if os.environ.get("NNKERNELS_LADDER") == "1":
            raise
        pytest.skip(f"NVRTC is not installed ({type(error).__name__})")
    program = nvrtc.createProgram(source, "kernels.cu", [], [])
    nvrtc.compileProgram(program, (f"-arch={architecture}", "--std=c++17", "-ftz=true"))
    text = nvrtc.getPTX(program)
    return text if isinstance(text, str) else text.decode()


@pytest.fixture(scope="module", params=["compute_75", "compute_90"])
def module(request):
    return Module(ptx(SOURCE.replace("BARRIER", "__syncthreads();"), request.param))


X = np.concatenate([np.random.default_rng(4).normal(size=900) * 4, [0, 1, -1, 20, -20, 88, 1e-3]])
MAPS = {
    "exp_f": (np.exp, 2),
    "log_f": (np.log, 1),
    "tanh_f": (np.tanh, 2),
    "sin_f": (np.sin, 2),
    "third_f": (lambda v: v / 3, 0.5),
    "exp_d": (np.exp, 1),
    "log_d": (np.log, 1),
    "pow_d": (lambda v: np.power(v, 1.7), 2),
    "cos_d": (np.cos, 1.5),
    "third_d": (lambda v: v / 3, 0),
    "round_d": (lambda v: np.copysign(np.floor(np.abs(v) + 0.5), v), 0),
}


@pytest.mark.parametrize("name", MAPS)
def test_functions_of_cuda(device, module, name):
    function, units = MAPS[name]
    dtype = "f4" if name.endswith("f") else "f8"
    x = X.astype(dtype)
    y = device.empty(x.size, dtype)
    run(module[name], device.memory, 4, 256, (device.put(x), y, x.size))
    found = device.get(y, x.size, dtype).astype("f8")
    with np.errstate(all="ignore"):
        want = function(x.astype("f8"))
        want[np.abs(want) < np.finfo(dtype).tiny] = 0
        error = np.abs(found - want) / np.spacing(np.abs(want).astype(dtype)).astype("f8")
    assert np.array_equal(np.isnan(found), np.isnan(want))
    assert np.nanmax(np.where(np.isfinite(want), error, 0)) <= units


def test_error_function_of_float64(device, module):
    special = pytest.importorskip("scipy.special")
    x = X[np.abs(X) < 20]
    y = device.empty(x.size, "f8")
    run(module["erfc_d"], device.memory, 4, 256, (device.put(x), y, x.size))
    np.testing.assert_allclose(device.get(y, x.size, "f8"), special.erfc(x), rtol=3e-14)


@pytest.mark.parametrize("block", [32, 128, 256])
@pytest.mark.parametrize("columns", [1, 33, 1000])
def test_row_sums(device, module, block, columns):
    x = np.random.default_rng(columns).normal(size=(5, columns)).astype("f4")
    y = device.empty(5, "f4")
    run(module["row_sums"], device.memory, 5, block, (device.put(x), y, columns))
    np.testing.assert_allclose(device.get(y, 5, "f4"), x.sum(1, dtype="f8"), rtol=1e-5, atol=1e-5)


def test_a_missing_barrier_is_a_race(device):
    broken = Module(ptx(SOURCE.replace("BARRIER", "")))
    x, y = device.put(np.ones(512, "f4")), device.empty(2, "f4")
    run(broken["row_sums"], device.memory, 2, 32, (x, y, 256))
    with pytest.raises(Fault) as caught:
        run(broken["row_sums"], device.memory, 2, 256, (x, y, 256))
    assert caught.value.kind is Kind.SHARED_RACE


def test_halves(device, module):
    x = np.linspace(-40, 40, 64).astype("f2")
    y = device.empty(64, "f2")
    run(module["halves"], device.memory, 1, 64, (device.put(x), y))
    want = (x.astype("f4") * np.float32(1.5) + np.float32(1)).astype("f2")
    assert np.array_equal(device.get(y, 64, "f2"), want)


def test_functions_that_are_not_inlined(device, module):
    x, c = np.linspace(-1, 1, 32).astype("f4"), np.array([1, -2, 0.5, 3], "f4")
    y = device.empty(32, "f4")
    run(module["polynomials"], device.memory, 1, 32, (device.put(x), device.put(c), y, 3))
    want = np.polyval(c[::-1].astype("f8"), x) + c[:3].sum()
    np.testing.assert_allclose(device.get(y, 32, "f4"), want, rtol=1e-5, atol=1e-6)


def test_local_arrays(device, module):
    y = device.empty(32, "f4")
    arguments = (device.put(np.arange(16, dtype="i4")), y, 3)
    run(module["pick"], device.memory, 1, 32, arguments)
    assert device.get(y, 32, "f4").tolist() == [2 * ((t + 3) % 16) for t in range(32)]


def test_vector_copies_are_ideal(device, module):
    x = np.arange(4 * 1000, dtype="f4")
    y = device.empty(x.size, "f4")
    seen = run(
        module["copy4"], device.memory, 3, 256, (device.put(x), y, 1000), statistics=Statistics()
    )
    assert np.array_equal(device.get(y, x.size, "f4"), x)
    assert seen.loads.sectors == seen.loads.ideal == 500 and set(seen.loads.widths) == {16}
    assert seen.stores == seen.loads
