"""Caches without the data of the last call."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

PRIVATE_BYTES = 8 << 20
"""What every CPU walks over at least: more than caches of its own hold."""


class Eviction:
    """Walks over memory that nobody needs, on every CPU that this process may use.

    Args:
        nbytes: in all; twice the last-level cache leaves nothing of what was there.
    """

    def __init__(self, nbytes: int) -> None:
        affinity = getattr(os, "sched_getaffinity", None)
        self._cpus = sorted(affinity(0)) if affinity else []
        share = max(nbytes // max(len(self._cpus), 1), PRIVATE_BYTES)
        self._parts = [np.zeros(share // 8) for _ in self._cpus or [0]]
        self._pool = ThreadPoolExecutor(len(self._parts))

    def __call__(self) -> None:
        """Read and write all of it; threads end on the CPU where they began."""
        list(self._pool.map(self._walk, range(len(self._parts))))

    def _walk(self, number: int) -> None:
        if self._cpus:
            os.sched_setaffinity(0, {self._cpus[number]})
        part = self._parts[number]
        np.add(part, 1.0, out=part)
