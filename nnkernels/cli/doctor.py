"""``nnkernels doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.cli._app import FAILED, check_target

if TYPE_CHECKING:
    from nnkernels.bench.doctor import Finding

MARKS = {"ok": "OK", "warn": "WARN", "skipped": "-"}


def command(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only what takes seconds, after what 'info' shows.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the findings as JSON.")
    ] = None,
) -> None:
    """Find out what will make numbers wrong on this machine, and what to do about it.

    Whether others load the CPUs or a container limits them; clock, timer and memory; forced
    OpenBLAS kernels, measured beside the one that OpenBLAS would choose; whether more threads
    bring more; how far equal code differs from itself, as the gate would run it; what the harness
    adds to a sample; which GPUs there are. It takes about half a minute. Exit code 1 when
    something warns.

    \b
    Examples:
      nnkernels doctor
      nnkernels doctor --quick
      nnkernels doctor --json doctor.json
    """
    from nnkernels.bench import doctor
    from nnkernels.cli._render import Bar, json_text, print_wrapped
    from nnkernels.cli.info import facts_in_lines, gather
    from nnkernels.errors import ResultError
    from nnkernels.files import write_atomically

    check_target("--json", json)
    facts = gather()
    for line in facts_in_lines(facts, brief=not quick):
        print_wrapped(line, indent=10)
    checks = doctor.CHEAP if quick else doctor.ALL
    found = []
    with Bar(len(checks)) as bar:
        for finding in doctor.run(checks, bar.show):
            found.append(finding)
            with bar.paused():
                _print(finding)
    print_wrapped(conclusion(found))
    if json is not None:
        text = json_text({**facts, "findings": found})
        write_atomically(json, text.encode() + b"\n", error=ResultError)
    if any(finding.status == "warn" for finding in found):
        raise typer.Exit(FAILED)


def _print(finding: Finding) -> None:
    from nnkernels.cli._render import print_wrapped

    style = "yellow" if finding.status == "warn" else None
    head = f"  {MARKS[finding.status]:<6}{finding.check:<15}"
    print_wrapped(head + finding.text, indent=len(head), style=style)
    if finding.remedy:
        print_wrapped(f"{'':<{len(head)}}-> {finding.remedy}", indent=len(head) + 3)


def conclusion(found: Sequence[Finding]) -> str:
    """The answer to "can I trust what I measure here?"."""
    from nnkernels.bench.text import counted, listed

    bad = [finding.check for finding in found if finding.status == "warn"]
    unmade = sum(finding.status == "skipped" for finding in found)
    rest = f" {counted(unmade, 'check')} could not be made." if unmade else ""
    if not bad:
        made = counted(len(found) - unmade, "check")
        return f"No warning in {made}: nothing was found that makes numbers wrong here.{rest}"
    return (
        f"{len(bad)} of {counted(len(found), 'check')} warn ({listed(bad)}): until that is "
        f"remedied, figures of this machine are worth only what the lines above say.{rest}"
    )
