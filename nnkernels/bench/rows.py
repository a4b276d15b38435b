"""What names a measured row, in tables, files and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from nnkernels.bench.results import Result, Run, Times
from nnkernels.bench.text import counted

Kind = Literal["call", "kernel", "queued", "e2e"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The times of a row, see :class:`~nnkernels.bench.results.TimesByKind`."""


class Row(NamedTuple):
    """One time of one candidate on one workload: equal where two runs measured the same thing."""

    workload: str
    size: str
    dtype: str
    backend: str
    threads: int | None
    kind: Kind = "call"

    @property
    def case(self) -> str:
        """The workload at its size: ``matmul[1024]``."""
        return case_name(self.workload, self.size)

    def __str__(self) -> str:
        """``matmul[1024] float32 numpy, 2 threads``; a time other than the call's is named."""
        threads = f", {counted(self.threads, 'thread')}" if self.threads is not None else ""
        kind = "" if self.kind == "call" else f", {self.kind} time"
        return f"{self.case} {self.dtype} {self.backend}{threads}{kind}"


def size_of(result: Result) -> str:
    """The size as text; older results have only parameters."""
    if result.size is not None:
        return result.size
    return " ".join(f"{name}={value}" for name, value in result.params.items())


def case_name(workload: str, size: str) -> str:
    """A workload at a size: ``matmul[1024]``."""
    return f"{workload}[{size}]" if size else workload


def row_of(run: Run, result: Result, kind: Kind = "call") -> Row:
    """The name of a result's row."""
    threads = result.threads if result.threads is not None else run.settings.threads
    return Row(result.workload, size_of(result), result.dtype, result.backend, threads, kind)


def times_of(result: Result) -> Iterator[tuple[Kind, Times]]:
    """The times that were measured."""
    for kind in KINDS:
        times: Times | None = getattr(result.times, kind)
        if times is not None:
            yield kind, times


def timed(run: Run) -> Mapping[Row, Times]:
    """All times of a run by the name of their row."""
    return {
        row_of(run, result, kind): times
        for result in run.results
        if result.status == "ok"
        for kind, times in times_of(result)
    }


def cases(run: Run) -> Mapping[str, Mapping[str, Times]]:
    """For every workload that was timed, the calls' times by candidate.

    A workload's title is its name; where one was measured at several sizes or dtypes, with them,
    and with the threads where a candidate was measured with several numbers of them.
    """
    timed = [r for r in run.results if r.times.call is not None and r.status == "ok"]
    threads = _compared_threads(timed)
    found: dict[tuple[str, str, str, int | None], dict[str, Times]] = {}
    for result in timed:
        assert result.times.call is not None
        key = (result.workload, size_of(result), result.dtype)
        told = result.threads if threads else None
        found.setdefault((*key, told), {})[result.backend] = result.times.call
    sizes: dict[str, set[str]] = {}
    for workload, size, *_ in found:
        sizes.setdefault(workload, set()).add(size)
    dtypes = {dtype for _, _, dtype, _ in found}
    return {
        (workload if len(sizes[workload]) == 1 else case_name(workload, size))
        + (f" {dtype}" if len(dtypes) > 1 else "")
        + (f" with {counted(told, 'thread')}" if told is not None else ""): times
        for (workload, size, dtype, told), times in found.items()
    }


def _compared_threads(results: Sequence[Result]) -> bool:
    """Whether a candidate was measured more than once on a workload, with other threads."""
    names = [(r.workload, size_of(r), r.dtype, r.backend) for r in results]
    return len(set(names)) < len(names)
