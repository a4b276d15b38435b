"""The ceilings of all that the candidates of a run work on: the CPU, and each other device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nnkernels.bench import ceilings, device_ceilings, machine
from nnkernels.bench.ceilings import Progress
from nnkernels.bench.results import Ceiling
from nnkernels.bench.session import Candidate, Plan
from nnkernels.bench.workers import CandidateError, Settings


class Depth(NamedTuple):
    """How much is measured of the CPU and of other devices."""

    cpu: ceilings.Effort
    device: device_ceilings.Effort


GLANCE = Depth(ceilings.Effort((1024,), ("triad",), 16, 2, 3, 0.02), device_ceilings.QUICK)
QUICK = Depth(ceilings.QUICK, device_ceilings.QUICK)
FULL = Depth(ceilings.FULL, device_ceilings.FULL)


@dataclass
class Survey:
    """Measures, with the settings of the workloads, as often as it is asked to.

    Args:
        plan: says the dtypes and the CPUs; its own number of threads goes before ``counts``.
        crew: who is to be judged.
        depth: how much.
        progress: how far it is.
        counts: numbers of CPU threads.

    Attributes:
        warnings: which devices have no ceilings, and why; they are not asked again.
    """

    plan: Plan
    crew: Sequence[Candidate]
    depth: Depth
    progress: Progress
    counts: Sequence[int]
    warnings: list[str] = field(default_factory=list)
    _given_up: set[str] = field(default_factory=set)

    def measure(self) -> list[Ceiling]:
        """The ceilings of all devices that answer."""
        devices = {candidate.device: candidate.name for candidate in self.crew}
        found: list[Ceiling] = []
        for device, backend in devices.items():
            if device in self._given_up:
                continue
            try:
                found += self._cpu() if device == "cpu" else self._other(backend)
            except CandidateError as error:
                self._given_up.add(device)
                why = machine.scrub(str(error))
                self.warnings.append(f"the ceilings of {device} are not known: {why}")
        return found

    def _cpu(self) -> list[Ceiling]:
        return ceilings.measure(
            threads=[self.plan.threads] if self.plan.threads else self.counts,
            dtypes=sorted({case.dtype for case in self.plan.cases}),
            effort=self.depth.cpu,
            settings=Settings(cpus=self.plan.cpus),
            progress=self.progress,
        )

    def _other(self, backend: str) -> list[Ceiling]:
        return device_ceilings.measure(backend, effort=self.depth.device, progress=self.progress)
