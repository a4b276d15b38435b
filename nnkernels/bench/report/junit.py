"""The report as JUnit XML, which every CI shows: a test case a comparison, or a result.

Slower and incorrect are failures, failed and gone are errors, skipped and new are skipped; unsure
passes, and its output says so.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnkernels.bench import conclusions, rows
from nnkernels.bench.results import Comparison, Result, Run
from nnkernels.bench.text import duration
from nnkernels.errors import InputError, missing_extra

if TYPE_CHECKING:
    from junitparser import TestCase, TestSuite


def render(runs: Sequence[Run]) -> bytes:
    """A suite a run, of legible ones (XML cannot hold every character).

    Raises:
        InputError: no run has a comparison or a result.
        MissingExtraError: junitparser is not installed.
    """
    JUnitXml: Any  # of its methods, some have no types
    try:
        from junitparser import JUnitXml
    except ImportError:
        raise missing_extra("the JUnit report", "junitparser", "report") from None
    if not any(run.comparisons or run.results for run in runs):
        raise InputError(
            "report: no run has comparisons or results, so there is nothing for JUnit; give what "
            "bench, ab or compare wrote"
        )
    document = JUnitXml()
    for run in runs:
        document.add_testsuite(_suite(run))
    document.update_statistics()
    target = io.BytesIO()
    document.write(target, pretty=True)
    return target.getvalue()


def _suite(run: Run) -> TestSuite:
    from junitparser import TestSuite

    suite = TestSuite(f"nnkernels {run.kind}")
    suite.timestamp = run.created.removesuffix("Z")
    suite.add_property("fingerprint", run.machine.fingerprint)
    suite.add_property("version", run.code.version)
    for comparison in run.comparisons:
        suite.add_testcase(_of_comparison(comparison))
    for result in run.results:
        suite.add_testcase(_of_result(run, result))
    return suite


def _case(group: str, name: str, seconds: float | None) -> TestCase:
    from junitparser import TestCase

    return TestCase(name, f"nnkernels.bench.{group}", seconds or 0.0)


def _of_comparison(found: Comparison) -> TestCase:
    from junitparser import Error, Failure, Skipped

    group = rows.case_name(found.workload, found.size)
    case = _case(group, f"{found.backend} {found.dtype}", found.b_s)
    reason = found.reason or found.status
    outcomes: dict[str, Any] = {
        "new": Skipped,
        "gone": Error,
        "failed": Error,
        "incorrect": Failure,
    }
    if found.status in outcomes:
        case.result = [outcomes[found.status](reason, found.status)]
    elif found.verdict == "slower":
        case.result = [Failure(f"{found.b} {conclusions.times_as_long(found)}", "slower")]
    elif found.verdict is not None:
        case.system_out = f"{found.verdict}: {conclusions.times_as_long(found)}"
    return case


def _of_result(run: Run, result: Result) -> TestCase:
    from junitparser import Error, Failure, Skipped

    row = rows.row_of(run, result)
    times = result.times.call
    case = _case(row.case, f"{row.backend} {row.dtype}", times.median if times else None)
    outcomes: dict[str, Any] = {"failed": Error, "incorrect": Failure, "skipped": Skipped}
    if result.status in outcomes:
        case.result = [outcomes[result.status](result.reason or "", result.status)]
    elif times is not None:
        case.system_out = f"{duration(times.median)} a call, {len(times.samples)} samples"
    return case
