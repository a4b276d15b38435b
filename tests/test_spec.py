"""Declaring operators: what is read from a reference, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnkernels import ops, spec
from nnkernels.errors import InputError, UnknownNameError
from nnkernels.spec import OPERATORS, Array, Cost, Error, get_op, op


@pytest.fixture
def registry():
    """Operators declared in the test are forgotten after it."""
    before = dict(OPERATORS)
    yield OPERATORS
    OPERATORS.clear()
    OPERATORS.update(before)


def declare_scaled():
    @op(
        "(...),(...)->big(...),small(...)",
        error=Error(2),
        cost=Cost(3),
        saves=("x", "big"),
        limits={"rate": "(0,1]", "mode": ("soft", "hard")},
        covers=("relu", "$mode"),
    )
    def scaled(
        x: Array,
        w: Array,
        *,
        rate: float,
        flag: bool = False,
        count: int = 2,
        mode: str = "soft",
        out: Array | None = None,
    ) -> tuple[Array, Array]:
        """A declaration with everything."""
        return x * rate, w * count

    return scaled


# --- what is read from the reference -----------------------------------------------------------


def test_name_inputs_and_parameters_come_from_the_reference(registry):
    scaled = declare_scaled()
    assert (scaled.name, scaled.inputs) == ("scaled", ("x", "w"))
    assert list(scaled.params) == ["rate", "flag", "count", "mode"]
    assert (scaled.params["count"], scaled.params["flag"]) == (2, False)
    assert scaled.params["rate"] is spec.REQUIRED
    assert scaled.__doc__ == "A declaration with everything."
    assert registry["scaled"] is scaled is get_op("scaled")
    assert repr(scaled) == "<operator scaled>"


def test_results_are_named_by_the_signature(registry):
    scaled = declare_scaled()
    assert scaled.result_names(scaled.signatures({})[0]) == ("big", "small")
    assert get_op("relu").result_names(get_op("relu").signatures({})[0]) == ("y",)
    adam = get_op("adam")
    assert adam.result_names(adam.signatures({})[0]) == adam.updates != ()


def test_evaluating_gives_a_tuple_of_arrays(registry):
    big, small = declare_scaled().evaluate(np.ones(2), np.ones(2), rate=0.5)
    assert (big.tolist(), small.tolist()) == ([0.5, 0.5], [2.0, 2.0])
    (only,) = get_op("relu").evaluate(np.float64(-1.0))
    assert isinstance(only, np.ndarray) and only == 0


def test_covered_operators_may_be_named_by_a_parameter(registry):
    assert declare_scaled().covered({"mode": "hard"}) == ("relu", "hard")


def test_flops_are_counted_by_element_or_by_a_formula(registry):
    assert declare_scaled().flops({}, 10) == 30
    assert get_op("matmul").flops({"m": 2, "n": 3, "k": 5}, 6) == 60


def test_the_derivative_knows_what_it_differentiates(registry):
    scaled = declare_scaled()

    @scaled.backward(signature="(...),(...),(...)->(...)", error=Error(1), wrt=("w",))
    def scaled_backward(grad: Array, x: Array, big: Array, *, rate: float) -> Array:
        """Some gradient."""
        return grad * rate

    assert scaled.derivative is scaled_backward
    assert scaled.wrt == ("w",)
    assert scaled_backward.limits == scaled.limits
    assert get_op("matmul").wrt == ("a", "b")
    assert get_op("argmax").wrt == ()


# --- what is refused ---------------------------------------------------------------------------


def test_one_name_is_declared_once(registry):
    declare_scaled()
    with pytest.raises(InputError, match="'scaled' is declared twice"):
        declare_scaled()


def wrong_name(grad: Array, x: Array, big: Array) -> Array:
    """Not called ``scaled_backward``."""
    return grad


def scaled_backward(grad: Array, big: Array, x: Array) -> Array:
    """The saved values in the wrong order."""
    return grad


@pytest.mark.parametrize("reference", [wrong_name, scaled_backward])
def test_a_derivative_is_named_and_fed_as_agreed(registry, reference):
    scaled = declare_scaled()
    with pytest.raises(InputError, match=r"expected scaled_backward\('grad', 'x', 'big'\)"):
        scaled.backward(signature="(...),(...),(...)->(...)", error=Error(1))(reference)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "parameter 'rate' is required"),
        ({"rate": 0.5, "cuont": 1}, "'cuont'. Did you mean 'count'"),
        ({"rate": 0}, r"rate must lie in \(0,1\], got 0"),
        ({"rate": 1.5}, r"rate must lie in \(0,1\], got 1.5"),
        ({"rate": math.nan}, r"rate must lie in \(0,1\], got nan"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"rate": "0.5"}, "rate must be a number, got '0.5'"),
        ({"rate": np.ones(1)}, "rate must be a number"),
        ({"rate": None}, "rate must be a number, got None"),
        ({"rate": 10**400}, "rate is beyond the range of float64"),
        ({"rate": 0.5, "flag": 1}, "flag must be True or False, got 1"),
        ({"rate": 0.5, "flag": "no"}, "flag must be True or False, got 'no'"),
        ({"rate": 0.5, "count": 2.0}, "count must be a whole number, got 2.0"),
        ({"rate": 0.5, "count": True}, "count must be a whole number, got True"),
        ({"rate": 0.5, "mode": "sofd"}, "'sofd'. Did you mean 'soft'"),
        ({"rate": 0.5, "mode": 3}, "mode must be a text, got 3"),
        ({"rate": 0.5, "mode": ["soft"]}, "mode must be a text"),
    ],
)
def test_bad_parameters_are_refused(registry, given, message):
    with pytest.raises(InputError, match=message) as caught:
        declare_scaled().full_params(given)
    assert "scaled" in str(caught.value)


def test_good_parameters_become_plain_python_values(registry):
    given = {"rate": np.float64(0.5), "flag": np.True_, "count": np.int64(3), "mode": "hard"}
    full = declare_scaled().full_params(given)
    assert full == {"rate": 0.5, "flag": True, "count": 3, "mode": "hard"}
    assert [type(v) for v in full.values()] == [float, bool, int, str]


def test_a_numpy_scalar_parameter_does_not_change_the_result():
    x = np.linspace(-3, 3, 7, dtype="float32")
    for rate in (np.float64(0.1), np.float32(0.1)):
        expected = ops.leaky_relu(x, slope=float(rate))
        assert np.array_equal(ops.leaky_relu(x, slope=rate), expected)


def test_an_unknown_operator_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'sigmiod'\. Did you mean 'sigmoid'"):
        get_op("sigmiod")


@pytest.mark.parametrize("name", [None, 3, ["relu"], b"relu"])
def test_an_operator_is_named_by_a_text(name):
    with pytest.raises(InputError, match="must be a text"):
        get_op(name)


def test_operators_need_the_dispatcher():
    unfilled = spec._Unfilled()
    with pytest.raises(InputError, match="relu: import nnkernels"):
        unfilled.call(get_op("relu"), None, (), {})
    with pytest.raises(InputError, match="'numpy'"):
        unfilled.get_backend("numpy")


# --- error bounds ------------------------------------------------------------------------------

OUTPUTS = (np.array([0.0, -2.0]),)


def test_a_bound_of_zero_means_equal():
    (bound,) = Error(0).bound(OUTPUTS, (), {}, np.dtype("float32"))
    assert bound.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_bound_is_relative_to_the_result_and_never_below_tiny(name):
    info = np.finfo(name)
    (bound,) = Error(3).bound(OUTPUTS, (), {}, np.dtype(name))
    assert bound.tolist() == [float(info.tiny), 6 * float(info.eps) + float(info.tiny)]


def test_a_bound_may_have_a_scale_of_its_own():
    error = Error(1, lambda outputs, x, *, power: (x**power,))
    (bound,) = error.bound(OUTPUTS, (np.array([2.0, 3.0]),), {"power": 2}, np.dtype("float64"))
    np.testing.assert_allclose(bound, np.finfo("float64").eps * np.array([4.0, 9.0]), rtol=1e-15)
