"""``nnkernels history``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nnkernels.cli._app import check_target

if TYPE_CHECKING:
    from nnkernels.bench.history import Entry, Step, Store, Trend

BLOCKS = "▁▂▃▄▅▆▇█"


def command(
    action: Annotated[Literal["add", "list", "show"], typer.Argument(help="What to do.")] = "show",
    files: Annotated[
        list[Path] | None, typer.Argument(help="Results to add, as 'bench -o' writes them.")
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Rows to show: words, and, or, not, ( )."),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The machine to show, by its name in 'history list'."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the rows (.png, .svg or .pdf).")
    ] = None,
) -> None:
    """Keep results of this machine, and see how they develop.

    A history is for looking at, never for failing a build: days differ by what else the machine
    did. Every machine has a file of its own (NNKERNELS_HISTORY names another folder); what makes
    two machines equal is in 'nnkernels info'.

    \b
    Examples:
      nnkernels history add run.json
      nnkernels history list
      nnkernels history show -k "W1 or matmul" --plot trend.png
    """
    from nnkernels.errors import InputError

    if action == "add":
        _add(files or [])
    elif files:
        raise InputError(f"history {action} takes no files; 'nnkernels history add FILE' keeps one")
    elif action == "list":
        _list()
    else:
        check_target("--plot", plot, (".png", ".svg", ".pdf"))
        _show(_store(machine), expression, plot)


def _add(files: Sequence[Path]) -> None:
    from nnkernels.bench import results
    from nnkernels.bench.history import Store
    from nnkernels.bench.text import legible
    from nnkernels.cli._render import stdout
    from nnkernels.errors import InputError

    if not files:
        raise InputError("history add: name the results to add, as 'nnkernels bench -o' wrote them")
    console = stdout()
    for run in [legible(results.read(file)) for file in files]:
        store = Store(run.machine.fingerprint)
        added = store.add(run)
        entries = _read(store)
        what = "added" if added else "is there already"
        console.print(f"{run.id} {what}: {len(entries)} of machine {store.name}", soft_wrap=True)


def _read(store: Store) -> list[Entry]:
    """What can be read; the rest is reported."""
    from nnkernels.cli._render import stderr

    entries, damaged = store.read()
    for line in damaged:
        stderr().print(
            f"! {store.path}: line {line.line} cannot be read and is skipped ({line.reason})",
            soft_wrap=True,
        )
    return entries


def _list() -> None:
    from nnkernels.bench import history
    from nnkernels.cli._render import counted, print_wrapped, stdout

    stores = history.stores()
    if not stores:
        stdout().print("No history yet: 'nnkernels history add run.json' begins one.")
    for store in stores:
        entries = _read(store)
        first, last = (entries[i].created[:10] if entries else "-" for i in (0, -1))
        about = entries[-1].machine if entries else "nothing that can be read"
        line = f"{store.name}  {counted(len(entries), 'run')}  {first} to {last}  {about}"
        print_wrapped(line, indent=18)


def _store(name: str | None) -> Store:
    """The history asked for: this machine's unless another is named."""
    from nnkernels.bench import history, machine
    from nnkernels.errors import InputError, unknown

    stores = history.stores()
    if not stores:
        raise InputError(
            f"history: none in {str(history.folder())!r}; 'nnkernels history add run.json' begins "
            "one"
        )
    names = {store.name: store for store in stores}
    if name is not None:
        found = [store for store in stores if store.name.startswith(name)]
        if len(found) != 1:
            raise unknown("machine", name, names)
        return found[0]
    own = history.Store(machine.fingerprint(machine.identity())).name
    if own not in names:
        raise InputError(
            f"history: none of this machine ({own}), as it is now; choose one of another by "
            f"--machine: {', '.join(names)}"
        )
    return names[own]


def _show(store: Store, expression: str | None, plot: Path | None) -> None:
    from nnkernels.bench import history
    from nnkernels.bench.history import chosen

    trends = chosen(history.trends(_read(store)), expression)
    steps = _steps(trends)
    _print_table(trends, steps)
    _conclude(trends, steps)
    if plot is not None:
        _plot(trends, steps, plot)


def _steps(trends: Sequence[Trend]) -> list[list[Step]]:
    """The steps of each row; without ``ruptures`` none, and that is said."""
    from nnkernels.bench import history
    from nnkernels.cli._render import stderr
    from nnkernels.errors import MissingExtraError

    try:
        return [history.steps(trend) for trend in trends]
    except MissingExtraError as error:
        stderr().print(f"! {error}", soft_wrap=True)
        return [[] for _ in trends]


def _print_table(trends: Sequence[Trend], steps: Sequence[Sequence[Step]]) -> None:
    from nnkernels.cli._render import duration, stdout, table

    console = stdout()
    made = table(
        ("row", "left", max(26, console.width - 54)),
        ("runs", "right", 4),
        ("trend", "left", 16),
        ("first", "right", 8),
        ("last", "right", 8),
        ("last step", "left", 13),
    )
    for trend, found in zip(trends, steps, strict=True):
        medians = trend.medians
        step = f"{found[-1].ratio:.2f}x {found[-1].entry.revision}" if found else "-"
        first, last = duration(medians[0]), duration(medians[-1])
        made.add_row(str(trend.row), str(len(medians)), spark(medians), first, last, step)
    console.print(made)


def spark(values: Sequence[float]) -> str:
    """The last 16 values as bars, the smallest the lowest; all equal: all in the middle."""
    shown = list(values)[-16:]
    low, high = min(shown), max(shown)
    if high <= low:
        return BLOCKS[3] * len(shown)
    return "".join(BLOCKS[int(7.999 * (v - low) / (high - low))] for v in shown)


def _conclude(trends: Sequence[Trend], steps: Sequence[Sequence[Step]]) -> None:
    from nnkernels.bench.history import summary
    from nnkernels.cli._render import print_wrapped

    for line in summary(trends, steps):
        print_wrapped(line)


def _plot(trends: Sequence[Trend], steps: Sequence[Sequence[Step]], path: Path) -> None:
    from nnkernels.bench.report import figures
    from nnkernels.cli._render import stderr
    from nnkernels.files import write_atomically

    write_atomically(path, figures.image(figures.trends(trends, steps), path.suffix))
    part = f" (the first {figures.MOST} of {len(trends)} rows)" * (len(trends) > figures.MOST)
    stderr().print(f"wrote {path}{part}", soft_wrap=True)
