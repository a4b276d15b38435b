"""The ceilings of all that the candidates of a run work on: the CPU, and each other device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nnkernels.bench import ceilings, device_ceilings
from nnkernels.bench.ceilings import Progress
from nnkernels.bench.results import Ceiling
from nnkernels.bench.session import Candidate, Plan
from nnkernels.bench.workers import Settings


class Depth(NamedTuple):
    """How much is measured of the CPU and of other devices."""

    cpu: ceilings.Effort
    device: device_ceilings.Effort


GLANCE = Depth(ceilings.Effort((1024,), ("triad",), 16, 2, 3, 0.02), device_ceilings.QUICK)
QUICK = Depth(ceilings.QUICK, device_ceilings.QUICK)
FULL = Depth(ceilings.FULL, device_ceilings.FULL)


def measure(
    plan: Plan,
    crew: Sequence[Candidate],
    depth: Depth,
    progress: Progress,
    counts: Sequence[int],
) -> list[Ceiling]:
    """Measure with the settings of the workloads.

    Args:
        plan: says the dtypes and the CPUs; its own number of threads goes before ``counts``.
        crew: who is to be judged.
        depth: how much.
        progress: how far it is.
        counts: numbers of CPU threads.

    Raises:
        CandidateError: a worker was lost, or cannot measure.
    """
    found: list[Ceiling] = []
    if any(candidate.device == "cpu" for candidate in crew):
        found += ceilings.measure(
            threads=[plan.threads] if plan.threads else counts,
            dtypes=sorted({case.dtype for case in plan.cases}),
            effort=depth.cpu,
            settings=Settings(cpus=plan.cpus),
            progress=progress,
        )
    others = {c.device: c.name for c in crew if c.device != "cpu"}
    for backend in others.values():
        found += device_ceilings.measure(backend, effort=depth.device, progress=progress)
    return found
