"""Counting sectors of global memory and conflicts of shared memory banks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnkernels.testing.ptx.dtypes import Array
from nnkernels.testing.ptx.lanes import WARP, Access
from nnkernels.testing.ptx.statistics import SharedTraffic, Traffic

SECTOR = 32
BANKS = 32
BANK_BYTES = 4


class Requests(NamedTuple):
    """Accesses of one size: an address and a warp request for each thread."""

    addresses: Array
    request: Array
    number: int


def requests(accesses: Sequence[Access], parts: int = 1) -> Requests:
    """The accesses as requests of warps, each in ``parts`` of neighbouring threads."""
    numbers = []
    for access in accesses:
        lanes = np.arange(access.addresses.size) if access.lanes is None else access.lanes
        numbers.append(lanes // (WARP // parts))
    offsets = np.cumsum([0, *(int(n.max()) + 1 if n.size else 0 for n in numbers)])
    request = np.concatenate([n + o for n, o in zip(numbers, offsets, strict=False)])
    addresses = np.concatenate([a.addresses for a in accesses]).astype(np.int64)
    return Requests(addresses, request, int(np.unique(request).size))


def distinct(request: Array, value: Array) -> tuple[Array, Array]:
    """The distinct pairs, sorted by request."""
    low = int(value.min()) if value.size else 0
    span = int(value.max()) - low + 1 if value.size else 1
    keys = np.unique(request * span + (value - low))
    return keys // span, keys % span + low


def of_global(accesses: Sequence[Access]) -> Traffic:
    """Requests, sectors and their least number; all accesses of one size."""
    size = accesses[0].size
    seen = requests(accesses)
    sectors, _ = distinct(seen.request, seen.addresses // SECTOR)
    asked, _ = distinct(seen.request, seen.addresses)
    least = -(-np.bincount(asked) * size // SECTOR)
    return Traffic(seen.number, sectors.size, int(least.sum()), Counter({size: seen.number}))


def of_shared(accesses: Sequence[Access]) -> SharedTraffic:
    """Requests and wavefronts; all accesses of one size.

    Threads that ask for 8 or 16 bytes are served half a warp or a quarter at a time.
    """
    size = accesses[0].size
    parts = max(1, size // BANK_BYTES)
    whole = requests(accesses)
    served = requests(accesses, parts)
    word = served.addresses // BANK_BYTES
    words = (word[:, None] + np.arange(parts)).reshape(-1)
    request, word = distinct(np.repeat(served.request, parts), words)
    pairs, counts = np.unique(request * BANKS + word % BANKS, return_counts=True)
    starts = np.flatnonzero(np.diff(pairs // BANKS, prepend=-1))
    wavefronts = int(np.maximum.reduceat(counts, starts).sum()) if counts.size else 0
    return SharedTraffic(whole.number, wavefronts, served.number)
