"""Putting pieces of a step together without breaking the order that their memory asks for."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from nnkernels.backends.cupy.steps.pieces import Piece, Region


def dependencies(pieces: Sequence[Piece]) -> list[set[int]]:
    """For every piece the earlier ones that it must follow: one of both writes what both touch."""
    touched: dict[str, list[tuple[Region, int, bool]]] = {}
    found: list[set[int]] = []
    for number, piece in enumerate(pieces):
        mine = [*((r, False) for r in piece.reads), *((r, True) for r in piece.writes)]
        found.append(
            {
                other
                for region, writes in mine
                for before, other, wrote in touched.get(region.memory, ())
                if (writes or wrote) and region.overlaps(before)
            }
        )
        for region, writes in mine:
            touched.setdefault(region.memory, []).append((region, number, writes))
    return found


class Partition:
    """Pieces in groups, at first each by itself.

    Args:
        pieces: in an order in which they may run.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._after = dependencies(pieces)
        self._group = list(range(len(pieces)))
        self._members = {n: [n] for n in range(len(pieces))}  # by the number of its first piece

    def alone(self, number: int) -> bool:
        """Whether a piece is in a group by itself."""
        return len(self._members[self._group[number]]) == 1

    def merge(self, numbers: Iterable[int]) -> bool:
        """Make one group of the groups of these pieces.

        Returns False, and changes nothing, where the group would have to wait for itself: one
        piece of it follows a piece outside, which follows another piece of it.
        """
        groups = {self._group[n] for n in numbers}
        if self._waits_for_itself(groups):
            return False
        first = min(groups)
        for group in groups - {first}:
            self._members[first] += self._members.pop(group)
        for member in self._members[first]:
            self._group[member] = first
        return True

    def _waits_for_itself(self, groups: set[int]) -> bool:
        stack = [g for group in groups for g in self._before(group) if g not in groups]
        seen = set(stack)
        while stack:
            for group in self._before(stack.pop()) - seen:
                if group in groups:
                    return True
                seen.add(group)
                stack.append(group)
        return False

    def _before(self, group: int) -> set[int]:
        """The groups that a group must follow."""
        members = self._members[group]
        return {self._group[n] for member in members for n in self._after[member]} - {group}

    def ordered(self) -> list[tuple[int, ...]]:
        """The pieces' numbers by group; groups in an order that all may run in.

        Of the groups that may come next it is the one with the earliest piece.
        """
        waiting = {group: self._before(group) for group in self._members}
        followers: dict[int, list[int]] = {}
        for group, before in waiting.items():
            for other in before:
                followers.setdefault(other, []).append(group)
        ready = [group for group, before in waiting.items() if not before]
        heapq.heapify(ready)
        order: list[tuple[int, ...]] = []
        while ready:
            group = heapq.heappop(ready)
            order.append(tuple(sorted(self._members[group])))
            for follower in followers.get(group, ()):
                waiting[follower].discard(group)
                if not waiting[follower]:
                    heapq.heappush(ready, follower)
        return order
