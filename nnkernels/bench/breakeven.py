"""From which size on a second candidate is faster: a search that knows how to measure a size.

A coarse scan of sizes a constant factor apart, then bisection. At every size the second candidate
wins, loses, or ties: the interval of its ratio to the first is below 1, above 1, or includes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

SIZES = 17
"""Sizes of the scan."""

WIDTH = 0.2
"""Width of an interval of sizes, relative to its lower end, below which bisection ends."""

TRIES = 3
"""How often a size that contradicts its neighbours is measured."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of the second candidate over that of the first, and an interval that encloses it."""

    value: float
    low: float
    high: float

    @property
    def wins(self) -> bool:
        """Whether the second is faster."""
        return self.high < 1

    @property
    def loses(self) -> bool:
        """Whether the second is slower."""
        return self.low > 1


Measure = Callable[[int], Ratio | None]
"""Measures a size, and again the better for it when it is asked once more; None: it cannot."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The answer.

    Attributes:
        verdict: ``found``: from ``size`` on it is faster; ``always``: at every measured size;
            ``never``: at none; ``unclear``.
        size: the break-even size, if there is one.
        interval: measured sizes that enclose it.
        ties: from where to where, if that is more than the interval, nobody could tell them apart.
        wins_below: the largest size up to which the second is faster too, or instead.
    """

    verdict: Literal["found", "always", "never", "unclear"]
    size: float | None = None
    interval: tuple[int, int] | None = None
    ties: tuple[int, int] | None = None
    wins_below: int | None = None


def spaced(low: int, high: int, count: int = SIZES) -> list[int]:
    """Up to ``count`` whole numbers from ``low`` to ``high``, a constant factor apart."""
    factor = math.log(high / low) / (count - 1)
    return sorted({round(low * math.exp(factor * i)) for i in range(count)})


def search(measure: Measure, sizes: Sequence[int]) -> BreakEven:
    """Scan ``sizes``, then bisect around the break-even size."""
    scan = _Scan(measure)
    for size in sizes:
        scan.at(size)
    scan.settle()
    wins, losses = scan.where("wins"), scan.where("loses")
    lost = max(losses, default=0)
    above = [size for size in wins if size > lost]
    below = max((size for size in wins if size < lost), default=None)
    if not wins:
        return BreakEven("never" if losses else "unclear")
    if not above:
        return BreakEven("unclear", wins_below=below)
    if above[0] == scan.sizes[0]:
        return BreakEven("always")
    return _found(scan, above[0], below)


def _found(scan: _Scan, first_win: int, below: int | None) -> BreakEven:
    before, won = scan.narrow(scan.before(first_win), first_win, "wins")
    lost = max((s for s in scan.where("loses") if s < won), default=None)
    if lost is None:
        ties = (scan.sizes[0], before)
        return BreakEven("found", math.sqrt(before * won), (before, won), ties, below)
    lost, kept = scan.narrow(lost, scan.after(lost), "loses", negated=True)
    if kept == won or _near(lost, won):
        return BreakEven("found", scan.crossing(lost, won), (lost, won), None, below)
    return BreakEven("found", math.sqrt(before * won), (before, won), (kept, before), below)


def _near(low: int, high: int) -> bool:
    return high - low <= 1 or high < low * (1 + WIDTH)


class _Scan:
    """What has been measured."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._found: dict[int, Ratio] = {}

    @property
    def sizes(self) -> list[int]:
        """What has been measured, ascending."""
        return sorted(self._found)

    def at(self, size: int) -> Ratio | None:
        """Measure a size."""
        found = self._measure(size)
        if found is not None:
            self._found[size] = found
        return found

    def where(self, what: Literal["wins", "loses"]) -> list[int]:
        """Sizes at which the second wins, or loses."""
        return [size for size in self.sizes if getattr(self._found[size], what)]

    def before(self, size: int) -> int:
        """The next smaller measured size."""
        return max(s for s in self._found if s < size)

    def after(self, size: int) -> int:
        """The next larger measured size."""
        return min(s for s in self._found if s > size)

    def settle(self) -> None:
        """Measure again what contradicts one change from losing to winning: noise, often."""
        for _ in range(TRIES - 1):
            wins, losses = self.where("wins"), self.where("loses")
            if not wins:
                return
            first, last = wins[0], max(losses, default=0)
            doubtful = [s for s in self.sizes if first <= s <= last]
            doubtful += [s for s in self.sizes if s > max(first, last) and s not in wins]
            for size in doubtful:
                self.at(size)

    def narrow(
        self, low: int, high: int, what: Literal["wins", "loses"], *, negated: bool = False
    ) -> tuple[int, int]:
        """Bisect between ``low``, where it is not so, and ``high``, where it is.

        With ``negated`` the other way round. Ends early where a size cannot be measured.
        """
        while not _near(low, high):
            middle = round(math.sqrt(low * high))
            found = None if middle in (low, high) else self.at(middle)
            if found is None:
                break
            if getattr(found, what) is not negated:
                high = middle
            else:
                low = middle
        return low, high

    def crossing(self, low: int, high: int) -> float:
        """Where the ratio is 1, if its logarithm is linear in that of the size."""
        at_low, at_high = (math.log(self._found[size].value) for size in (low, high))
        share = at_low / (at_low - at_high)
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
