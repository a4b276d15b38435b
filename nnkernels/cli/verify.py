"""``nnkernels verify``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.cli._app import FAILED, unknown_operator
from nnkernels.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from nnkernels.backend import Backend
    from nnkernels.testing import Failure, Report


def command(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="Name of the backend.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes and networks.")] = False,
    operators: Annotated[
        list[str] | None,
        typer.Option("-k", "--operator", metavar="NAME", help="Only this; may be repeated."),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="'cupy' on the simulated device: slow, needs no GPU."),
    ] = False,
) -> None:
    """Check a backend against the float64 reference.

    Values, special values, layouts, dtypes, aliasing and gradients of all operators, and 20 random
    networks. Exit code 1 when anything fails, 3 when the backend is not available here.

    \b
    Examples:
      nnkernels verify numpy --quick
      nnkernels verify numpy -k relu -k matmul
      nnkernels verify "numpy[relu=mypkg.kernels:relu]"
      nnkernels verify cupy --simulate --quick
    """
    from nnkernels import get_backend
    from nnkernels.cli._render import Bar, stdout
    from nnkernels.spec import OPERATORS
    from nnkernels.testing import NETWORKS, verify
    from nnkernels.testing.suite import select_parts

    chosen = _simulated(backend) if simulate else get_backend(backend)
    for name in operators or ():
        if name not in (*OPERATORS, NETWORKS):
            raise unknown_operator(name)
    with Bar(len(select_parts(operators))) as bar:
        report = verify(
            chosen,
            operators=operators,
            quick=quick,
            progress=lambda done, total, name: bar.show(name, done),
        )
    _print(stdout(), report)
    if not report.ok:
        raise typer.Exit(FAILED)


def _simulated(name: str) -> Backend:
    from nnkernels.testing import simulated

    if name != "cupy":
        raise InputError(f"--simulate stands in for a GPU: it takes backend 'cupy', not {name!r}")
    return simulated.backend()


def _print(console: Console, report: Report) -> None:
    if report.failures:
        _print_failures(console, report.failures)
    if report.reference:
        listed = ", ".join(report.reference)
        console.print(f"served by the reference, which proves nothing: {listed}")
    for name, owner in report.fallback.items():
        console.print(f"not checked: {name} is served by {owner}", soft_wrap=True)
    console.print(str(report).partition("\n")[0], soft_wrap=True)


def _print_failures(console: Console, failures: Sequence[Failure]) -> None:
    """One row for each operator, check and dtype, with the first of its failures."""
    from nnkernels.cli._render import table

    groups: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.operator, failure.check, failure.dtype), []).append(failure)
    rows = table(
        ("operator", "left", 16),
        ("check", "left", 11),
        ("dtype", "left", 7),
        ("fails", "right", 5),
        ("first of them", "left", None),
    )
    for (operator, check, dtype), found in groups.items():
        first = f"{found[0].case}: {found[0].message}"
        rows.add_row(operator, check, dtype, str(len(found)), " ".join(first.split()), style="red")
    console.print(rows)
