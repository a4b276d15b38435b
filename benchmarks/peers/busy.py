"""Our training steps beside a process that keeps one CPU busy."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from benchmarks.peers.catalogue import Candidate
from benchmarks.peers.record import Row
from benchmarks.peers.rounds import Effort, Tell, measure, training_task

TABLE = "consecutive"
TARGET = 1.3
"""Largest slowdown of the most threads against the fewest that is aimed at."""

_SPIN = """
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def busy_process() -> Iterator[int]:
    """A process that spins, on whichever CPU, until the block or this process ends; its id."""
    command = [sys.executable, "-c", _SPIN, str(os.getpid())]
    with subprocess.Popen(command, start_new_session=True) as spinner:
        try:
            yield spinner.pid
        finally:
            os.killpg(spinner.pid, signal.SIGKILL)


def measure_busy(
    workload: str,
    candidates: Sequence[Candidate],
    threads: Sequence[int],
    quick: bool,
    effort: Effort,
    tell: Tell,
) -> list[Row]:
    """Every backend with every number of threads, in turns, pinned nowhere."""
    task = training_task(workload, TABLE, quick)
    entries = [(candidate, count) for candidate in candidates for count in threads]
    with busy_process():
        found = measure(task, entries, effort, tell, pinned=False)
    for row in found:
        row.busy = True
    return found


def slowdowns(rows: Sequence[Row]) -> list[tuple[Row, Row, float]]:
    """Rows of the same candidate with the fewest and the most threads, and the ratio of times."""
    found = []
    for key in dict.fromkeys((row.workload, row.title) for row in rows):
        own = [row for row in rows if (row.workload, row.title) == key and row.samples]
        if len(own) > 1:
            few, many = min(own, key=_threads), max(own, key=_threads)
            found.append((few, many, many.median / few.median))
    return found


def _threads(row: Row) -> int:
    return row.threads
