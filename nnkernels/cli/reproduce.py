"""``nnkernels reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nnkernels.cli._app import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from nnkernels.reproduce import Figure, Section


def command(
    backend: Annotated[
        str, typer.Option("-b", "--backend", metavar="NAME", help="What computes our figures.")
    ] = "auto",
    mnist: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of MNIST's IDX files. Default: $NNKERNELS_MNIST."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="All 500 epochs of the MNIST network, not 3.")
    ] = False,
    dtype: Annotated[
        Literal["float64", "float32", "both"], typer.Option(help="Of the MNIST network.")
    ] = "both",
) -> None:
    """Compute the figures printed in the textbooks and compare.

    Exit code 1 when a figure is not reproduced. In float64 every printed digit of the MNIST
    network must agree; without the files of MNIST it is skipped.

    \b
    Examples:
      nnkernels reproduce
      nnkernels reproduce --mnist ~/data/mnist --backend numpy
      nnkernels reproduce --mnist ~/data/mnist --full --dtype float64
    """
    from nnkernels import get_backend
    from nnkernels.cli._render import Bar, stdout
    from nnkernels.reproduce import reproduce

    chosen, console, done = get_backend(backend), stdout(), []
    dtypes = ("float64", "float32") if dtype == "both" else (dtype,)
    with Bar() as bar:

        def show(epochs: float, total: float, text: str) -> None:
            bar.show(text, epochs, total)

        for section in reproduce(chosen, mnist=mnist, full=full, dtypes=dtypes, progress=show):
            with bar.paused():
                _print(console, section)
            done.append(section)
    _conclude(console, chosen.name, done)


def _print(console: Console, section: Section) -> None:
    from nnkernels.cli._render import table

    console.print(section.title, style="bold")
    console.print(f"  {section.source}", style="dim")
    rows = table(
        ("figure", "left", 27),
        ("published", "right", 11),
        ("ours", "right", 11),
        ("off by", "right", 7),
        ("accepted", "right", 10),
        ("", "left", 4),
    )
    for figure in section.figures:
        rows.add_row(*_cells(figure), style=None if figure.ok else "red")
    if section.figures:
        console.print(rows)
    console.print()


def _cells(figure: Figure) -> list[str]:
    many = f" x{figure.count}" if figure.count > 1 else ""
    off = "-" if figure.difference is None else f"{figure.difference:.1g}"
    verdict = "ok" if figure.ok else "MISS"
    return [figure.name + many, figure.published, figure.ours, off, figure.accepted, verdict]


def _conclude(console: Console, backend: str, sections: Sequence[Section]) -> None:
    misses = [(s.title, figure.name) for s in sections for figure in s.misses]
    total = sum(len(s.figures) for s in sections)
    if any(figure.count > 1 for s in sections for figure in s.figures):
        console.print("xN: an array of N numbers, of which the worst is shown.")
    for title, name in misses:
        console.print(f"MISS {title}: {name}", style="red", soft_wrap=True)
    for section in sections:
        if section.skipped:
            console.print(f"skipped {section.title}: {section.skipped}", soft_wrap=True)
    console.print(
        f"{backend}: {total - len(misses)} of {total} figures reproduced.", soft_wrap=True
    )
    if misses:
        raise typer.Exit(FAILED)
