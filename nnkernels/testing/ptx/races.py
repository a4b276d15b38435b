"""The search for races among the accesses that a launch recorded.

Two accesses of the same byte by different threads, one of them a write, are a race unless both
are strong (atomic or volatile) or one is ordered before the other: by a barrier of their block or
warp, or, across blocks, by the counter idiom: the writer passes a fence after its write (or after
a barrier that follows it) and then makes an atomic access; the reader's thread later makes an
atomic access to the same address, before its read or before a barrier that precedes it.
Longer chains over several counters are not followed.

Most launches are cleared by one sort: every byte that is written is touched by one thread only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nnkernels.testing.ptx.dtypes import Array
from nnkernels.testing.ptx.lanes import FOR_BLOCK, FOR_DEVICE, WARP, WEAK, Access, Synchronisation

LANE_BITS = 28
PAIRS = 1 << 22
"""About how many pairs of accesses are compared at a time."""
NEVER = np.iinfo(np.int64).max


class Entries(NamedTuple):
    """Accesses of single units by single threads, as columns."""

    unit: Array
    lane: Array
    block: Array
    epoch: Array
    warp_epoch: Array
    time: Array
    access: Array
    writes: Array
    strength: Array
    read_only: Array

    def at(self, chosen: Array) -> Entries:
        """Some of the entries."""
        return Entries(*(column[chosen] for column in self))


class Race(NamedTuple):
    """Two accesses that nothing orders, or a read-only load of what is written."""

    first: Access
    second: Access
    first_lane: int
    second_lane: int
    address: int
    read_only: bool


def find(
    log: Sequence[Access],
    synchronisations: Sequence[Synchronisation],
    width: int,
    extents: Array | None,
) -> Race | None:
    """A race in ``log``, if there is one; ``width`` lanes make a block.

    ``extents`` are the addresses at which allocations start: loads from allocations that nobody
    writes need no search. None searches everything.
    """
    written = [a for a in log if a.writes]
    if not written:
        return None
    rest = [a for a in log if not a.writes]
    if rest and extents is not None:
        rest = _from_written(rest, written, extents)
    accesses = written + rest
    unit = min(a.size for a in accesses)
    if _single_owners(accesses, unit, any(a.read_only for a in rest)):
        return None
    return _closely(accesses, synchronisations, width, unit)


def _ends(accesses: Sequence[Access]) -> tuple[Array, Array]:
    """Lowest and highest address of each access."""
    starts = np.cumsum([0, *(a.addresses.size for a in accesses[:-1])])
    addresses = np.concatenate([a.addresses for a in accesses])
    return np.minimum.reduceat(addresses, starts), np.maximum.reduceat(addresses, starts)


def _from_written(loads: list[Access], stores: list[Access], extents: Array) -> list[Access]:
    """The loads that touch an allocation which some store touches."""
    touched = np.zeros(extents.size + 2, np.int64)
    bases = extents.view(np.uint64)
    low, high = (np.searchsorted(bases, ends, "right") for ends in _ends(stores))
    np.add.at(touched, low, 1)
    np.add.at(touched, high + 1, -1)
    before = np.concatenate([[0], np.cumsum(np.cumsum(touched) > 0)])
    low, high = (np.searchsorted(bases, ends, "right") for ends in _ends(loads))
    return [a for a, hit in zip(loads, before[high + 1] > before[low], strict=True) if hit]


def _lanes(access: Access) -> Array:
    lanes = np.arange(access.addresses.size) if access.lanes is None else access.lanes
    return lanes + access.first_lane


def _spread(addresses: Array, size: int, unit: int) -> Array:
    """The units that accesses cover, in order of the accesses."""
    first = addresses.astype(np.int64) // unit
    return first if size == unit else (first[:, None] + np.arange(size // unit)).reshape(-1)


def _single_owners(accesses: Sequence[Access], unit: int, read_only: bool) -> bool:
    """Whether no unit is touched by two threads; False if that is not known."""
    if read_only:
        return False
    keys = []
    low = min(int(a.addresses.min()) for a in accesses if a.addresses.size) // unit
    for access in accesses:
        owner = np.repeat(_lanes(access), access.size // unit)
        keys.append(((_spread(access.addresses, access.size, unit) - low) << LANE_BITS) | owner)
    ordered = np.concatenate(keys)
    ordered.sort()
    change = ordered[1:] ^ ordered[:-1]
    return not np.count_nonzero((change != 0) & (change < 1 << LANE_BITS))


# --- the slow way, for units that several threads touch ----------------------------------------


def _entries(accesses: Sequence[Access], width: int, unit: int) -> Entries:
    columns: list[list[Array]] = [[] for _ in Entries._fields]
    for number, access in enumerate(accesses):
        times = access.size // unit
        lanes = np.arange(access.addresses.size) if access.lanes is None else access.lanes
        count = lanes.size * times
        block = lanes // width
        values = (
            _spread(access.addresses, access.size, unit),
            np.repeat(lanes + access.first_lane, times),
            np.repeat(block + access.first_lane // width, times),
            np.repeat(access.epochs[block], times),
            np.repeat(access.warp_epochs[lanes], times),
            np.repeat(access.time + np.arange(lanes.size), times),
            np.full(count, number),
            np.full(count, access.writes),
            np.full(count, access.strength),
            np.full(count, access.read_only),
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return Entries(*(np.concatenate(column) for column in columns))


def _closely(
    accesses: Sequence[Access], synchronisations: Sequence[Synchronisation], width: int, unit: int
) -> Race | None:
    entries = _entries(accesses, width, unit)
    entries = entries.at(np.lexsort((entries.time, entries.unit)))
    entries = entries.at(_contested(entries))
    for first, second in _pairs(entries):
        spoiled = entries.read_only[first] & entries.writes[second]
        spoiled |= entries.read_only[second] & entries.writes[first]
        unordered = _unordered(entries.at(first), entries.at(second))
        chosen = np.flatnonzero(unordered & ~spoiled)
        if chosen.size and synchronisations:
            pair = entries.at(first[chosen]), entries.at(second[chosen])
            chosen = chosen[~_by_counter(*pair, synchronisations, width, unit)]
        found = np.flatnonzero(spoiled) if spoiled.any() else chosen
        if found.size:
            one, other = int(first[found[0]]), int(second[found[0]])
            return Race(
                accesses[entries.access[one]],
                accesses[entries.access[other]],
                int(entries.lane[one]),
                int(entries.lane[other]),
                int(entries.unit[one]) * unit,
                bool(spoiled.any()),
            )
    return None


def _unordered(first: Entries, second: Entries) -> Array:
    """Pairs by different threads that are neither strong nor ordered by a barrier."""
    needed = np.where(first.block == second.block, FOR_BLOCK, FOR_DEVICE)
    strong = np.minimum(first.strength, second.strength) >= needed
    block = (first.block == second.block) & (first.epoch != second.epoch)
    warp = (first.lane // WARP == second.lane // WARP) & (first.warp_epoch != second.warp_epoch)
    result: Array = (first.lane != second.lane) & ~(strong | block | warp)
    return result


def _contested(entries: Entries) -> Array:
    """Which entries are of units with a write and a second thread (or a read-only load)."""
    starts = np.flatnonzero(np.diff(entries.unit, prepend=entries.unit[0] - 1))
    counts = np.diff(starts, append=entries.unit.size)
    several = np.minimum.reduceat(entries.lane, starts) != np.maximum.reduceat(entries.lane, starts)
    several |= np.logical_or.reduceat(entries.read_only, starts)
    weak = np.minimum.reduceat(entries.strength, starts) < FOR_DEVICE
    written = np.logical_or.reduceat(entries.writes, starts)
    return np.repeat(several & weak & written, counts)


def _pairs(entries: Entries) -> Iterator[tuple[Array, Array]]:
    """Pairs of entries of one unit, the earlier first, a write and a weak access among them.

    Entries are sorted by unit and time. Neighbours come first, since most races show there, then
    all pairs, some units at a time.
    """
    if not entries.unit.size:
        return
    weak = entries.strength < FOR_DEVICE
    starts = np.flatnonzero(np.diff(entries.unit, prepend=entries.unit[0] - 1))
    counts = np.diff(starts, append=entries.unit.size)
    neighbours = np.flatnonzero(np.diff(entries.unit) == 0)
    yield _worth(entries, weak, neighbours, neighbours + 1)
    pairs = np.add.reduceat(weak, starts, dtype=np.int64) * counts
    batch = np.cumsum(pairs) // PAIRS
    for number in np.unique(batch):
        chosen = np.repeat(batch == number, counts) & weak
        one = np.flatnonzero(chosen)
        start, count = np.repeat(starts, counts)[one], np.repeat(counts, counts)[one]
        offsets = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        one, other = np.repeat(one, count), np.repeat(start, count) + offsets
        keep = (one < other) | ~weak[other]
        one, other = one[keep], other[keep]
        yield _worth(entries, weak, np.minimum(one, other), np.maximum(one, other))


def _worth(entries: Entries, weak: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """The pairs with a write and a weak access."""
    keep = (entries.writes[first] | entries.writes[second]) & (weak[first] | weak[second])
    return first[keep], second[keep]


class Events(NamedTuple):
    """Atomic accesses of one location, as columns sorted by block."""

    lane: Array
    block: Array
    epoch: Array
    time: Array
    fence_time: Array
    fence_epoch: Array


def _events(synchronisations: Sequence[Synchronisation], width: int) -> tuple[Array, Events]:
    """Addresses and events of all synchronisations."""
    blocks = [s.lanes // width for s in synchronisations]
    columns = Events(
        np.concatenate([s.lanes + s.first_lane for s in synchronisations]),
        np.concatenate(
            [b + s.first_lane // width for b, s in zip(blocks, synchronisations, strict=True)]
        ),
        np.concatenate([s.epochs[b] for b, s in zip(blocks, synchronisations, strict=True)]),
        np.concatenate([s.time + np.arange(s.lanes.size) for s in synchronisations]),
        np.concatenate([s.fence_times for s in synchronisations]),
        np.concatenate([s.fence_epochs for s in synchronisations]),
    )
    addresses = np.concatenate([s.addresses for s in synchronisations]).astype(np.int64)
    order = np.lexsort((columns.time, columns.block))
    return addresses[order], Events(*(c[order] for c in columns))


def _by_counter(
    first: Entries,
    second: Entries,
    synchronisations: Sequence[Synchronisation],
    width: int,
    unit: int,
) -> Array:
    """Pairs that a counter orders: the first is released before the second acquires."""
    addresses, events = _events(synchronisations, width)
    ordered = np.zeros(first.unit.size, np.bool_)
    for address in np.unique(addresses):
        chosen = addresses == address
        located = Events(*(c[chosen] for c in events))
        released = _released(first, located)
        itself = (first.strength > WEAK) & (first.unit == address // unit)
        released = np.where(itself, np.minimum(released, first.time), released)
        ordered |= released < _acquired(second, located)
    return ordered


def _of_block(blocks: Array, events: Events) -> tuple[Array, Array]:
    """For each block the range of its events."""
    return (
        np.searchsorted(events.block, blocks, "left"),
        np.searchsorted(events.block, blocks, "right"),
    )


def _released(entry: Entries, events: Events) -> Array:
    """When each entry became visible through the counter; NEVER if it did not."""
    at, stop = _of_block(entry.block, events)
    released = np.full(entry.unit.size, NEVER)
    while (at < stop).any():
        n = np.minimum(at, events.block.size - 1)
        own = (events.lane[n] == entry.lane) & (entry.time < events.fence_time[n])
        others = entry.epoch < events.fence_epoch[n]
        covered = (at < stop) & (own | others)
        released = np.where(covered, np.minimum(released, events.time[n]), released)
        at = at + 1
    return released


def _acquired(entry: Entries, events: Events) -> Array:
    """Time of the latest access of the counter that precedes each entry; -1 without one."""
    at, stop = _of_block(entry.block, events)
    acquired = np.full(entry.unit.size, -1)
    while (at < stop).any():
        n = np.minimum(at, events.block.size - 1)
        own = (events.lane[n] == entry.lane) & (events.time[n] < entry.time)
        others = events.epoch[n] < entry.epoch
        precedes = (at < stop) & (own | others)
        acquired = np.where(precedes, np.maximum(acquired, events.time[n]), acquired)
        at = at + 1
    return acquired
