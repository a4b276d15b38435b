"""The elementary functions of ``csrc/host``: errors in ulps, special values."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.special

ROOT = Path(__file__).parents[3]
VARIANTS = ["avx512", "avx2", "baseline"]

ULPS = {
    "exp": (2, 2),
    "expm1": (2, 2.5),
    "log": (1, 1.5),
    "log1p": (1.5, 2),
    "tanh": (3, 3),
    "logistic": (3, 3),
    "erfcx": (4, 4),
}
"""Bounds in ulps of float32 and float64, which ``mathematics.h`` and ``docs/native.md`` state."""

EXACT = {
    "exp": mpmath.exp,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "tanh": mpmath.tanh,
    "logistic": lambda x: 1 / (1 + mpmath.exp(-x)),
    "erfcx": lambda x: mpmath.exp(x * x) * mpmath.erfc(x),
}
IN_DOUBLE = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "logistic": scipy.special.expit,
    "erfcx": scipy.special.erfcx,
}
DOMAIN = {  # of float64 arguments whose results are finite and normal
    "exp": (-708.39, 709.78),
    "expm1": (-40.0, 709.78),
    "log": (5e-324, 1.7e308),
    "log1p": (-0.9999999999999999, 1e300),
    "tanh": (-25.0, 25.0),
    "logistic": (-708.39, 40.0),
    "erfcx": (0.0, 1e300),
}

each_name = pytest.mark.parametrize("name", ULPS)
each_type = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])

Function = Callable[[np.ndarray], np.ndarray]


class Worst(ctypes.Structure):
    """What ``mathematics.cpp`` gathers."""

    _fields_ = [
        ("ulps", ctypes.c_double),
        ("subnormal", ctypes.c_double),
        ("wrong", ctypes.c_int64),
    ]


class Mathematics:
    """The functions, compiled as the kernels of an instruction set."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self.fused = bool(self._library.fused())

    def applied(self, name: str, x: np.ndarray) -> np.ndarray:
        x, out = np.ascontiguousarray(x), np.empty_like(x)
        function = self._library[f"{name}_{x.dtype.name}"]
        function.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        function(x.size, x.ctypes.data, out.ctypes.data)
        return out

    def worst(self, name: str, first: int, last: int) -> Worst:
        """Of the float32 results for arguments of these bits, against the float64 ones."""
        function = self._library[f"{name}_worst"]
        function.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(Worst)]
        found = Worst(wrong=-1)
        function(first, last, found)
        return found


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Callable[[str], Mathematics]:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no CMake or no compiler")
    folder = tmp_path_factory.mktemp("mathematics")
    settings = ("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CUDA_COMPILER=NOTFOUND")
    run("cmake", "-S", str(ROOT), "-B", str(folder), *settings)

    @functools.cache
    def built(variant: str) -> Mathematics:
        run("cmake", "--build", str(folder), "--target", f"mathematics_{variant}")
        return Mathematics(folder / f"mathematics_{variant}.so")

    return built


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session", params=VARIANTS)
def mathematics(request, build, native_on) -> Mathematics:
    native_on(request.param)  # whether this processor runs it
    return build(request.param)


def every_exponent(count: int = 2048) -> np.ndarray:
    """Float32 numbers of every exponent and both signs, the ends and ``count`` between."""
    random = np.random.default_rng(1)
    mantissa = random.integers(0, 1 << 23, size=(512, count), dtype=np.uint32)
    mantissa[:, :4] = 0, 1, (1 << 23) - 2, (1 << 23) - 1
    return (mantissa | (np.arange(512, dtype=np.uint32) << 23)[:, None]).view(np.float32).ravel()


def neighbourhoods() -> np.ndarray:
    """Float32 numbers around those where an exponent, a clamp or a limit changes."""
    ln2 = np.log(2)
    steps = np.arange(-300, 301) * ln2 / 2
    limits = [88.7228391, -87.3365448, -103.972, 9.1945, 9.4, 10.054, -0.5, 2.0**-24, 1.0]
    centres = np.concatenate([steps, np.sqrt(np.abs(steps)), np.sqrt(2) * 2.0 ** np.arange(-9, 9)])
    centres = np.concatenate([centres, limits]).astype(np.float32)
    centres = np.concatenate([centres, -centres])
    offsets = np.arange(-64, 65, dtype=np.int32)
    return (centres.view(np.int32)[:, None] + offsets).view(np.float32).ravel()


def in_domain(name: str, x: np.ndarray) -> np.ndarray:
    """Without what the function is not made for: erfcx of negative numbers."""
    return x[~(x < 0)] if name == "erfcx" else x


