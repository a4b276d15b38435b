"""The elementary functions: errors in ulps, special values, packed instructions."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import mpmath
import numba
import numpy as np
import pytest
import scipy.special

from nnkernels.backends.numba.kernels import mathematics

FLAGS = {"nsz", "arcp", "contract", "afn", "reassoc"}
"""What a caller allows LLVM for its own instructions."""

NAMES = sorted(mathematics.ULPS)
TYPES = [np.float32, np.float64]
each_name = pytest.mark.parametrize("name", NAMES)
each_type = pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.__name__)

IN_DOUBLE = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "logistic": scipy.special.expit,
    "erfc": scipy.special.erfc,
}
EXACT = {
    "exp": mpmath.exp,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "tanh": mpmath.tanh,
    "logistic": lambda x: 1 / (1 + mpmath.exp(-x)),
    "erfc": mpmath.erfc,
}
DOMAIN = {  # of float64 arguments whose results are finite and normal
    "exp": (-708.39, 709.78),
    "expm1": (-40.0, 709.78),
    "log": (5e-324, 1.7e308),
    "log1p": (-0.9999999999999999, 1e300),
    "tanh": (-25.0, 25.0),
    "logistic": (-708.39, 40.0),
    "erfc": (-7.0, 26.54),
}

Loop = Callable[[np.ndarray, np.ndarray], None]


@functools.cache
def loop_of(function: Callable[[float], float]) -> Loop:
    """A compiled loop that applies ``function`` to every element."""

    @numba.njit(fastmath=FLAGS, error_model="numpy", nogil=True)
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return loop


def applied(function: Callable[[float], float], x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    loop_of(function)(x, out)
    return out


def named(name: str) -> Callable[[float], float]:
    return getattr(mathematics, name)


@dataclasses.dataclass
class Errors:
    """The worst that was seen.

    Attributes:
        ulps: Error in ulps where the exact result is a normal number.
        subnormal: Error in smallest normal numbers where it is a subnormal one.
        wrong: An argument of a NaN or an infinity that should not be, or of one that is missing.
    """

    ulps: float = 0.0
    subnormal: float = 0.0
    wrong: float | None = None

    def __or__(self, other: Errors) -> Errors:
        wrong = other.wrong if self.wrong is None else self.wrong
        return Errors(max(self.ulps, other.ulps), max(self.subnormal, other.subnormal), wrong)


TINY = float(np.finfo(np.float32).tiny)
EPSILON = float(np.finfo(np.float32).eps)
OVERFLOW = float(np.finfo(np.float32).max) * (1 + EPSILON / 4)
"""From here on, a float64 is rounded to an infinite float32."""


@numba.njit(nogil=True, error_model="numpy")
def compare(got, exact, power):
    """Errors of normal and of subnormal results, and the last place that is wrong or -1.

    ``power`` holds the powers of two at or below the exact results.
    """
    ulps, subnormal, wrong = 0.0, 0.0, -1
    for i in range(got.size):
        result, size, error = float(got[i]), abs(exact[i]), abs(got[i] - exact[i])
        if size < OVERFLOW:
            right = error < np.inf
            if size < TINY:
                subnormal = max(subnormal, error / TINY)
            else:
                ulps = max(ulps, error / (power[i] * EPSILON))
        elif size == size:
            right = abs(result) == np.inf and result * exact[i] > 0
        else:
            right = result != result
        if not right:
            wrong = i
    return ulps, subnormal, wrong


def errors_of(x: np.ndarray, got: np.ndarray, exact: np.ndarray) -> Errors:
    """Compare float32 results with float64 ones."""
    power = (exact.view(np.int64) & np.float64(np.inf).view(np.int64)).view(np.float64)
    ulps, subnormal, wrong = compare(got, exact, power)
    return Errors(ulps, subnormal, None if wrong < 0 else float(x[wrong]))


def check(name: str, worst: Errors) -> None:
    assert worst.wrong is None
    assert worst.ulps <= mathematics.ULPS[name][0]
    assert worst.subnormal < 1


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
    limits = [88.7228391, -87.3365448, -103.972, 9.1945, 9.345, 10.054, -0.5, 2.0**-24, 1.0]
    centres = np.concatenate([steps, np.sqrt(np.abs(steps)), np.sqrt(2) * 2.0 ** np.arange(-9, 9)])
    centres = np.concatenate([centres, limits]).astype(np.float32)
    centres = np.concatenate([centres, -centres])
    offsets = np.arange(-64, 65, dtype=np.int32)
    return (centres.view(np.int32)[:, None] + offsets).view(np.float32).ravel()


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return np.concatenate([every_exponent(), neighbourhoods()])


@each_name
def test_float32_sample(name, sample):
    with np.errstate(all="ignore"):
        exact = IN_DOUBLE[name](sample.astype(np.float64))
    check(name, errors_of(sample, applied(named(name), sample), exact))


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


def ulps_of_doubles(name: str, x: np.ndarray, got: np.ndarray) -> Iterator[float]:
    for argument, result in zip(x.tolist(), got.tolist(), strict=True):
        exact = EXACT[name](mpmath.mpf(argument))
        _, exponent = mpmath.frexp(exact)
        yield float(abs(mpmath.mpf(result) - exact) * mpmath.mpf(2) ** (53 - exponent))


@each_name
def test_float64_sample(name):
    x = doubles(name, 1500)
    with mpmath.workprec(160):
        assert max(ulps_of_doubles(name, x, applied(named(name), x))) <= mathematics.ULPS[name][1]


def errors_of_part(loop: Loop, part: int) -> Errors:
    """Compare the results of a 256th of all float32 numbers with those of the float64 function."""
    worst, count = Errors(), 1 << 15
    got, exact = np.empty(count, np.float32), np.empty(count, np.float64)
    for start in range(part << 24, (part + 1) << 24, count):
        x = np.arange(start, start + count, dtype=np.uint32).view(np.float32)
        with np.errstate(invalid="ignore"):
            loop(x.astype(np.float64), exact)
        loop(x, got)
        worst |= errors_of(x, got, exact)
    return worst


@pytest.mark.slow
@each_name
def test_every_float32(name):
    """The reference is the float64 function, which other tests compare with exact values."""
    loop = loop_of(named(name))
    with ThreadPoolExecutor(2) as threads:
        for worst in threads.map(functools.partial(errors_of_part, loop), range(256)):
            check(name, worst)


LIMITS = {
    "exp": [(-np.inf, 0.0), (np.inf, np.inf), (0.0, 1.0), (-1e30, 0.0), (1e30, np.inf)],
    "expm1": [(-np.inf, -1.0), (np.inf, np.inf), (0.0, 0.0), (-0.0, -0.0), (-1e30, -1.0)],
    "log": [(0.0, -np.inf), (-0.0, -np.inf), (np.inf, np.inf), (-1.0, np.nan), (1.0, 0.0)],
    "log1p": [(-1.0, -np.inf), (np.inf, np.inf), (-1.5, np.nan), (0.0, 0.0), (-0.0, -0.0)],
    "tanh": [(-np.inf, -1.0), (np.inf, 1.0), (0.0, 0.0), (-0.0, -0.0), (30.0, 1.0)],
    "logistic": [(-np.inf, 0.0), (np.inf, 1.0), (0.0, 0.5), (-1e30, 0.0), (50.0, 1.0)],
    "erfc": [(-np.inf, 2.0), (np.inf, 0.0), (0.0, 1.0), (-0.0, 1.0), (-7.0, 2.0), (1e30, 0.0)],
}


@each_type
@each_name
def test_special_values(name, dtype):
    arguments, limits = zip(*LIMITS[name], (np.nan, np.nan), (-np.nan, np.nan), strict=True)
    got = applied(named(name), np.array(arguments, dtype))
    np.testing.assert_array_equal(got, np.array(limits, dtype))
    numbers = ~np.isnan(got)
    np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(limits)[numbers])


@pytest.mark.parametrize("dtype, x", [(np.float32, 88.7), (np.float64, 709.7)])
def test_exp_just_below_overflow(dtype, x):
    x = np.array([x, -x], dtype)
    got = applied(mathematics.exp, x)
    np.testing.assert_allclose(got[0], np.exp(x[0]), rtol=3 * np.finfo(dtype).eps)
    np.testing.assert_allclose(got[1], np.exp(x[1]), rtol=0, atol=np.finfo(dtype).tiny)


@each_type
def test_log_of_subnormal_numbers(dtype):
    x = np.finfo(dtype).smallest_subnormal * np.array([1, 2, 3, 1000, 4097], dtype)
    got = applied(mathematics.log, x)
    np.testing.assert_allclose(got, np.log(x), rtol=2 * np.finfo(dtype).eps)


def softmax_term(x):
    return mathematics.exp(x - x) * mathematics.exp(x) * x / (mathematics.exp(x) + x)


def swish(x):
    return x * mathematics.logistic(x)


def gelu(x):
    return x * mathematics.erfc(-x) / 2


def softplus(x):
    return mathematics.log1p(mathematics.exp(-abs(x))) + max(x, x - x)


def tanh_slope(x):
    return 1 - mathematics.tanh(x) * mathematics.tanh(x)


def entropy(x):
    return abs(mathematics.log(x) * x) + mathematics.expm1(x) * x


def in_double(name: str) -> Callable[[np.ndarray], np.ndarray]:
    e = IN_DOUBLE
    return {
        "softmax_term": lambda x: e["exp"](x) * x / (e["exp"](x) + x),
        "swish": lambda x: x * e["logistic"](x),
        "gelu": lambda x: x * e["erfc"](-x) / 2,
        "softplus": lambda x: e["log1p"](e["exp"](-abs(x))) + np.maximum(x, 0),
        "tanh_slope": lambda x: 1 - e["tanh"](x) ** 2,
        "entropy": lambda x: abs(e["log"](x) * x) + e["expm1"](x) * x,
    }[name]


COMPOSED = [softmax_term, swish, gelu, softplus, tanh_slope, entropy]


@pytest.mark.parametrize("function", COMPOSED, ids=lambda f: f.__name__)
def test_inside_a_kernel_that_may_reassociate(function):
    """The caller's licences are for its own instructions."""
    compiled = numba.njit(fastmath=FLAGS, error_model="numpy")(function)
    x = np.linspace(0.01, 8, 100_001).astype(np.float32)
    got, exact = applied(compiled, x), in_double(function.__name__)(x.astype(np.float64))
    slack = 2.0**-24 if function is tanh_slope else 0.0
    np.testing.assert_allclose(got, exact, rtol=12 * 2.0**-24, atol=slack * 12)
    assert np.isnan(applied(compiled, np.array([np.nan], np.float32))).all()


