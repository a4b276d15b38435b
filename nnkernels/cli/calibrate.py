"""``nnkernels calibrate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.cli._app import FAILED, INCOMPLETE
from nnkernels.cli._options import Workloads, add_workloads

if TYPE_CHECKING:
    from nnkernels.bench.gate.calibration import SelfTest
    from nnkernels.bench.gate.session import Plan
    from nnkernels.bench.results import CalibrationRow, Run


def command(
    aa: Annotated[
        int, typer.Option("--aa", min=1, max=100_000, help="Comparisons of equal code.")
    ] = 300,
    inject: Annotated[
        str, typer.Option(metavar="PERCENT,...", help="Slowdowns to inject; '' for none.")
    ] = "5,10,20",
    each: Annotated[
        int, typer.Option("--each", min=1, max=100_000, help="Comparisons for each slowdown.")
    ] = 93,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only: is one slowdown of 15 % found, and no other?")
    ] = False,
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Workloads. Default: your own, or the gate's."),
    ] = None,
    backends: Annotated[
        str,
        typer.Option("-b", "--backends", metavar="NAMES", help="Default: numpy and numba."),
    ] = "",
    threads: Annotated[int, typer.Option(min=1, max=4096, help="CPU threads, as for 'ab'.")] = 1,
    workloads: Workloads = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the result as JSON."),
    ] = None,
) -> None:
    """Find out what the gate can see on this machine, and how often it cries wolf.

    Runs the gate with the same code on both sides, then with slowdowns injected into B (more of
    the same calls, so with the same noise). 300 comparisons without a false alarm show a rate of
    at most 1 %, 93 with at most one miss a power of at least 95 %. The restarts that every
    workload needs are kept for this machine, where 'ab' finds them. Takes about half an hour;
    --quick, for CI, under two minutes: it exits with 1 unless both its runs come out right.

    \b
    Examples:
      nnkernels calibrate
      nnkernels calibrate --quick
      nnkernels calibrate --aa 60 --inject 10 -b numpy -o calibration.json
    """
    from nnkernels.cli._app import check_target

    slowdowns = parse_slowdowns(inject)
    check_target("-o", output)
    add_workloads(workloads)
    if quick:
        _self_test(expression, backends, threads, output)
    else:
        _calibrate(expression, backends, threads, output, aa, each, slowdowns)


def parse_slowdowns(text: str) -> list[float]:
    """``5,10`` as fractions.

    Raises:
        InputError: it is not a list of percentages between 0 and 1000.
    """
    from nnkernels.errors import InputError

    found = []
    for part in filter(None, (p.strip().removesuffix("%").strip() for p in text.split(","))):
        try:
            percent = float(part)
        except ValueError:
            percent = float("nan")
        if not 0 < percent <= 1000:
            raise InputError(
                f"calibrate: --inject {text!r}: {part!r} is no percentage above 0 and up to 1000; "
                "write for example 5,10,20"
            )
        found.append(percent / 100)
    return list(dict.fromkeys(found))


def _plan(expression: str | None, backends: list[str], threads: int) -> Plan:
    """The running nnkernels against itself."""
    from nnkernels.bench.gate.pairs import EFFORTS
    from nnkernels.bench.gate.session import Plan
    from nnkernels.bench.gate.sides import own

    side = own()
    return Plan(
        (side, side),
        "default",
        EFFORTS["default"],
        expression,
        backends,
        threads,
        argv=sys.argv[1:],
    )


def _calibrate(
    expression: str | None,
    backends: str,
    threads: int,
    output: Path | None,
    aa: int,
    each: int,
    slowdowns: list[float],
) -> None:
    from nnkernels.bench import conclusions, results
    from nnkernels.bench.gate.calibration import Calibration, Trial, store
    from nnkernels.cli._render import Bar, print_wrapped
    from nnkernels.cli.ab import Progress, backends_of

    trials = [Trial(0.0, aa), *(Trial(slowdown, each) for slowdown in slowdowns)]
    with Bar() as bar:
        bar.show("start", 0)
        plan = _plan(expression, backends_of(backends), threads)
        made = Calibration(plan, trials, Progress(bar))
        try:
            made.run()
        finally:
            if output is not None:
                results.write(output, made.record())
    record = made.record()
    _print_rows(record)
    for line in conclusions.calibration(record.calibration):
        print_wrapped(line)
    if any(row.restarts for row in record.calibration):
        store(record)
        print_wrapped("Kept for this machine: 'nnkernels ab' now takes these restarts.")


def _print_rows(run: Run) -> None:
    from nnkernels.bench.text import percent
    from nnkernels.cli._render import stdout, table

    injected = list(dict.fromkeys(p.inject for row in run.calibration for p in row.power))
    slowdowns = [s for s in injected if s][:4]
    shown = table(
        ("workload", "left", 27),
        ("spread", "right", 7),
        ("restarts", "right", 8),
        ("alarms", "right", 7),
        *((f"+{percent(s)}", "right", 7) for s in slowdowns),
    )
    for row in run.calibration:
        shown.add_row(
            f"{row.workload} {row.backend}",
            percent(row.spread) if row.spread else "-",
            str(row.restarts or "-"),
            _count(row, 0.0),
            *(_count(row, s) for s in slowdowns),
        )
    stdout().print(shown)


def _count(row: CalibrationRow, slowdown: float) -> str:
    """Live: how many comparisons were called a change, of how many."""
    for power in row.power:
        if power.inject == slowdown and power.method == "live":
            called = power.slower if slowdown else power.slower + power.faster
            return f"{called}/{power.comparisons}"
    return "-"


def _self_test(expression: str | None, backends: str, threads: int, output: Path | None) -> None:
    from nnkernels.bench import results
    from nnkernels.bench.gate import calibration
    from nnkernels.cli._render import Bar
    from nnkernels.cli.ab import Progress, backends_of
    from nnkernels.errors import InputError

    if expression is not None:
        raise InputError("calibrate: --quick has its own workloads; leave -k out")
    with Bar() as bar:
        bar.show("start", 0)
        chosen = backends_of(backends or "numpy")
        plan = _plan(calibration.QUICK_WORKLOADS, chosen, threads)
        found = calibration.self_test(plan, Progress(bar))
    if output is not None:
        results.write(output, found.slowed)
    _conclude(found)


def _conclude(found: SelfTest) -> None:
    """Say whether the gate can be trusted; exit with 1 or 3 where not."""
    from nnkernels.bench.gate.calibration import QUICK, QUICK_TARGET
    from nnkernels.bench.gate.session import outcome
    from nnkernels.cli._render import print_wrapped

    for trouble in found.troubles():
        print_wrapped(f"! {trouble}")
    if "incomplete" in (outcome(found.slowed), outcome(found.equal)):
        print_wrapped("The gate could not be tried: not everything could be compared.")
        raise typer.Exit(INCOMPLETE)
    if found.troubles():
        print_wrapped("The gate cannot be trusted on this machine now.")
        raise typer.Exit(FAILED)
    count = len(found.equal.comparisons)
    print_wrapped(
        f"The gate works here: of {count} workloads it found {QUICK_TARGET} slowed by {QUICK:.0%} "
        "and called nothing else a change."
    )
