"""A candidate's process, seen from the parent."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nnkernels.bench.workers import Settings, Worker

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("worker.py")

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Seconds(msgspec.Struct):
    """What something took."""

    seconds: float


class Done(msgspec.Struct):
    """Something has been done."""


class Process(Worker):
    """A worker that runs ``worker.py``: asked, awaited and ended as nnkernels' own workers are.

    Args:
        threads: of every pool of threads that the libraries bring.
        environment: variables that the candidate needs besides.
        cpus: numbers of the CPUs that it may use; None for all of the parent's.

    Raises:
        WorkerLostError: it cannot be started.
    """

    def __init__(
        self, threads: int, environment: Mapping[str, str], cpus: Sequence[int] | None
    ) -> None:
        path = [str(ROOT), *(entry for entry in sys.path if entry)]
        variables = {
            **dict.fromkeys(POOLS, str(threads)),
            "PYTHONPATH": os.pathsep.join(path),  # for the processes that a library starts
            **environment,
        }
        super().__init__(Settings(path=path, environment=variables, cpus=cpus, program=PROGRAM))

    def seconds(self, patience: float, do: str, **request: Any) -> float:
        """What the candidate says that something took; errors as with ``ask``."""
        return self.ask(Seconds, patience, do, **request).seconds


def last_cpus(count: int) -> list[int] | None:
    """The last ``count`` CPUs that this process may use; None where the system cannot tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))[-count:]