@each_type
@each_name
def test_loop_is_packed_and_calls_nothing(name, dtype):
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    compiled = numba.njit(fastmath=FLAGS, error_model="numpy", **alone)(
        loop_of(named(name)).py_func
    )
    element = numba.from_dtype(np.dtype(dtype))
    compiled.compile((element[::1], element[::1]))
    (code,) = compiled.inspect_llvm().values()
    word = "float" if dtype is np.float32 else "double"
    assert re.search(rf"fmul contract <\d+ x {word}>", code)
    called = set(re.findall(r"\bcall [^@\n]*@(?:\"([^\"]*)\"|([\w.$]+))", code))
    assert all("".join(c).startswith(("llvm.", "NRT_")) for c in called), called


@each_type
@pytest.mark.parametrize("name, field", [("exp", "exp_tail"), ("tanh", "expm1_tail")])
def test_a_wrong_coefficient_is_found(name, field, dtype):
    """A change of 1e-5 in one coefficient leaves the bound."""
    right = mathematics._FORMATS[np.finfo(dtype).bits]
    first, second, *others = getattr(right, field)
    wrong = dataclasses.replace(right, **{field: (first, second + 1e-5, *others)})
    build = getattr(mathematics, f"_build_{name}")
    x = np.linspace(0.05, 0.3, 10_001).astype(dtype)
    worst = [
        np.max(
            np.abs(
                applied(mathematics._compiled(build(f)), x) / IN_DOUBLE[name](x.astype(float)) - 1
            )
        )
        for f in (right, wrong)
    ]
    assert worst[0] < 4 * np.finfo(dtype).eps < worst[1]


def test_other_types_are_refused():
    with pytest.raises(numba.TypingError):
        applied(mathematics.exp, np.arange(3))


def test_interpreted_call_is_refused():
    with pytest.raises(TypeError, match="compiled by Numba"):
        mathematics.exp(1.0)
