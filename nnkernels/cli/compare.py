"""``nnkernels compare``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nnkernels.cli._app import FAILED, INCOMPLETE, UNSURE, check_target

if TYPE_CHECKING:
    from nnkernels.bench.comparing import Saved
    from nnkernels.bench.results import Comparison, Run

STYLES = {"slower": "bold red", "faster": "green", "unsure": "yellow"}


def command(
    old: Annotated[Path, typer.Argument(help="A file of results, or a folder of them.")],
    new: Annotated[Path, typer.Argument(help="The same, measured later.")],
    fail_on: Annotated[
        Literal["slower"] | None,
        typer.Option("--fail-on", help="End with exit code 1 if anything is slower."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with exit code 4 if anything is unsure.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What 'nnkernels calibrate -o' wrote: the noise. Default: as calibrated here.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the comparison as JSON."),
    ] = None,
) -> None:
    """Compare two saved sets of results.

    They were measured at different times, so this can only be coarse: a row is called slower or
    faster where at least 5 processes a side differ by at least 10 %, or by 3 times the noise where
    that is more, and by a permutation test of the processes' medians. Everything else is unsure;
    'nnkernels ab' measures both in turns and tells. The machines must be equal (exit code 3).
    The processes of all files of a folder count.

    \b
    Examples:
      nnkernels compare old.json new.json
      for i in 1 2 3 4 5; do nnkernels bench -o old/$i.json; done
      nnkernels compare old new --fail-on slower -o change.json
    """
    from nnkernels.bench import comparing, conclusions, results
    from nnkernels.cli._render import print_wrapped

    check_target("-o", output)
    sides = _saved(old), _saved(new)
    comparing.check_comparable(*sides)
    found = comparing.compare(*sides, _noise(calibration, sides[1].runs[-1]))
    if output is not None:
        results.write(output, _record(sides, found))
    _print_table(found)
    for line in conclusions.comparisons(found, paired=False):
        print_wrapped(line)
    if advice := _advice(sides, found):
        print_wrapped(advice)
    raise typer.Exit(_exit_code(found, fail_on, strict))


def _saved(path: Path) -> Saved:
    """A side from a file, or from all files of a folder."""
    from nnkernels.bench import machine, results
    from nnkernels.bench.comparing import Saved
    from nnkernels.bench.text import legible
    from nnkernels.errors import ResultError

    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ResultError(f"compare: no *.json in {str(path)!r}; 'nnkernels bench -o' writes one")
    runs = [legible(results.read(file)) for file in files]
    return Saved(machine.scrub(str(path)), runs)


def _noise(path: Path | None, measured: Run) -> Mapping[tuple[str, str], float]:
    """By the file that was given; else, of files from here, by what 'nnkernels calibrate' kept."""
    from nnkernels.bench import machine, results
    from nnkernels.bench.gate import calibration

    if path is not None:
        return calibration.noise(results.read(path).calibration)
    if measured.machine.fingerprint != machine.fingerprint(machine.identity()):
        return {}
    return calibration.noise(calibration.stored(measured.settings.threads or 1))


def _record(sides: Sequence[Saved], found: list[Comparison]) -> Run:
    """The comparison as a run: of the machine and the settings that both sides share."""
    from msgspec.structs import replace

    from nnkernels.bench import machine, results

    return replace(
        sides[1].runs[-1],
        kind="compare",
        id=results.new_id(),
        argv=[machine.scrub(argument) for argument in sys.argv[1:]],
        complete=all(run.complete for side in sides for run in side.runs),
        results=[],
        ceilings=[],
        sides=[side.side for side in sides],
        comparisons=found,
    )


def _print_table(found: Sequence[Comparison]) -> None:
    from nnkernels.bench.conclusions import comparison_name
    from nnkernels.cli._render import duration, stdout, table

    console = stdout()
    made = table(
        ("workload", "left", max(24, console.width - 54)),
        ("old", "right", 8),
        ("new", "right", 8),
        ("ratio", "right", 6),
        ("95 % of ratio", "right", 13),
        ("verdict", "left", 10),
    )
    for row in found:
        times = ("-" if s is None else duration(s) for s in (row.a_s, row.b_s))
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        interval = "-" if row.ci_low is None else f"{row.ci_low:.3f}-{row.ci_high:.3f}"
        verdict = (row.verdict or row.status).upper()
        style = STYLES.get(row.verdict or "")
        made.add_row(comparison_name(row), *times, ratio, interval, verdict, style=style)
    console.print(made)
    for line in _reasons(found):
        console.print(f"! {line}", soft_wrap=True)


def _reasons(found: Sequence[Comparison]) -> list[str]:
    """Why rows have no verdict, each reason once."""
    from nnkernels.bench.conclusions import comparison_name
    from nnkernels.bench.text import listed

    reasons: dict[str, list[str]] = {}
    for row in found:
        if row.reason:
            reasons.setdefault(row.reason, []).append(comparison_name(row))
    return [f"{reason}: {listed(names, 4)}" for reason, names in reasons.items()]


def _advice(sides: Sequence[Saved], found: Sequence[Comparison]) -> str:
    """The command that settles what is unsure."""
    unsure = dict.fromkeys(row.workload for row in found if row.verdict == "unsure")
    if not unsure:
        return ""
    shas = [side.runs[-1].code.git_sha for side in sides]
    known = all(shas) and shas[0] != shas[1]
    names = " ".join(sha[:10] for sha in shas if sha) if known else "REVISION_A REVISION_B"
    return f'To be sure: nnkernels ab {names} -k "{" or ".join(unsure)}"'


def _exit_code(found: Sequence[Comparison], fail_on: str | None, strict: bool) -> int:
    """A slowdown counts more than an incomplete comparison, and that more than an unsure one."""
    verdicts = {row.verdict for row in found}
    if fail_on and "slower" in verdicts:
        return FAILED
    if fail_on and any(row.status in ("gone", "failed", "incorrect") for row in found):
        return INCOMPLETE
    return UNSURE if strict and "unsure" in verdicts else 0
