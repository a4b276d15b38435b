"""``nnkernels ab``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nnkernels.cli._app import FAILED, INCOMPLETE, UNSURE
from nnkernels.cli._options import Workloads, add_workloads

if TYPE_CHECKING:
    from rich.console import Console

    from nnkernels.bench.gate.session import Gate, Outcome, Plan
    from nnkernels.bench.gate.sides import Side
    from nnkernels.bench.results import Comparison, Run
    from nnkernels.cli._render import Bar

SENTENCES: Mapping[Outcome, str] = {
    "passed": "The gate passes.",
    "slower": "The gate fails: B is slower.",
    "incomplete": "The gate is incomplete: not everything could be compared, so it does not pass.",
    "unsure": "The gate passes: nothing is known to be slower, but not all is known.",
}
STYLES = {"slower": "red", "faster": "green", "same": None, "unsure": "yellow"}


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="The old side; or A..B, in git's way.")],
    b: Annotated[
        str | None, typer.Argument(metavar="B", help="The new side. Default: the working tree.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 1 where B is slower, 3 where incomplete.")
    ] = False,
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Workloads. Default: your own, or the gate's."),
    ] = None,
    backends: Annotated[
        str,
        typer.Option("-b", "--backends", metavar="NAMES", help="Default: numpy and numba."),
    ] = "",
    threads: Annotated[
        int, typer.Option(min=1, max=4096, help="CPU threads, and CPUs shared by both sides.")
    ] = 1,
    preset: Annotated[
        Literal["quick", "default", "thorough"], typer.Option(help="Sizes and effort.")
    ] = "default",
    restarts: Annotated[
        int | None,
        typer.Option(min=4, max=1000, help="Of both workers. Default: as calibrated, or 8."),
    ] = None,
    allow: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="What else may differ: python, numpy, numba, blas, cupy."
        ),
    ] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="With --gate: exit with 4 where something is unsure.")
    ] = False,
    workloads: Workloads = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the result as JSON."),
    ] = None,
) -> None:
    """Compare two versions, or two backends, sample by sample.

    A side is a git revision, a folder with the sources, a wheel, an environment (its folder or its
    python), or, for both, a backend of this version. Both are driven by this version's workloads,
    in worker processes that share the same CPUs and take turns in random order; the pair is
    restarted several times. SLOWER and FASTER are shown twice, the second time by fresh restarts;
    SAME is within 3 %; UNSURE says how many more restarts would settle it.

    Exit codes with --gate: 0 nothing is slower, 1 something is, 2 a side cannot be had, 3
    something could not be compared (gone, crashed, incorrect), 4 unsure under --strict. Without
    --gate a slower side is told, but is no failure.

    \b
    Examples:
      nnkernels ab HEAD~1 --gate         the working tree against the last commit
      nnkernels ab main..feature -k "matmul or W2" -b numba
      nnkernels ab old.whl new.whl -o ab.json
      nnkernels ab numpy numba -k relu   two backends of this version
    """
    from nnkernels.bench.gate.session import Gate, outcome
    from nnkernels.bench.gate.sides import prepared, split
    from nnkernels.cli._app import check_target
    from nnkernels.cli._render import Bar
    from nnkernels.errors import InputError

    if strict and not gate:
        raise InputError("ab: --strict is about the gate's exit code; add --gate")
    check_target("-o", output)
    add_workloads(workloads)
    with Bar() as bar:
        bar.show("prepare", 0)
        with prepared(*split(a, b)) as sides:
            plan = _plan(sides, expression, backends, threads, preset, restarts, allow)
            made = Gate(plan, Progress(bar))
            try:
                made.run()
            finally:
                _save(made, output)
    record = made.record()
    report(record, plan)
    found = outcome(record)
    if gate:
        _print_outcome(found)
        codes = {"slower": FAILED, "incomplete": INCOMPLETE, "unsure": UNSURE if strict else 0}
        raise typer.Exit(codes.get(found, 0))
    raise typer.Exit(INCOMPLETE if found == "incomplete" else 0)


def _plan(
    sides: tuple[Side, Side],
    expression: str | None,
    backends: str,
    threads: int,
    preset: Literal["quick", "default", "thorough"],
    restarts: int | None,
    allow: str,
) -> Plan:
    from dataclasses import replace

    from nnkernels.bench.gate import calibration
    from nnkernels.bench.gate.pairs import EFFORTS
    from nnkernels.bench.gate.session import Plan
    from nnkernels.errors import InputError

    if backends and sides[0].backend is not None:
        raise InputError("ab: the sides are backends already; leave -b out")
    effort = EFFORTS[preset]
    own = {} if restarts or preset != "default" else calibration.recommended(threads)
    return Plan(
        sides,
        preset,
        effort if restarts is None else replace(effort, restarts=restarts),
        expression,
        backends_of(backends),
        threads,
        _tolerated(allow),
        own,
        argv=sys.argv[1:],
    )


def backends_of(text: str) -> list[str]:
    """Those that were named, or NumPy and, where it works, Numba."""
    from nnkernels import plugins
    from nnkernels.names import split_names

    works = plugins.availability()
    usual = [name for name in ("numpy", "numba") if works.get(name, "") is None]
    return split_names(text) or usual


def _tolerated(text: str) -> frozenset[str]:
    from nnkernels.bench.harness import identify
    from nnkernels.errors import unknown
    from nnkernels.names import split_names

    known = set(identify()) - {"file", "version"}
    names = split_names(text)
    for name in names:
        if name not in known:
            raise unknown("--allow", name, known)
    return frozenset(names)


def _save(gate: Gate, path: Path | None) -> None:
    from nnkernels.bench import results

    if path is not None:
        results.write(path, gate.record())


class Progress:
    """Moves the bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def proceed(self, stage: str, done: float, total: float) -> None:
        """``done`` of ``total`` rounds."""
        self._bar.show(stage, round(done), total)


