"""``nnkernels bench``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nnkernels.cli._app import FAILED, INCOMPLETE, check_target
from nnkernels.cli._options import Workloads, add_workloads

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from nnkernels.bench.harness import Case
    from nnkernels.bench.results import Result, Run, Times
    from nnkernels.bench.session import Plan, Session
    from nnkernels.cli._render import Bar

TimesByName = Mapping[str, "Times"]

LEAST_FOR_CEILINGS = 5.0
"""Seconds of budget from which the ceilings are worth their time."""


def command(
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Workloads to run: words, and, or, not, ( )."),
    ] = None,
    backends: Annotated[
        str,
        typer.Option(
            "-b", "--backends", metavar="NAMES", help="Backends, separated by commas. Default: all."
        ),
    ] = "",
    preset: Annotated[
        Literal["quick", "default", "thorough"], typer.Option(help="Sizes and effort.")
    ] = "default",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="CPU threads. Default: of each workload those that are fastest."
        ),
    ] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=86400,
            metavar="SECONDS",
            help="Time to spend, about. With less than 5 no ceilings are measured.",
        ),
    ] = None,
    cache: Annotated[
        Literal["warm", "cold"],
        typer.Option(help="Whether a call finds its data in the caches; cold times single calls."),
    ] = "warm",
    workloads: Workloads = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the results as JSON."),
    ] = None,
) -> None:
    """Compare backends on training steps and operators.

    Every candidate runs in a process of its own, with the number of threads that is fastest, and
    takes turns with the others. It is first compared with a float64 reference; one that disagrees
    is not timed (exit code 1). 'of peak' is the rate beside what this machine can do at most,
    measured before; a rate beyond that is refused (exit code 3). Without -k
    your own workloads are run, or the training steps W1 to W4 and a few operators. 'textbook' is
    plain NumPy training code as the textbooks write it, for comparison. A GPU has three times:
    'kernel' by its own clock, with the data in place ('graph' where a step is one CUDA graph);
    'call' from a launch until its end is seen; 'e2e' with inputs and results travelling.

    \b
    Examples:
      nnkernels bench
      nnkernels bench -k "matmul or relu" --threads 1
      nnkernels bench -k "train and not W3" --preset quick -o run.json
      nnkernels bench -b "numpy,numpy[relu=mypkg.kernels:relu]" -k relu
      nnkernels bench --workloads mine.py
      nnkernels bench --cache cold -k "relu or adam"
    """
    from nnkernels.bench import survey
    from nnkernels.bench.session import Session, hired, some_counts
    from nnkernels.cli._render import Bar

    check_target("-o", output)
    add_workloads(workloads)
    plan = replace(_plan(expression, backends, preset, threads, time_budget), cold=cache == "cold")
    with hired(plan) as crew, Bar() as bar:
        depth = survey.GLANCE if preset == "quick" else survey.QUICK
        limits = survey.Survey(plan, crew, depth, bar.show, some_counts(plan.cores))
        report = Report(plan, bar)
        session = Session(plan, crew, report, again=limits.measure, warnings=limits.warnings)
        try:
            if plan.effort.budget >= LEAST_FOR_CEILINGS:
                session.ceilings = session.survey(limits.measure)
            session.run()
        finally:
            _save(session, output)
    report.conclude(session.record())
    statuses = {result.status for result in session.found}
    if "incorrect" in statuses:
        raise typer.Exit(FAILED)
    if "failed" in statuses:
        raise typer.Exit(INCOMPLETE)


def _plan(
    expression: str | None,
    backends: str,
    preset: Literal["quick", "default", "thorough"],
    threads: int | None,
    time_budget: float | None,
) -> Plan:
    from nnkernels.bench import harness, select, session
    from nnkernels.names import split_names

    cases = select.select(harness.cases(preset), expression)
    chosen, skipped = session.choose_backends(split_names(backends))
    effort = session.EFFORTS[preset]
    if time_budget is not None:
        effort = replace(effort, budget=time_budget)
    return session.Plan(cases, preset, chosen, skipped, effort, threads, sys.argv[1:])


def _save(session: Session, path: Path | None) -> None:
    from nnkernels.bench import results

    if path is not None:
        results.write(path, session.record())


class Report:
    """Prints each workload's rows as soon as they are there, and a sentence at the end."""

    def __init__(self, plan: Plan, bar: Bar) -> None:
        from nnkernels.cli._render import stdout

        self._plan, self._bar = plan, bar
        self._console: Console = stdout()
        self._times: dict[str, TimesByName] = {}

    def begin(self, case: Case, number: int, total: int) -> None:
        """Move the bar."""
        self._bar.show(case.id, number, total)

    def finish(self, case: Case, found: Sequence[Result]) -> None:
        """Print the rows of one workload."""
        first = not self._times
        timed = [r for r in found if r.status == "ok" and r.times.call]
        self._times[case.id] = {r.backend: r.times.call for r in timed if r.times.call}
        with self._bar.paused():
            self._print(case, found, header=first)

    def _print(self, case: Case, found: Sequence[Result], *, header: bool) -> None:
        if header:
            self._console.print(self._table(header=True))
        title = f"{case.workload}  {case.size}  {case.dtype}"
        title += "  cold caches" if self._plan.cold else ""
        self._console.print(title, style="bold", soft_wrap=True)
        for result in found:
            if result.status == "ok":
                self._print_times(case, result)
            elif result.status != "skipped":
                timed = "" if result.times.call else ", not timed"
                line = f"  {result.backend}: {result.status.upper()}{timed}: {result.reason}"
                self._console.print(line, style="red", soft_wrap=True)

    def _print_times(self, case: Case, result: Result) -> None:
        """A row for every kind of time, and a remark where a device waits for its host."""
        from nnkernels.bench import roofline
        from nnkernels.cli._render import print_wrapped

        label = _label(result)
        for name, times, rate in _kinds(case, result):
            share = _share(result) if rate else ""
            cells = [_threads(result), *_cells(times), rate, share]
            self._print_row(f"{label}{name}", [*cells, _ratio(self._times[case.id], times)])
            label = "  "
        if roofline.launch_bound(result.times):
            print_wrapped(f"  {result.backend}: {_launch_bound(result)}", indent=4)

    def _print_row(self, label: str, cells: Sequence[str]) -> None:
        """One row; a label that is too long for its column stands on a line of its own."""
        row = self._table(header=False)
        if len(label) > self._width:
            self._console.print(label, soft_wrap=True)
            label = ""
        row.add_row(label, *cells)
        self._console.print(row)

    @property
    def _width(self) -> int:
        """Of the first column: what 80 columns leave, more on a wider terminal."""
        return max(18, min(40, self._console.width - 62))

    def _table(self, *, header: bool) -> Table:
        from nnkernels.cli._render import table

        return table(
            ("workload / backend", "left", self._width),
            ("thr.", "right", 4),
            ("median", "right", 7),
            ("+-95 %", "right", 6),
            ("samples", "right", 7),
            ("rate", "right", 15),
            ("of peak", "right", 7),
            ("vs numpy", "right", 8),
            header=header,
        )

    def conclude(self, record: Run) -> None:
        """Remarks and the answer in plain words."""
        from nnkernels.bench import conclusions, machine
        from nnkernels.cli._render import print_wrapped

        for warning in (*record.warnings, *machine.warnings(record.machine.env)):
            print_wrapped(f"! {warning}")
        every = [t for found in self._times.values() for t in found.values()]
        if contended := sum(t.contended for t in every):
            samples = sum(len(t.samples) for t in every)
            print_wrapped(
                f"! other processes interrupted {contended} of {samples} samples; close them for "
                "steadier figures"
            )
        for name, reason in self._plan.skipped.items():
            print_wrapped(f"skipped {name}: {reason}")
        names = [case.workload for case in self._plan.cases]
        titles = {
            c.id: c.id if names.count(c.workload) > 1 else c.workload for c in self._plan.cases
        }
        times = {titles[id]: found for id, found in self._times.items()}
        print_wrapped(conclusions.fastest(times, self._plan.backends), indent=0)
        untimed = [result for result in record.results if result.status != "skipped"]
        for sentence in conclusions.troubles(untimed):
            print_wrapped(sentence)