@each_name
def test_float32_sample(name, mathematics):
    x = in_domain(name, np.concatenate([every_exponent(), neighbourhoods()]))
    with np.errstate(all="ignore"):
        exact = IN_DOUBLE[name](x.astype(float))
        rounded = exact.astype(np.float32)
        got = mathematics.applied(name, x).astype(float)
        tiny, epsilon = np.finfo(np.float32).tiny, np.finfo(np.float32).eps
        unit = epsilon * 2.0 ** np.floor(np.log2(np.abs(exact)))
        normal = np.isfinite(rounded) & (np.abs(exact) >= tiny)
        subnormal = np.abs(exact) < tiny
        error = np.abs(got - exact)
    limits = ~np.isfinite(rounded)
    np.testing.assert_array_equal(got[limits], rounded[limits])
    assert np.max(error[normal] / unit[normal]) <= ULPS[name][0]
    assert np.max(error[subnormal], initial=0) < tiny


def doubles(name: str, count: int) -> np.ndarray:
    """Arguments over the domain, around 0 and 1, and of every size."""
    random = np.random.default_rng(2)
    low, high = DOMAIN[name]
    sizes = 10.0 ** random.uniform(-300, 300, count) * random.choice([-1, 1], count)
    small = 10.0 ** random.uniform(-17, 1.5, count) * random.choice([-1, 1], count)
    spread = random.uniform(max(low, -750), min(high, 750), count)
    near = random.uniform(-3, 3, count)
    x = np.concatenate([sizes, small, 1 + small, spread, near, [low, high]])
    return x[(low <= x) & (x <= high)]


def exact_erfcx(x: mpmath.mpf) -> mpmath.mpf:
    """Where erfc is too small for a float's exponent, its asymptotic series is exact enough."""
    if x < 100:
        return EXACT["erfcx"](x)
    half, series = 1 / (2 * x * x), mpmath.mpf(1)
    for odd in range(11, 0, -2):
        series = 1 - odd * half * series
    return series / (x * mpmath.sqrt(mpmath.pi))


@each_name
def test_float64_sample(name, mathematics):
    x = doubles(name, 1500)
    got = mathematics.applied(name, x)
    exact_of = exact_erfcx if name == "erfcx" else EXACT[name]
    worst = 0.0
    with mpmath.workprec(160):
        for argument, result in zip(x.tolist(), got.tolist(), strict=True):
            exact = exact_of(mpmath.mpf(argument))
            _, exponent = mpmath.frexp(exact)
            error = abs(mpmath.mpf(result) - exact) * mpmath.mpf(2) ** (53 - exponent)
            worst = max(worst, float(error))
    assert worst <= ULPS[name][1]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@each_name
def test_every_float32(name, mathematics):
    """The reference is the float64 function, which the test above compares with exact values."""
    step = 1 << 24
    parts = range(128 if name == "erfcx" else 256)
    with ThreadPoolExecutor(2) as threads:
        found = list(
            threads.map(lambda p: mathematics.worst(name, p * step, (p + 1) * step), parts)
        )
    assert {worst.wrong for worst in found} == {-1}
    assert max(worst.ulps for worst in found) <= ULPS[name][0]
    assert max(worst.subnormal for worst in found) < 1


LIMITS = {
    "exp": [(-np.inf, 0.0), (np.inf, np.inf), (0.0, 1.0), (-1e30, 0.0), (1e30, np.inf)],
    "expm1": [(-np.inf, -1.0), (np.inf, np.inf), (0.0, 0.0), (-0.0, -0.0), (-1e30, -1.0)],
    "log": [(0.0, -np.inf), (-0.0, -np.inf), (np.inf, np.inf), (-1.0, np.nan), (1.0, 0.0)],
    "log1p": [(-1.0, -np.inf), (np.inf, np.inf), (-1.5, np.nan), (0.0, 0.0), (-0.0, -0.0)],
    "tanh": [(-np.inf, -1.0), (np.inf, 1.0), (0.0, 0.0), (-0.0, -0.0), (30.0, 1.0)],
    "logistic": [(-np.inf, 0.0), (np.inf, 1.0), (0.0, 0.5), (-1e30, 0.0), (50.0, 1.0)],
    "erfcx": [(0.0, 1.0), (-0.0, 1.0), (np.inf, 0.0)],
}


@each_type
@each_name
def test_special_values(name, dtype, mathematics):
    arguments, limits = zip(*LIMITS[name], (np.nan, np.nan), (-np.nan, np.nan), strict=True)
    got = mathematics.applied(name, np.array(arguments, dtype))
    np.testing.assert_array_equal(got, np.array(limits, dtype))
    numbers = ~np.isnan(got)
    np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(limits)[numbers])


@each_type
def test_log_of_subnormal_numbers(dtype, mathematics):
    x = np.finfo(dtype).smallest_subnormal * np.array([1, 2, 3, 1000, 4097], dtype)
    got = mathematics.applied("log", x)
    np.testing.assert_allclose(got, np.log(x), rtol=2 * np.finfo(dtype).eps)


def test_variants_without_fma_are_the_unfused_ones(build, native_on):
    assert not build("baseline").fused
    for variant in ("avx512", "avx2"):
        native_on(variant)
        assert build(variant).fused