def report(run: Run, plan: Plan) -> None:
    """Print who was compared, every row, and the answer in plain words."""
    from nnkernels.bench import conclusions
    from nnkernels.cli._render import print_wrapped, stdout

    console = stdout()
    for letter, side in zip("AB", plan.sides, strict=True):
        print_wrapped(f"{letter}  {side.label}  ({side.what})", style="bold")
    print_wrapped(_conditions(run))
    _print_rows(console, run)
    for warning in run.warnings:
        print_wrapped(f"! {warning}")
    for line in conclusions.of_run(run):
        print_wrapped(line)


def _conditions(run: Run) -> str:
    from nnkernels.cli._render import counted

    versions = {name: value for name, value in run.sides[0].versions.items() if name != "version"}
    shared = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    cpus = ",".join(map(str, run.settings.affinity or ()))
    return f"both: {shared}; cpu {cpus}, {counted(run.settings.threads or 1, 'thread')}"


def _print_rows(console: Console, run: Run) -> None:
    from nnkernels.cli._render import table

    width = max(27, min(44, console.width - 53))
    shown = table(
        ("workload", "left", width),
        ("A", "right", 7),
        ("B", "right", 7),
        ("B/A", "right", 6),
        (f"{run.settings.ci:.0%} interval", "right", 13),
        ("verdict", "left", 11),
    )
    names = [(c.workload, c.backend) for c in run.comparisons]
    for found in run.comparisons:
        single = names.count((found.workload, found.backend)) == 1
        case = found.workload if single else f"{found.workload}[{found.size}]"
        shown.add_row(f"{case} {found.backend}", *_cells(found), style=_style(found))
    console.print(shown)
    for found in run.comparisons:
        if found.reason:
            name = f"{found.workload} {found.backend}"
            console.print(f"{name}: {found.status.upper()}: {found.reason}", soft_wrap=True)


def _style(found: Comparison) -> str | None:
    return STYLES[found.verdict] if found.verdict else "yellow"


def _cells(found: Comparison) -> list[str]:
    from nnkernels.cli._render import duration

    if found.verdict is None or found.ratio is None:
        return [*("-" * 4), (found.verdict or found.status).upper()]
    return [
        duration(found.a_s or 0.0),
        duration(found.b_s or 0.0),
        f"{found.ratio:.3f}",
        f"{found.ci_low:.3f}-{found.ci_high:.3f}",
        _word(found),
    ]


def _word(found: Comparison) -> str:
    more = f" +{found.more_restarts}" if found.more_restarts else ""
    return f"{(found.verdict or '').upper()}{more}"


def _print_outcome(found: Outcome) -> None:
    from nnkernels.cli._render import print_wrapped

    print_wrapped(SENTENCES[found], style="bold")
