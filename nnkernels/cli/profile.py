"""``nnkernels profile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from nnkernels.bench.profiling import Profile, Row, Subject
    from nnkernels.nn import Trainer

MOST_NAMED = 3
"""Instructions that the last sentence names at most."""


def command(
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Sizes like 784-64-10, or a checkpoint file."),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="W1 to W4 of 'nnkernels bench', instead of MODEL."),
    ] = None,
    backend: Annotated[
        str, typer.Option("-b", "--backend", metavar="NAME", help="Whose kernels.")
    ] = "auto",
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 20, help="Rows of a step. Default: as saved, or 32."),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of hidden layers. Default: relu.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: softmax_cross_entropy.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: as saved, or sgd.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None, typer.Option(help="Default: float32.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=10**6, help="Steps of a round. Default: for 0.3 s."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the profile as JSON.")
    ] = None,
) -> None:
    """Show where the time of a training step goes.

    For every instruction its time a step, its share, its GFLOP/s by the model cost, and its GB/s
    if all that it reads and writes passes once; more than the memory's GB/s came from a cache.
    Runs on random data, on one thread, five rounds, of which the shortest time counts.

    \b
    Examples:
      nnkernels profile 784-64-10
      nnkernels profile 784-512-512-10 --batch 128 --optimizer adam -b numpy
      nnkernels profile model.safetensors --json profile.json
      nnkernels profile --workload W2
    """
    from nnkernels import get_backend
    from nnkernels.bench import profiling
    from nnkernels.cli._app import check_target
    from nnkernels.cli._models import refuse, trainer_of
    from nnkernels.cli._render import Bar
    from nnkernels.errors import InputError

    check_target("--json", json)
    chosen = profiling.single(get_backend(backend))
    given = {"activation": activation, "loss": loss, "optimizer": optimizer, "dtype": dtype}
    if workload is not None:
        options = {f"--{name}": value for name, value in given.items()} | {"--batch": batch}
        refuse("profile", {"MODEL": target, **options}, f"--workload {workload} has its own")
        subject = profiling.workload(workload)
    elif target is None:
        raise InputError(
            "profile: give sizes like 784-64-10, a checkpoint file, or --workload W1; "
            "see 'nnkernels profile --help'"
        )
    else:
        trainer = trainer_of("profile", target, chosen, **given)
        subject = _subject(target, trainer, batch)
    with Bar() as bar:
        found = profiling.profile(
            subject,
            chosen,
            steps=steps,
            progress=lambda done, total, what: bar.show(what, done, total),
        )
    _print(found)
    if json is not None:
        _write(found, json)


def _subject(target: str, trainer: Trainer, batch: int | None) -> Subject:
    from nnkernels.bench import profiling

    saved = trainer.settings
    rows = batch or (saved.batch_size if saved else 32)
    return profiling.subject_of(target, trainer, rows, shuffle=saved.shuffle if saved else True)


def _print(found: Profile) -> None:
    from nnkernels.cli._render import counted, print_wrapped, stdout, table

    title = f"a training step of {found.model}, batch {found.batch}, {found.dtype}, on"
    rounds = f"{counted(found.rounds, 'round')} of {counted(found.steps, 'step')}"
    print_wrapped(f"{title} {found.backend}, {found.execution}, best of {rounds}", style="bold")
    shown = table(
        ("layer", "left", None),
        ("operator", "left", None),
        ("time", "right", 7),
        ("share", "right", 6),
        ("GFLOP/s", "right", 7),
        ("GB/s", "right", 6),
    )
    for row in found.rows:
        shown.add_row(row.label, f"{row.op} {row.part}".rstrip(), *_figures(row, found.total))
    stdout().print(shown)
    for line in _summary(found):
        print_wrapped(line)


def _figures(row: Row, total: float) -> list[str]:
    from nnkernels.cli._render import duration

    share = 100 * row.seconds / total if total else 0.0
    return [
        duration(row.seconds),
        f"{share:.1f}%",
        _rate(row.flop, row.seconds),
        _rate(row.bytes, row.seconds),
    ]


def _rate(amount: float, seconds: float) -> str:
    """Billions a second; a dash where there is nothing to tell."""
    from nnkernels.cli._render import digits

    return digits(amount / seconds / 1e9) if amount and seconds else "-"


def _summary(found: Profile) -> list[str]:
    """Totals, the share of the peak, and what the clocks cost."""
    from nnkernels.cli._render import digits, duration, quantity

    rate = found.flop / found.seconds
    cost = found.clocked - found.seconds
    share = 100 * cost / found.seconds
    clock = (
        f"{duration(cost)} a step, {digits(share)}%"
        if cost > 0
        else "less than what rounds differ by"
    )
    return [
        f"all instructions  {duration(found.total)} a step",
        f"without clocks    {duration(found.seconds)} a step, {quantity(rate, 'FLOP/s')}: "
        f"{digits(100 * rate / found.peak.rate)}% of the peak",
        f"peak              {quantity(found.peak.rate, 'FLOP/s')} on one thread, by "
        f"{found.peak.by}",
        f"the clocks cost   {clock}",
        _longest(found),
    ]


def _longest(found: Profile) -> str:
    """The answer: which instructions are worth a look, until half of the time is told."""
    from nnkernels.bench.text import listed

    named: list[str] = []
    told = 0.0
    for row in sorted(found.rows, key=lambda row: row.seconds, reverse=True)[:MOST_NAMED]:
        share = 100 * row.seconds / found.total if found.total else 0.0
        where = f" of {row.label}" if row.label else ""
        named.append(f"{' '.join(f'{row.op} {row.part}'.split())}{where} ({share:.0f}%)")
        told += share
        if told >= 50:
            break
    return f"Most of the time goes to {listed(named)}."


def _write(found: Profile, path: Path) -> None:
    from nnkernels.cli._render import json_text
    from nnkernels.files import write_atomically

    write_atomically(path, (json_text(found) + "\n").encode())
