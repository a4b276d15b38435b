"""``nnkernels list``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import typer

Preset = Literal["quick", "default", "thorough"]


def command(
    what: Annotated[
        Literal["workloads", "operators", "backends", "datasets"],
        typer.Argument(help="What to list."),
    ] = "workloads",
    preset: Annotated[Preset, typer.Option(help="Sizes of the workloads.")] = "default",
) -> None:
    """List workloads with their tags, operators, backends, or datasets, one a line.

    \b
    Examples:
      nnkernels list
      nnkernels list workloads --preset quick
      nnkernels list operators
    """
    lines = {
        "workloads": lambda: _workloads(preset),
        "operators": _operators,
        "backends": _backends,
        "datasets": _datasets,
    }[what]()
    for line in lines:
        typer.echo(line)


def _workloads(preset: Preset) -> Iterator[str]:
    from nnkernels.bench import harness

    cases = harness.cases(preset)
    width = max(len(case.id) for case in cases)
    for case in cases:
        yield f"{case.id:<{width}}  {' '.join(case.tags)}"


def _operators() -> Iterator[str]:
    from nnkernels.spec import OPERATORS

    width = max(map(len, OPERATORS))
    for name, op in sorted(OPERATORS.items()):
        summary = (op.__doc__ or "").strip().partition("\n")[0]
        yield f"{name:<{width}}  {summary}".rstrip()


def _backends() -> Iterator[str]:
    from nnkernels import plugins

    for name, reason in plugins.availability().items():
        yield f"{name}  {'available' if reason is None else reason}"


def _datasets() -> Iterator[str]:
    from nnkernels import data

    yield from data.names()
