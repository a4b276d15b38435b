"""A candidate's process, seen from the parent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.peers.worker import CPUS
from nnkernels.bench.workers import Worker, WorkerLostError

ROOT = Path(__file__).parents[2]

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
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        life_end, self._life = os.pipe()
        theirs = (request_end, reply_end, life_end)
        self._buffer = bytearray()
        self._open = [self._requests, self._replies, self._life]
        listed = CPUS if cpus is None else ",".join(map(str, cpus))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", *map(str, theirs), listed],
                env=_environment(threads, environment),
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            self._close_pipes()
            raise WorkerLostError(f"its process cannot be started: {error.strerror}") from error
        finally:
            for end in theirs:
                os.close(end)

    def seconds(self, patience: float, do: str, **request: Any) -> float:
        """What the candidate says that something took; errors as with ``ask``."""
        return self.ask(Seconds, patience, do, **request).seconds


def _environment(threads: int, extra: Mapping[str, str]) -> dict[str, str]:
    path = [str(ROOT), *(entry for entry in sys.path if entry)]
    pools = dict.fromkeys(POOLS, str(threads))
    return {**os.environ, **pools, "PYTHONPATH": os.pathsep.join(path), **extra}


def last_cpus(count: int) -> list[int] | None:
    """The last ``count`` CPUs that this process may use; None where the system cannot tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))[-count:]
