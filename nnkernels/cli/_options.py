"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Workloads = Annotated[
    list[Path] | None,
    typer.Option(
        "--workloads",
        metavar="FILE.py",
        help="Workloads and backends of your own (docs/measuring.md); may be repeated.",
    ),
]


def add_workloads(paths: Sequence[Path] | None) -> None:
    """Add what the files declare to the registry, of this process and of the workers it starts.

    Raises:
        InputError: a file cannot be loaded, or a name in it is taken.
    """
    if paths:
        from nnkernels.bench import harness

        for path in paths:
            harness.add(path)
