"""How many steps are queued before the host waits for the device."""

from __future__ import annotations

CHUNK_S = 0.1
"""Seconds that a chunk should take: a wait costs microseconds, and ``stop`` is asked then."""

GROWTH = 8
"""How much larger a chunk may be than the one before: the first steps say little of the others."""


class Pace:
    """Sizes of chunks, from the time that the ones before took."""

    def __init__(self) -> None:
        self._steps = 1

    def next(self, most: int) -> int:
        """Steps of the next chunk, not more than ``most``."""
        return min(self._steps, most)

    def took(self, steps: int, seconds: float) -> None:
        """A chunk of ``steps`` was done in ``seconds``."""
        most = GROWTH * self._steps
        self._steps = max(1, min(most, int(CHUNK_S * steps / seconds))) if seconds > 0 else most
