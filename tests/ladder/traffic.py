"""What kernels move to and from memory, as the PTX interpreter counts it.

``python -m ladder.traffic`` writes the table of all kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ladder import cases, interpreted
from ladder.cases import Case, Kernel
from ladder.interpreted import Find, Interpreter

from nnkernels.backends.cupy import recipes, sources
from nnkernels.testing.ptx import Statistics

SECTOR_BYTES = 32
EXCESS = 1.05
"""Sectors that a kernel may touch, in those that its requests need at least."""

MORE: Mapping[str, tuple[float, str]] = {
    "dropout_vec": (2.0, "float64: a Philox block is four elements, two accesses side by side"),
}
"""By kernel: what it may touch instead, and why."""

LANES = 32
FEW_REQUESTS = 4
"""Of so few requests the ratio says nothing."""


class Measured(NamedTuple):
    """A kernel's traffic on the shape that suits it best.

    Attributes:
        case: which one it is.
        read, written: bytes, in whole sectors.
        excess: touched sectors, in those that are needed.
        conflicts: wavefronts of shared memory that bank conflicts cost, over all cases.
    """

    case: str
    read: int
    written: int
    excess: float
    conflicts: int


def measure(
    module: str, storage: str, chosen: Iterable[Case], find: Find = interpreted.module
) -> dict[str, Measured]:
    """The kernels of a module that cases launch, by name; ``find`` gives the modules' PTX."""
    found: dict[str, list[tuple[str, Statistics]]] = {}
    for case in chosen:
        if case.name.startswith("size") or case.operator not in recipes():
            for (of, kernel), statistics in counted(case, storage, find).items():
                if of == module:
                    found.setdefault(kernel, []).append((str(case), statistics))
    return {kernel: _summary(seen) for kernel, seen in found.items()}


def counted(case: Case, storage: str, find: Find) -> dict[Kernel, Statistics]:
    """What a case's launches do, by kernel."""
    found: dict[Kernel, Statistics] = {}
    fault = Interpreter(find, counted=found).run(case.build(storage))
    assert not fault, fault
    return found


def _summary(seen: list[tuple[str, Statistics]]) -> Measured:
    conflicts = sum(s.shared.wavefronts - s.shared.ideal for _, s in seen)
    large = [(name, s) for name, s in seen if s.loads.requests >= FEW_REQUESTS] or seen
    name, best = min(large, key=lambda found: _excess(found[1]))
    read, written = best.loads.sectors * SECTOR_BYTES, best.stores.sectors * SECTOR_BYTES
    return Measured(name, read, written, _excess(best), conflicts)


def _excess(statistics: Statistics) -> float:
    ratios = [t.sectors / t.ideal for t in (statistics.loads, statistics.stores) if t.ideal]
    return max(ratios, default=1.0)


def allowed(module: str, kernel: str, storage: str) -> float:
    """The most sectors that a kernel may touch, in those that it needs.

    A kernel that has a vector variant takes the rows that begin and end inside sectors: a warp's
    neighbouring elements then reach into one sector more.
    """
    if kernel in MORE:
        return MORE[kernel][0]
    if f"{kernel}_vec" in sources.signatures(module):
        return 1 + SECTOR_BYTES / (LANES * sources.ITEMSIZES[storage])
    return EXCESS


def faults(
    module: str, storage: str, chosen: Iterable[Case], find: Find = interpreted.module
) -> list[str]:
    """Kernels of a module that waste sectors, or whose threads meet in a bank."""
    found = []
    for kernel, measured in measure(module, storage, chosen, find).items():
        if measured.excess > allowed(module, kernel, storage):
            found.append(f"{kernel} touches {measured.excess:.2f} times the sectors it needs")
        if measured.conflicts:
            found.append(f"{kernel} loses {measured.conflicts} wavefronts to bank conflicts")
    return found


def table(storage: str) -> Iterator[str]:
    """Lines of a table of all kernels."""
    yield f"{'kernel':60} {'read':>9} {'written':>9} {'excess':>6}  case"
    for module in sources.module_names():
        for kernel, m in measure(module, storage, cases.of_module(module, storage)).items():
            name = f"{module}.{kernel}"
            yield f"{name:60} {m.read:9} {m.written:9} {m.excess:6.2f}  {m.case}"


if __name__ == "__main__":
    for storage in sys.argv[1:] or ["float32"]:
        sys.stdout.writelines(f"{line}\n" for line in table(storage))
