"""The times that other tools are given: each row once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nnkernels.bench.results import Result, Run, Times
from nnkernels.bench.rows import Row, row_of, times_of
from nnkernels.errors import InputError


class Timed(NamedTuple):
    """One time of a run."""

    run: Run
    result: Result
    row: Row
    times: Times


def timed(runs: Sequence[Run], what: str) -> list[Timed]:
    """All times of all runs.

    Raises:
        InputError: there are none, or one row is in two runs, where ``what`` could not tell them
            apart.
    """
    found: dict[Row, Timed] = {}
    for run in runs:
        for result in run.results:
            for kind, times in times_of(result):
                row = row_of(run, result, kind)
                if row in found:
                    raise InputError(
                        f"report: {row} is there twice, which {what} cannot hold; export one run "
                        "at a time"
                    )
                found[row] = Timed(run, result, row, times)
    if not found:
        raise InputError(
            f"report: no run has times, so there is nothing for {what}; give what 'nnkernels "
            "bench -o' wrote"
        )
    return list(found.values())
