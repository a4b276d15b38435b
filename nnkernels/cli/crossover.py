"""``nnkernels crossover``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.cli._app import FAILED, INCOMPLETE, check_target
from nnkernels.cli._options import Workloads, add_workloads

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from nnkernels.bench.crossover import Search
    from nnkernels.bench.harness import Sweep
    from nnkernels.bench.results import Crossover, Run
    from nnkernels.cli._render import Bar

SECOND = ("cupy", "numba")
"""What numpy is compared with when nothing is named: the first of these that works here."""

SCENARIOS = {"resident": "", "transfers": "  with transfers"}


def command(
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Sweeps to search: words, and, or, not, ( )."),
    ] = None,
    backends: Annotated[
        str,
        typer.Option(
            "-b",
            "--backends",
            metavar="A,B",
            help="Two backends. Default: numpy and cupy, or numba without a GPU.",
        ),
    ] = "",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="CPU threads of a backend whose name does not say. Default: as they like.",
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(min=0.01, max=86400, metavar="SECONDS", help="Time to spend, about."),
    ] = 120.0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the results as JSON."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the ratios: .png, .svg or .pdf."),
    ] = None,
    workloads: Workloads = None,
) -> None:
    """Find the size from which one backend is faster than another.

    Workloads grow along one number: matrices by their side n, activations by their elements,
    losses by their rows, a training step by its batch and by the width of its layers. Both
    backends run in processes of their own and take turns; 17 sizes are measured, then the size
    where the winner changes is closed in until its interval is less than 20 % wide. With a GPU
    there are two answers: with data that is there already, and with data that must travel to it
    and back. Results are checked at every size; a backend that gives wrong ones is not timed
    (exit code 1).

    \b
    Examples:
      nnkernels crossover                        the usual workloads
      nnkernels crossover -k matmul -b numpy,numba
      nnkernels crossover -k mlp_step -b "numba(threads=1),numba(threads=2)"
      nnkernels crossover -k "relu and forward" --budget 20 --plot relu.png
    """
    from nnkernels.bench import crossover, harness, select
    from nnkernels.bench.session import hired
    from nnkernels.cli._render import Bar

    check_target("crossover: -o", output)
    _check_plot(plot)
    add_workloads(workloads)
    a, b = _two(backends)
    sweeps = select.select(harness.sweeps(), expression)
    plan = crossover.plan_of(a, b, budget, threads, sys.argv[1:])
    with hired(plan) as crew, Bar(100) as bar:
        report = Report(a, b, bar)
        search = crossover.Search(plan, sweeps, crew, report)
        try:
            search.run()
        finally:
            _save(search, output)
    report.conclude(search.record())
    if plot is not None:
        _draw(search.found, plot)
    statuses = {row.status for row in search.rows}
    if "incorrect" in statuses:
        raise typer.Exit(FAILED)
    if "failed" in statuses:
        raise typer.Exit(INCOMPLETE)


def _two(backends: str) -> tuple[str, str]:
    """The backends to compare."""
    from nnkernels import plugins
    from nnkernels.errors import InputError
    from nnkernels.names import split_names

    names = split_names(backends)
    if not names:
        reasons = plugins.availability()
        second = [name for name in SECOND if name in reasons and reasons[name] is None]
        if not second:
            raise InputError(
                "crossover: only numpy works here, and it takes two: pip install "
                "'nnkernels[numba]', or name two with -b, like -b 'numpy(threads=1),numpy'"
            )
        names = ["numpy", second[0]]
    if len(names) != 2 or names[0] == names[1]:
        raise InputError(f"crossover: -b takes two different backends, got {backends!r}")
    return names[0], names[1]


def _check_plot(path: Path | None) -> None:
    """Refuse a bad target, or a missing matplotlib, before measuring for minutes."""
    from nnkernels.bench.report import figures

    check_target("crossover: --plot", path, (".png", ".svg", ".pdf"))
    if path is not None:
        with figures.style():
            pass


def _draw(found: Sequence[Crossover], path: Path) -> None:
    from nnkernels.bench.report import figures
    from nnkernels.errors import ResultError
    from nnkernels.files import write_atomically

    figure = figures.crossovers(found, figures.WIDE)
    write_atomically(path, figures.image(figure, path.suffix), error=ResultError)


def _save(search: Search, path: Path | None) -> None:
    from nnkernels.bench import results

    if path is not None:
        results.write(path, search.record())


class Report:
    """Prints each sweep's answer as soon as it is there, and a sentence at the end."""

    def __init__(self, a: str, b: str, bar: Bar) -> None:
        from nnkernels.cli._render import stdout

        self._a, self._b, self._bar = a, b, bar
        self._console: Console = stdout()
        self._headed = False

    def measure(self, sweep: Sweep, size: int, done: float) -> None:
        """Move the bar."""
        self._bar.show(f"{sweep.workload} {sweep.over} = {size:,}", round(100 * min(done, 1)))

    def finish(self, found: Sequence[Crossover]) -> None:
        """Print the rows of one sweep."""
        with self._bar.paused():
            if not self._headed:
                self._console.print(f"{self._b} against {self._a}", style="bold", soft_wrap=True)
                self._console.print(self._table(header=True))
                self._headed = True
            for crossover in found:
                table = self._table(header=False)
                table.add_row(*cells(crossover))
                self._console.print(table)

    def _table(self, *, header: bool) -> Table:
        from nnkernels.cli._render import table

        return table(
            ("workload, what grows", "left", 31),
            ("faster from", "right", 11),
            ("between", "right", 19),
            ("smallest", "right", 8),
            ("largest", "right", 7),
            header=header,
        )

    def conclude(self, record: Run) -> None:
        """Remarks and the answer in plain words."""
        from nnkernels.bench import machine
        from nnkernels.bench.conclusions import crossed
        from nnkernels.cli._render import print_wrapped

        for warning in machine.warnings(record.machine.env):
            print_wrapped(f"! {warning}")
        for crossover in record.crossovers:
            if crossover.reason:
                print_wrapped(f"! {_title(crossover)}: {crossover.reason}")
        for sentence in crossed(record.crossovers):
            print_wrapped(sentence)


def _title(found: Crossover) -> str:
    return f"{found.workload}[{found.sweep}]{SCENARIOS[found.scenario]}"


def cells(found: Crossover) -> list[str]:
    """The row of one crossover; speeds are of the second backend, relative to the first."""
    between = ""
    if found.interval is not None:
        low, high = found.interval
        between = f"{low:,.0f} - {high:,.0f}"
    answer = found.verdict if found.size is None else f"{round(found.size):,}"
    ends = (found.points[0], found.points[-1]) if found.points else ()
    speeds = [f"{1 / point.ratio:.2f}x" for point in ends] or ["-", "-"]
    return [_title(found), answer, between, *speeds]
