"""What will make numbers wrong on this machine: checks, each with its figure and its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from nnkernels.bench.doctor import host, kernels, noise, overhead
from nnkernels.bench.doctor.finding import Finding, Status
from nnkernels.bench.gate.pairs import RowError
from nnkernels.bench.workers import CandidateError
from nnkernels.errors import NnkernelsError

Check = Callable[[], Finding]

CHEAP: dict[str, Check] = {
    "load": host.load,
    "CPU limit": host.quota,
    "clock": host.clock,
    "timer": host.timer,
    "interruptions": host.interruptions,
    "memory": host.memory,
    "GPU": host.gpu,
    "harness": overhead.check,
    "BLAS kernel": kernels.named,
}
"""Take a second or two together, and start no process."""

ALL: dict[str, Check] = {
    **CHEAP,
    "BLAS kernel": kernels.forced,
    "threads": kernels.scaling,
    "noise": noise.check,
}
"""Some measure in workers."""


def run(checks: Mapping[str, Check], progress: Callable[[str, int], None]) -> Iterator[Finding]:
    """The findings of ``checks``, each as soon as it is there; one that cannot be made says why.

    ``progress`` is told the name and the number of the next one.
    """
    for number, (name, check) in enumerate(checks.items()):
        progress(name, number)
        try:
            yield check()
        except (CandidateError, RowError, NnkernelsError, OSError) as error:
            yield Finding(name, "skipped", f"could not be measured: {error}")


__all__ = ["ALL", "CHEAP", "Check", "Finding", "Status", "run"]
