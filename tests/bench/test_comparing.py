"""Two saved files: who may be compared, and what is called a change."""

import math

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nnkernels.bench import comparing
from nnkernels.bench.comparing import Saved, compare, differences, judge
from nnkernels.errors import InputError, NotComparableError

seconds = st.lists(
    st.floats(1e-9, 1e3) | st.floats(1e-4, 1.0001e-4) | st.just(1e-4), max_size=12
) | st.lists(st.floats(), max_size=12)


@settings(max_examples=40, deadline=None)
@given(seconds, seconds, st.floats(0, 1))
def test_no_input_is_an_exception_and_few_processes_are_never_a_verdict(old, new, noise):
    found = judge(old, new, noise)
    assert found.verdict in ("slower", "faster", "same", "unsure")
    usable = all(comparing.SHORTEST < s < comparing.LONGEST for s in (*old, *new))
    if min(len(old), len(new)) < comparing.LEAST or not usable:
        assert found.verdict == "unsure"
        assert found.reason
    if found.verdict in ("slower", "faster"):
        assert abs(math.log(found.ratio)) >= math.log1p(comparing.MARGIN) - 1e-12
        assert found.p <= comparing.ALPHA


def processes(rng, factor=1.0, count=5, spread=0.01):
    return factor * 1e-4 * np.exp(spread * rng.standard_normal(count))


def test_large_changes_are_called_and_small_ones_are_not():
    rng = np.random.default_rng(1)
    verdicts = {f: judge(processes(rng), processes(rng, f)).verdict for f in (0.8, 1, 1.05, 1.25)}
    assert verdicts == {0.8: "faster", 1: "same", 1.05: "same", 1.25: "slower"}


def test_equal_code_is_almost_never_called_changed():
    rng = np.random.default_rng(2)
    found = [judge(processes(rng, spread=0.05), processes(rng, spread=0.05)) for _ in range(100)]
    assert sum(f.verdict in ("slower", "faster") for f in found) == 0


def test_what_processes_differ_by_raises_the_bar():
    rng = np.random.default_rng(3)
    old, new = processes(rng, count=8, spread=0.08), processes(rng, 1.2, 8, spread=0.08)
    found = judge(old, new)
    assert found.verdict == "unsure" and found.margin > 0.2
    quiet = judge(processes(rng), processes(rng, 1.2), noise=0.1)
    assert quiet.verdict == "unsure" and quiet.margin == pytest.approx(math.expm1(0.3))


def test_identical_times_are_the_same():
    found = judge([1e-4] * 5, [1e-4] * 5)
    assert (found.verdict, found.ratio, found.p) == ("same", 1.0, 1.0)
    assert judge([1e-4] * 5, [2e-4] * 5).verdict == "slower"


def test_four_processes_are_too_few():
    assert judge([1e-4] * 4, [9e-4] * 5).reason == (
        "4 processes on one side, at least 5 are needed"
    )


def saved(label, *rows, count=5, **fields):
    """``count`` files of one process each."""
    return Saved(label, [runs.run(results=list(rows), **fields) for _ in range(count)])


def test_processes_of_one_file_and_of_several_count_alike():
    one = runs.result("relu", "1", "numba", runs.times(1e-4, processes=5))
    old, new = Saved("old", [runs.run(results=[one])]), saved("new", runs.result("relu", "1"))
    (row,) = [c for c in compare(old, old) if c.workload == "relu"]
    assert (row.verdict, row.stage, row.pairs) == ("same", "unpaired", 0)
    both = {(c.backend, c.status) for c in compare(new, new)}
    assert both == {("numpy", "ok")}


def test_rows_of_one_side_and_what_was_not_timed_are_listed():
    wrong = runs.result("adam", "1", median=None, status="incorrect", reason="off by 1")
    skipped = runs.result("adam", "1", "native", None, status="skipped", reason="not built")
    old = saved("old", runs.result("relu"), runs.result("gone"), runs.result("adam", "1"), skipped)
    new = saved("new", runs.result("relu"), runs.result("fresh"), wrong)
    found = {c.workload: (c.status, c.verdict, c.reason) for c in compare(old, new)}
    assert found == {
        "relu": ("ok", "same", None),
        "gone": ("gone", None, "not in new"),
        "fresh": ("new", None, "not in old"),
        "adam": ("incorrect", None, "new: off by 1"),
    }


def test_a_gpus_times_are_compared_each():
    row = runs.result(
        backend="cupy",
        median=None,
        times=runs.results.TimesByKind(runs.times(2e-4), runs.times(1e-4), None),
    )
    slow = replace(row, times=runs.results.TimesByKind(runs.times(2e-4), runs.times(2e-4), None))
    found = {c.backend: c.verdict for c in compare(saved("a", row), saved("b", slow))}
    assert found == {"cupy": "same", "cupy (kernel)": "slower"}


def test_another_size_dtype_or_thread_count_is_another_row():
    one = runs.result()
    for other in (
        replace(one, dtype="float64"),
        replace(one, size="512"),
        replace(one, threads=1),
        replace(one, size=None),
    ):
        with pytest.raises(InputError, match="no row in common"):
            compare(saved("a", one), saved("b", other))


def test_the_noise_that_calibrate_found_counts():
    old, new = saved("a", runs.result(median=1e-4)), saved("b", runs.result(median=1.5e-4))
    assert compare(old, new)[0].verdict == "slower"
    assert compare(old, new, {("matmul", "numpy"): 0.2})[0].verdict == "unsure"
    assert compare(old, new, {("relu", "numpy"): 0.2})[0].verdict == "slower"


def test_equal_conditions_differ_in_nothing():
    assert differences(runs.bench(), runs.peers()) == []


@pytest.mark.parametrize(
    ("identity", "fact"),
    [
        ({"numpy": "2.4.5"}, "numpy: 2.4.6, then 2.4.5"),
        ({"cores_usable": 1}, "cores_usable: 2, then 1"),
        ({"blas": replace(runs.IDENTITY.blas, kernel="SkylakeX")}, "BLAS kernel: Haswell, then"),
        ({"blas": None}, "BLAS vendor: openblas, then None"),
    ],
)
def test_unequal_machines_are_refused_with_the_facts(identity, fact):
    machine = runs.machine_of(replace(runs.IDENTITY, **identity))
    with pytest.raises(NotComparableError, match=fact):
        comparing.check_comparable(saved("a"), saved("b", machine=machine))


def test_unequal_settings_are_refused():
    cold = replace(runs.SETTINGS, cache="cold", threads=1)
    with pytest.raises(NotComparableError, match=r"threads: 2, then 1; cache: warm, then cold"):
        comparing.check_comparable(saved("a"), saved("b", settings=cold))


def test_unequal_machines_within_a_side_are_refused():
    other = runs.machine_of(replace(runs.IDENTITY, python="3.12.1"))
    mixed = Saved("a", [runs.run(), runs.run(machine=other)])
    with pytest.raises(NotComparableError, match=r"python: 3\.11\.7, then 3\.12\.1"):
        comparing.check_comparable(mixed, saved("b"))


def test_a_fingerprint_alone_is_a_difference():
    machine = replace(runs.machine_of(), fingerprint="0" * 64)
    assert differences(runs.run(), runs.run(machine=machine)) == [
        "the fingerprint, made by another version of nnkernels"
    ]


def test_a_run_counts_once():
    run = runs.run()
    with pytest.raises(InputError, match=rf"holds the run {run.id} more than once"):
        Saved("a", [run, run])
