import numpy as np
import pytest

from nnkernels import get_backend
from nnkernels.spec import get_op
from nnkernels.testing.samples import samples
from nnkernels.testing.subject import CaseFailed, Subject, expectation, worst_ratio

INF, NAN = np.inf, np.nan
F32 = np.dtype("float32")


@pytest.mark.parametrize(
    ("got", "ref", "bound", "ratio"),
    [
        (1.0, 1.0, 0.0, 0.0),
        (1.5, 1.0, 1.0, 0.5),
        (1.5, 1.0, 0.25, 2.0),
        (1.5, 1.0, 0.0, INF),
        (NAN, NAN, 0.0, 0.0),
        (NAN, 1.0, 1.0, INF),
        (1.0, NAN, 1.0, INF),
        (INF, INF, 0.0, 0.0),
        (-INF, INF, INF, INF),
        (INF, 1.0, INF, INF),
        (0.0, -0.0, 0.0, 0.0),
    ],
)
def test_errors_in_units_of_the_bound(got, ref, bound, ratio):
    arrays = [np.array([0.0, v]) for v in (got, ref, bound)]
    assert worst_ratio(*arrays)[0] == ratio
    if ratio:
        assert worst_ratio(*arrays)[1] == (1,)


def test_a_reference_beyond_float32_must_come_out_as_infinity():
    ref, bound = np.array([1e300]), np.array([1e290])
    assert worst_ratio(np.array([INF], F32), ref, bound)[0] == 0
    assert worst_ratio(np.array([3e38], F32), ref, bound)[0] > 1


def test_the_expectation_is_the_float64_reference_on_the_rounded_inputs():
    (sample,) = samples(get_op("sigmoid"), F32, plans="small")
    (ref,), (bound,) = expectation(sample)
    x = sample.inputs[0].astype(np.float64)
    np.testing.assert_allclose(ref, 1 / (1 + np.exp(-x)), rtol=1e-14)
    info = np.finfo(F32)
    np.testing.assert_allclose(bound, get_op("sigmoid").error.c * info.eps * ref + info.tiny)


def failing(change):
    """The message of a case whose results are changed before they are compared."""
    subject = Subject(get_backend("numpy"), get_op("add"), F32)
    sample = subject.small()[0]
    results = subject.call(sample, subject.place(sample))
    with pytest.raises(CaseFailed) as failure:
        subject.require_right(sample, change(results))
    return failure.value


def test_wrong_results_are_named():
    assert "float64" in str(failing(lambda r: (r[0].astype(np.float64),)))
    assert "(10, 7)" in str(failing(lambda r: (r[0].T,)))
    assert "2 results" in str(failing(lambda r: (*r, *r)))
    wrong = failing(lambda r: (r[0] * np.float32(1.01),))
    assert wrong.error > wrong.bound > 0 and "exceeds" in str(wrong)
