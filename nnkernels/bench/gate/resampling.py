"""What the gate would have said of recorded restarts of equal code, drawn again many times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.bench.gate import verdicts
from nnkernels.bench.gate.verdicts import ALPHA
from nnkernels.bench.results import Power

DRAWS = 2000
"""With no false alarm among so many, the rate is at most 0.15 % with 95 % confidence."""

CHOICES = (6, 8, 10, 12, 16, 24)
"""Numbers of restarts to recommend."""

WANTED_SLOWDOWN, WANTED_POWER, WANTED_ALARMS = 0.05, 0.8, 0.01


@dataclass(frozen=True, slots=True)
class Recorded:
    """Restarts of one workload with the same code on both sides: ln(t_b / t_a) of every pair.

    Attributes:
        logs: shape (restarts, pairs).
    """

    logs: Any

    @property
    def spread(self) -> float:
        """Standard deviation of a restart's ``d``."""
        return float(np.median(self.logs, axis=1).std(ddof=1))

    def draw(self, restarts: int, draws: int, rng: np.random.Generator) -> Any:
        """``draws`` runs of so many restarts, shape (draws, restarts), with replacement."""
        recorded, pairs = self.logs.shape
        chosen = rng.integers(recorded, size=(draws, restarts, 1))
        return np.median(self.logs[chosen, rng.integers(pairs, size=(draws, restarts, pairs))], -1)

    def powers(
        self,
        slowdowns: Sequence[float],
        restarts: int,
        rng: np.random.Generator,
        draws: int = DRAWS,
    ) -> list[Power]:
        """How often each slowdown would be called what, as the only candidate of its run."""
        stages = [self.draw(restarts, draws, rng) for _ in range(2)]
        return [_power(slowdown, stages) for slowdown in slowdowns]

    def recommended(self, rng: np.random.Generator, draws: int = DRAWS) -> int:
        """The fewest restarts that see what is wanted without false alarms, or the most."""
        for restarts in CHOICES:
            aa, slow = self.powers((0.0, WANTED_SLOWDOWN), restarts, rng, draws)
            quiet = aa.slower + aa.faster <= WANTED_ALARMS * draws
            if quiet and slow.slower >= WANTED_POWER * draws:
                return restarts
        return CHOICES[-1]


def _power(slowdown: float, stages: Sequence[Any]) -> Power:
    count = len(stages[0])
    screen, confirm = (verdicts.estimate(d + math.log1p(slowdown)) for d in stages)
    if screen is None or confirm is None:
        return Power(slowdown, "resampled", count, 0, 0, count)
    slower = (screen.p_slower() <= ALPHA) & (confirm.p_slower() <= ALPHA)
    faster = (screen.p_faster() <= ALPHA) & (confirm.p_faster() <= ALPHA)
    same = screen.p_same() <= ALPHA
    called = [int(np.count_nonzero(each)) for each in (slower, faster, same)]
    return Power(slowdown, "resampled", count, called[0], called[1], count - sum(called))
