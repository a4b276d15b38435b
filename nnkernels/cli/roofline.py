"""``nnkernels roofline``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nnkernels.cli._app import FAILED, INCOMPLETE, check_target
from nnkernels.cli._options import Workloads, add_workloads

if TYPE_CHECKING:
    from rich.table import Table

    from nnkernels.bench.harness import Case
    from nnkernels.bench.results import Ceiling, Result, Run
    from nnkernels.bench.session import Plan
    from nnkernels.cli._render import Bar


def command(
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Workloads to place: words, and, or, not, ( )."),
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
            min=1,
            max=4096,
            help="CPU threads. Default: of a workload the fastest, of ceilings all.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the results as JSON."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the roofline: .png, .svg or .pdf."),
    ] = None,
    workloads: Workloads = None,
) -> None:
    """Measure what this machine can do at most, and how near to it each workload comes.

    First the ceilings: the best matrix products and multiply-adds, and the bandwidth of each cache
    and of the memory, by number of threads, in processes with the settings of the workloads. Then
    the workloads, as 'bench' measures them. A workload that does much arithmetic for each byte it
    must move is bound by 'compute', others by the memory that their data fit in; the percentage is
    of that ceiling. It takes about a minute. A rate beyond its ceiling is refused (exit code 3).

    \b
    Examples:
      nnkernels roofline
      nnkernels roofline -k "matmul or relu" -b numpy,numba --threads 1
      nnkernels roofline --plot roofline.svg -o roofline.json
    """
    from nnkernels.bench import results
    from nnkernels.cli._render import Bar

    check_target("-o", output)
    _check_plot(plot)
    add_workloads(workloads)
    plan = _plan(expression, backends, preset, threads)
    with Bar() as bar:
        run = _measured(plan, bar, output)
    if output is not None:
        results.write(output, run)
    _print(run, plan)
    if plot is not None:
        _draw(run, plot)
    statuses = {result.status for result in run.results}
    if "incorrect" in statuses:
        raise typer.Exit(FAILED)
    if "failed" in statuses:
        raise typer.Exit(INCOMPLETE)


def _check_plot(path: Path | None) -> None:
    """Refuse a bad target, or a missing matplotlib, before measuring for a minute."""
    from nnkernels.bench.report import figures

    check_target("--plot", path, (".png", ".svg", ".pdf"))
    if path is not None:
        with figures.style():
            pass


def _plan(
    expression: str | None,
    backends: str,
    preset: Literal["quick", "default", "thorough"],
    threads: int | None,
) -> Plan:
    from nnkernels.bench import harness, select, session
    from nnkernels.names import split_names

    cases = select.select(harness.cases(preset), expression)
    chosen, skipped = session.choose_backends(split_names(backends))
    effort = session.EFFORTS[preset]
    return session.Plan(cases, preset, chosen, skipped, effort, threads, sys.argv[1:])


# --- measuring ----------------------------------------------------------------------------------


def _measured(plan: Plan, bar: Bar, output: Path | None) -> Run:
    """The ceilings, then the workloads, judged by them; if interrupted, ``output`` has a part."""
    from msgspec.structs import replace

    from nnkernels.bench import results, roofline, survey
    from nnkernels.bench.ceilings import thread_counts
    from nnkernels.bench.session import Session, hired

    with hired(plan) as crew:
        limits = survey.Survey(plan, crew, survey.FULL, bar.show, thread_counts(plan.cores))
        found: list[Ceiling] = []
        session = Session(plan, crew, _Listener(bar), warnings=limits.warnings)
        try:
            found = session.survey(limits.measure)
            session.run()
        finally:
            run = replace(session.record(), kind="roofline", ceilings=found)
            if not run.complete and output is not None:
                results.write(output, run)
        rows, found = roofline.judged_all(run.results, found, limits.measure)
    return replace(run, results=rows, ceilings=found, warnings=limits.warnings)


class _Listener:
    """Moves the bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def begin(self, case: Case, number: int, total: int) -> None:
        """A workload begins."""
        self._bar.show(case.id, number, total)

    def finish(self, case: Case, found: Sequence[Result]) -> None:
        """A workload is done."""


# --- what is said -------------------------------------------------------------------------------


def _print(run: Run, plan: Plan) -> None:
    from nnkernels.bench import conclusions, machine
    from nnkernels.cli._render import print_wrapped, stdout

    console = stdout()
    for device in dict.fromkeys(c.device for c in run.ceilings):
        own = [c for c in run.ceilings if c.device == device]
        console.print(f"ceilings of {device}, measured", style="bold", soft_wrap=True)
        console.print(_compute_table(own))
        console.print(_memory_table(own))
    console.print("workloads", style="bold")
    console.print(_workload_table(run.results))
    for warning in (*run.warnings, *machine.warnings(run.machine.env)):
        print_wrapped(f"! {warning}")
    for sentence in (*_scaling(run.ceilings), *conclusions.of_run(run)):
        print_wrapped(sentence)


