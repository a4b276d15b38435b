"""``nnkernels list``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import typer

from nnkernels.cli._options import Workloads, add_workloads

Preset = Literal["quick", "default", "thorough"]


def command(
    what: Annotated[
        Literal["workloads", "operators", "backends", "datasets"],
        typer.Argument(help="What to list."),
    ] = "workloads",
    preset: Annotated[Preset, typer.Option(help="Sizes of the workloads.")] = "default",
    workloads: Workloads = None,
) -> None:
    """List workloads with their tags, operators, backends, or datasets, one a line.

    On a terminal long lines are continued, indented, on the next.

    \b
    Examples:
      nnkernels list
      nnkernels list workloads --preset quick
      nnkernels list operators
      nnkernels list backends --workloads mine.py
    """
    from nnkernels.cli._render import print_wrapped

    add_workloads(workloads)
    rows = {
        "workloads": lambda: _workloads(preset),
        "operators": _operators,
        "backends": _backends,
        "datasets": _datasets,
    }[what]()
    for name, width, about in rows:
        print_wrapped(f"{name:<{width}}  {about}".rstrip(), indent=width + 2)


Row = tuple[str, int, str]
"""A name, the width of its column, and what is said about it."""


def _workloads(preset: Preset) -> Iterator[Row]:
    from nnkernels.bench import harness

    cases = harness.cases(preset)
    width = max(len(case.id) for case in cases)
    for case in cases:
        yield case.id, width, " ".join(case.tags)


def _operators() -> Iterator[Row]:
    from nnkernels.spec import OPERATORS

    width = max(map(len, OPERATORS))
    for name, op in sorted(OPERATORS.items()):
        summary = (op.__doc__ or "").strip().partition("\n")[0]
        yield name, width, summary


def _backends() -> Iterator[Row]:
    from nnkernels import plugins

    found = plugins.availability()
    width = max(map(len, found))
    for name, reason in found.items():
        yield name, width, "available" if reason is None else reason


def _datasets() -> Iterator[Row]:
    from nnkernels import data

    for name in data.names():
        yield name, 0, ""
