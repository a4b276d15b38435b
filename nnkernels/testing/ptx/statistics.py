"""What a launch did, counted: instructions by kind, memory sectors, bank conflicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Global accesses in one direction, counted by warp requests.

    ``sectors`` are the 32-byte sectors that the requests touch, ``ideal`` the fewest that hold
    the distinct bytes asked for; ``widths`` counts the requests by bytes a thread.
    """

    requests: int = 0
    sectors: int = 0
    ideal: int = 0
    widths: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.requests + other.requests,
            self.sectors + other.sectors,
            self.ideal + other.ideal,
            self.widths + other.widths,
        )


@dataclass
class SharedTraffic:
    """Shared accesses: ``wavefronts`` beyond ``ideal`` are bank conflicts."""

    requests: int = 0
    wavefronts: int = 0
    ideal: int = 0

    def __add__(self, other: SharedTraffic) -> SharedTraffic:
        return SharedTraffic(
            self.requests + other.requests,
            self.wavefronts + other.wavefronts,
            self.ideal + other.ideal,
        )


COUNTERS = ("shuffles", "barriers", "atomics", "f64_instructions")


@dataclass
class Statistics:
    """Counts of one or several launches; ``+`` adds them.

    All but ``launches`` and ``barriers`` (one a block) are counted by warp. ``loads``, ``stores``
    and ``shared`` are counted only into an object that the caller passes to ``run``: sorting
    addresses costs time. With ``detailed``, ``executed`` and ``traffic`` tell by instruction
    (kernel name, pc) how many warps executed it and what a global access touched.
    """

    detailed: bool = False
    launches: int = 0
    warp_instructions: int = 0
    shuffles: int = 0
    barriers: int = 0
    atomics: int = 0
    f64_instructions: int = 0
    loads: Traffic = field(default_factory=Traffic)
    stores: Traffic = field(default_factory=Traffic)
    shared: SharedTraffic = field(default_factory=SharedTraffic)
    executed: Counter[tuple[str, int]] = field(default_factory=Counter)
    traffic: dict[tuple[str, int], Traffic] = field(default_factory=dict)

    def __add__(self, other: Statistics) -> Statistics:
        total = Statistics(self.detailed or other.detailed)
        for part in (self, other):
            total.add(part)
        return total

    def add(self, other: Statistics) -> None:
        """Count what ``other`` counted too."""
        for name in ("launches", "warp_instructions", *COUNTERS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.loads += other.loads
        self.stores += other.stores
        self.shared += other.shared
        self.executed += other.executed
        self._add_traffic(other.traffic)

    def _add_traffic(self, traffic: Mapping[tuple[str, int], Traffic]) -> None:
        for at, seen in traffic.items():
            self.traffic[at] = self.traffic.get(at, Traffic()) + seen

    def count_global(self, kernel: str, pc: int, load: bool, seen: Traffic) -> None:
        """Count the requests of one instruction."""
        if load:
            self.loads += seen
        else:
            self.stores += seen
        if self.detailed:
            self._add_traffic({(kernel, pc): seen})