def _compute_table(found: Sequence[Ceiling]) -> Table:
    """Dtypes down, kinds of arithmetic across."""
    from nnkernels.bench.roofline import COMPUTE_CEILINGS
    from nnkernels.cli._render import table

    titles = {"gemm_flops": "matrix products", "fma_flops": "multiply-adds"}
    rows = table(
        ("  arithmetic", "left", 14),
        ("threads", "right", 7),
        *((titles[what], "right", 17) for what in COMPUTE_CEILINGS),
    )
    for dtype, threads in dict.fromkeys((c.dtype, c.threads) for c in found if c.dtype):
        same = [c for c in found if (c.dtype, c.threads) == (dtype, threads)]
        cells = [_best(same, what) for what in COMPUTE_CEILINGS]
        rows.add_row(f"  {dtype}", str(threads or "-"), *cells)
    return rows


def _memory_table(found: Sequence[Ceiling]) -> Table:
    """Levels down, ways to move memory across."""
    from nnkernels.bench.roofline import BANDWIDTH_CEILINGS
    from nnkernels.cli._render import table

    rows = table(
        ("  memory", "left", 14),
        ("threads", "right", 7),
        *((what.removesuffix("_bw"), "right", 10) for what in BANDWIDTH_CEILINGS),
    )
    levels = dict.fromkeys((c.level, c.threads) for c in found if c.what in BANDWIDTH_CEILINGS)
    for level, threads in sorted(levels, key=lambda key: str(key[0])):
        same = [c for c in found if (c.level, c.threads) == (level, threads)]
        cells = [_best(same, what) for what in BANDWIDTH_CEILINGS]
        rows.add_row(f"  {level}", str(threads or "-"), *cells)
    for link in (c for c in found if c.what[:3] in ("h2d", "d2h") and c.array_bytes is None):
        rows.add_row(f"  {link.what.replace('_', ' ')}", "-", _figure(link))
    return rows


def _best(found: Sequence[Ceiling], what: str) -> str:
    best = max((c for c in found if c.what == what), key=lambda c: c.value, default=None)
    return "-" if best is None else _figure(best)


def _figure(ceiling: Ceiling) -> str:
    from nnkernels.bench.text import amount

    return amount(ceiling.value, ceiling.unit)


def _workload_table(found: Sequence[Result]) -> Table:
    """One row for each that was timed; numbered as in the plot."""
    from nnkernels.bench.report import figures
    from nnkernels.bench.rows import case_name, size_of
    from nnkernels.cli._render import digits, quantity, table

    rows = table(
        ("no.", "right", 3),
        ("workload", "left", 30),
        ("backend", "left", 9),
        ("FLOP/B", "right", 6),
        ("achieved", "right", 12),
        ("of peak", "right", 7),
        ("bound", "left", 7),
    )
    numbers = {id(result): str(number) for number, result in figures.numbered(found)}
    for result in found:
        rates = result.rates
        case = case_name(result.workload, size_of(result))
        if rates.pct_peak is None:
            continue
        compute = rates.bound == "compute" and rates.flop_s is not None
        achieved = (rates.flop_s, "FLOP/s") if compute else (rates.byte_s, "B/s")
        rows.add_row(
            numbers.get(id(result), "-"),
            case,
            result.backend,
            digits(result.cost.flop / result.cost.bytes) if result.cost.bytes else "-",
            quantity(achieved[0] or 0.0, achieved[1]),
            f"{digits(100 * rates.pct_peak)} %",
            rates.bound or "-",
        )
    return rows


def _scaling(found: Sequence[Ceiling]) -> list[str]:
    """How much more than one thread all of them reach in float32 products."""
    best: dict[int, float] = {}
    for c in found:
        if c.what == "gemm_flops" and c.dtype == "float32" and c.threads and c.device == "cpu":
            best[c.threads] = max(best.get(c.threads, 0.0), c.value)
    if len(best) < 2 or 1 not in best:
        return []
    most = max(best)
    return [f"{most} threads reach {best[most] / best[1]:.2f} times the products of one thread."]


def _draw(run: Run, path: Path) -> None:
    """The CPU's workloads under its ceilings, or the first other device's."""
    from nnkernels.bench.report import figures
    from nnkernels.errors import ResultError
    from nnkernels.files import write_atomically

    placed = [r for r in run.results if r.rates.pct_peak is not None]
    devices = [r.device or "cpu" for r in placed] or ["cpu"]
    device = "cpu" if "cpu" in devices else devices[0]
    figure = figures.roofline(
        [c for c in run.ceilings if c.device == device],
        [r for r in placed if (r.device or "cpu") == device],
        figures.WIDE,
    )
    write_atomically(path, figures.image(figure, path.suffix), error=ResultError)
