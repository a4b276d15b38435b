"""Consoles, tables and numbers for people."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nnkernels.bench.text import counted, digits, duration, quantity

__all__ = [
    "Bar",
    "counted",
    "digits",
    "duration",
    "json_text",
    "print_wrapped",
    "quantity",
    "stderr",
    "stdout",
    "table",
]


def stdout() -> Console:
    """Where data goes; plain when it is no terminal, 80 columns unless ``COLUMNS`` says more."""
    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """Where progress and remarks go."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def table(*columns: tuple[str, str, int | None], header: bool = True) -> Table:
    """A table without lines; a column is (title, "left" or "right", width or None)."""
    made = Table(box=None, show_header=header, pad_edge=False, padding=(0, 1, 0, 0))
    for title, justify, width in columns:
        sides: Any = justify
        made.add_column(title, justify=sides, width=width, overflow="fold")
    return made


def print_wrapped(line: str, indent: int = 2, style: str | None = None) -> None:
    """Print ``line`` to standard output, going on ``indent`` columns to the right where it is full.

    In a pipe, whose reader wants whole lines, only where ``COLUMNS`` is set.
    """
    console = stdout()
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.print(line, style=style, soft_wrap=True)
        return
    # Names are not cut at their hyphens, so that they can be copied; long ones are cut anywhere.
    rows = textwrap.wrap(
        line,
        console.width,
        subsequent_indent=" " * min(indent, console.width * 3 // 4),
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    console.print("\n".join(rows), style=style, soft_wrap=True)


class Bar:
    """A progress bar on standard error; silent when that is no terminal.

    Args:
        total: the whole work; None while nobody knows.
    """

    def __init__(self, total: int | None = None) -> None:
        console = stderr()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, description: str, done: float, total: float | None = None) -> None:
        """Say what is being done, and how much is, of ``total`` if that is new."""
        self._progress.update(self._task, description=description, completed=done, total=total)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something else is written to the terminal."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


def json_text(value: Any) -> str:
    """Indented JSON."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