def _label(result: Result) -> str:
    return f"  {result.backend}{f' ({result.reason})' if result.reason else ''}"


def _kinds(case: Case, result: Result) -> Iterator[tuple[str, Times, str]]:
    """What each kind of time is called, the time, and the rate where it is told."""
    found, rate = result.times, _rate(case, result)
    if found.kernel is None:
        assert found.call is not None
        yield "", found.call, rate
        return
    kernel = " graph" if found.graph else " kernel"
    for name, times in ((kernel, found.kernel), (" call", found.call), (" e2e", found.e2e)):
        if times is not None:
            yield name, times, rate
        rate = ""


def _launch_bound(result: Result) -> str:
    """What a device's waiting for its host means for the row."""
    from nnkernels.bench.text import duration

    kernel, queued = result.times.kernel, result.times.queued
    assert kernel is not None and queued is not None
    how = " as the replay of a graph" if result.times.graph else ""
    return (
        f"launch-bound: the host takes {duration(queued.median)} to queue a call, the device ends "
        f"one every {duration(kernel.median)}{how}; the rate says nothing of the device's peak"
    )


def _cells(times: Times) -> list[str]:
    from nnkernels.bench.statistics import half_width
    from nnkernels.cli._render import digits, duration

    width = 100 * half_width(times.ci, times.median)
    return [
        duration(times.median),
        f"{digits(width)} %" if width < 1000 else ">999 %",
        str(len(times.samples)),
    ]


def _rate(case: Case, result: Result) -> str:
    from nnkernels.cli._render import quantity

    rates = result.rates
    value, unit = {
        "item": (rates.item_s, "samples/s"),
        "flop": (rates.flop_s, "FLOP/s"),
        "byte": (rates.byte_s, "B/s"),
    }[case.rate]
    return "-" if value is None else quantity(value, unit)


def _threads(result: Result) -> str:
    return str(result.threads or "-")


def _share(result: Result) -> str:
    """The rate as a part of the ceiling that it is bound by."""
    from nnkernels.cli._render import digits

    share = result.rates.pct_peak
    return "-" if share is None else f"{digits(100 * share)} %"


def _ratio(found: TimesByName, times: Times) -> str:
    """How many times as fast as NumPy."""
    return f"{found['numpy'].median / times.median:.2f}x" if "numpy" in found else "-"
