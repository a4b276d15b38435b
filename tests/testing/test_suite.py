import subprocess
import sys

import numpy as np
import pytest

from nnkernels import Kernel, get_backend
from nnkernels.dispatch import outputs
from nnkernels.errors import InputError, UnknownNameError
from nnkernels.spec import OPERATORS, Cost, Error, op
from nnkernels.testing import NETWORKS, VerificationError, verify


def doubled_relu(x, *, out):
    out[...] = 2 * np.maximum(x, 0)


@pytest.fixture
def cube():
    """A new operator, declared as a user would, with a derivative."""

    @op("(...)->(...)", error=Error(4), cost=Cost(2), saves=("x",))
    def cube(x, *, out=None):
        """``x**3``."""
        return x * x * x

    @cube.backward(error=Error(4))
    def cube_backward(grad, x, *, out=None):
        """``3 grad x**2``."""
        return 3 * grad * x * x

    yield cube
    del OPERATORS["cube"], OPERATORS["cube_backward"]


def test_a_passing_operator_is_listed_with_its_worst_error():
    report = verify("numpy", operators=["tanh"])
    assert report.ok and report.passed == ("tanh",) and report.cases > 50
    assert 0 < report.worst["tanh"] <= 1
    report.check()


def test_failures_are_raised_by_check_with_every_one_listed():
    report = verify(get_backend("numpy").replace(relu=doubled_relu), operators=["relu", "tanh"])
    assert report.passed == ("tanh",)
    with pytest.raises(VerificationError, match=r"relu \[values, float32"):
        report.check()


def test_selecting_nothing_is_an_error():
    with pytest.raises(InputError, match="selects none"):
        verify("numpy", operators=[])


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="relu"):
        verify("numpy", operators=["rleu"])
    with pytest.raises(UnknownNameError, match="numpy"):
        verify("nunpy")


def test_the_reference_is_reported_as_such_and_never_as_passed():
    report = verify("reference", operators=["relu", "tanh"], quick=True)
    assert report.reference == ("relu", "tanh")
    assert report.passed == () and report.ok


def test_what_a_fallback_serves_is_named_and_not_run(cube):
    backend = get_backend("numpy")
    lacking = backend.__class__(
        "lacking",
        backend.device,
        {"relu": backend.kernels["relu"]},
        backend.executor,
        fallback=backend,
    )
    report = verify(lacking, operators=["relu", "tanh"], quick=True)
    assert report.passed == ("relu",) and report.fallback == {"tanh": "numpy"}


def test_an_operator_without_any_kernel_fails():
    backend = get_backend("numpy")
    bare = backend.__class__("bare", backend.device, {}, backend.executor)
    report = verify(bare, operators=["tanh"], quick=True)
    assert [f.check for f in report.failures] == ["coverage"]


def test_a_new_operator_is_covered_without_any_change(cube):
    report = verify("numpy", operators=["cube", "cube_backward"])
    assert report.ok and report.reference == ("cube", "cube_backward")
    wrong = get_backend("numpy").replace(cube=lambda x, *, out: np.multiply(x, x, out))
    assert not verify(wrong, operators=["cube"]).ok


def test_a_wrong_declared_derivative_fails_its_proof():
    @op("(...)->(...)", error=Error(4), saves=("x",))
    def square(x, *, out=None):
        """``x**2``."""
        return x * x

    @square.backward(error=Error(4))
    def square_backward(grad, x, *, out=None):
        """Wrong on purpose: ``grad x``."""
        return grad * x

    try:
        report = verify("reference", operators=["square", "square_backward"], quick=True)
    finally:
        del OPERATORS["square"], OPERATORS["square_backward"]
    assert {(f.operator, f.check) for f in report.failures} == {("square", "gradient")}


@pytest.mark.parametrize("key", ["relu", "relu/values", "relu/values/float32"])
def test_an_exception_covers_what_its_key_says(key):
    backend = get_backend("numpy").replace(relu=doubled_relu)
    report = verify(backend, operators=["relu"], exceptions={key: "doubles, to test swaps"})
    assert report.excepted and {reason for _, reason in report.excepted} == {
        "doubles, to test swaps"
    }
    left = {(f.check, f.dtype) for f in report.failures}
    assert ("values", "float32") not in left
    assert report.ok == (key == "relu")


def test_an_unneeded_exception_fails():
    report = verify("numpy", operators=["relu"], exceptions={"relu/layout": "was once broken"})
    assert report.unneeded == ("relu/layout",) and not report.failures
    with pytest.raises(VerificationError, match="not needed"):
        report.check()


def test_an_exception_of_an_operator_that_did_not_run_is_not_judged():
    assert verify("numpy", operators=["relu"], exceptions={"tanh": "not looked at"}).ok


@pytest.mark.parametrize(
    ("exceptions", "error"), [({"relu": " "}, "reason"), ({"rleu": "x"}, "relu")]
)
def test_bad_exceptions_are_refused(exceptions, error):
    with pytest.raises(InputError, match=error):
        verify("numpy", exceptions=exceptions)


def test_a_dispatcher_that_accepts_bad_targets_is_reported(monkeypatch):
    monkeypatch.setattr(outputs, "_check_memory", lambda *arguments: None)
    report = verify("numpy", operators=["tanh", "momentum"], quick=True)
    found = {(f.operator, f.check, f.case.partition(" (")[0]) for f in report.failures}
    assert {
        ("tanh", "refused", "read-only out"),
        ("tanh", "refused", "out overlapping x"),
        ("momentum", "refused", "read-only param"),
        ("momentum", "shared-update", "grad is param"),
    } <= found


def test_an_operator_that_cannot_be_sampled_is_reported(cube, monkeypatch):
    monkeypatch.setattr(cube, "signature", "(...)->(...)")
    monkeypatch.setattr(cube.derivative, "signature", "(2,2,2,2),(...)->(...)")
    report = verify("numpy", operators=["cube_backward"], quick=True)
    assert {f.case for f in report.failures} >= {"sampling"}


def test_masks_are_drawn_of_both_values():
    @op("(...)mask->(...)mask", error=Error(0))
    def invert(x, *, out=None):
        """Logical not."""
        return ~x

    try:
        report = verify("reference", operators=["invert"])
        constant = get_backend("numpy").replace(invert=lambda x, *, out: out.fill(True))
        wrong = verify(constant, operators=["invert"], quick=True)
    finally:
        del OPERATORS["invert"]
    report.check()
    assert not wrong.ok


def test_progress_counts_up_to_the_number_of_parts():
    seen = []
    verify("numpy", operators=["relu", "tanh"], quick=True, progress=lambda *a: seen.append(a))
    assert seen == [(0, 2, "relu"), (1, 2, "tanh"), (2, 2, "")]


def test_networks_find_a_wrong_update_that_no_operator_check_ran():
    def half_step(param, grad, lr, *, weight_decay):
        param -= (0.5 * lr * grad).astype(param.dtype)

    report = verify(get_backend("numpy").replace(sgd=Kernel(half_step)), operators=[NETWORKS])
    assert report.failures and {f.check for f in report.failures} == {"network"}
    assert all("oracle" in f.case and f.case.endswith("sgd") for f in report.failures)


def test_verification_needs_neither_pytest_nor_hypothesis():
    code = (
        "import sys; from nnkernels.testing import verify; "
        "verify('numpy', operators=['relu'], quick=True).check(); "
        "assert not {'pytest', 'hypothesis', '_pytest'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
