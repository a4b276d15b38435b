"""Where a step's arrays lie: one arena for all scratch, and views of the State and the inputs."""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from nnkernels.backends.cupy.products import ReluMask, mask_bytes
from nnkernels.backends.cupy.steps.groups import Group, Layer, Scratch
from nnkernels.backends.cupy.steps.plan import Plan
from nnkernels.program import Slot, State
from nnkernels.program.format import ARENA, CONSTANT, INPUT
from nnkernels.spec import Array

ALIGNMENT = 256
"""Of every array in the arena: what cublasLt can make use of."""

POOL_UNIT = 512
"""Bytes that CuPy's pool rounds every allocation up to."""


class Buffers(Protocol):
    """Gives memory."""

    def buffer(self, nbytes: int) -> Array:
        """``nbytes`` zeroed bytes."""


class Need(NamedTuple):
    """An array in the arena.

    Attributes:
        key: what it is.
        array: its shape and dtype.
        first, last: numbers of the first and the last group that needs it.
    """

    key: Hashable
    array: Scratch
    first: int
    last: int


def place(needs: Iterable[Need]) -> tuple[dict[Hashable, int], int]:
    """An offset for every array, and the size of the arena.

    The largest arrays come first, each at the lowest offset where it meets no array that is
    needed at the same time.

    Source: Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference (2020),
    "greedy by size".
    """
    placed: list[tuple[int, int, Need]] = []
    for need in sorted(needs, key=lambda n: -n.array.nbytes):
        offset, room = 0, _aligned(need.array.nbytes)
        for start, end, other in placed:
            together = need.first <= other.last and other.first <= need.last
            if together and start < offset + room and offset < end:
                offset = end
        bisect.insort(placed, (offset, offset + room, need), key=lambda each: each[0])
    offsets = {need.key: start for start, _, need in placed}
    return offsets, max((end for _, end, _ in placed), default=0)


def _aligned(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT


def needs(plan: Plan) -> list[Need]:
    """The arrays in the arena: slots, bit masks, and the groups' scratch."""
    uses: dict[int, list[int]] = {}
    for number, group in enumerate(plan.groups):
        for slot in group.slots:
            if plan.program.slots[slot].buffer == ARENA:
                uses.setdefault(slot, []).append(number)
    end = len(plan.groups)
    kept = {*plan.program.outputs.values(), plan.program.guard}
    found = [
        Need(slot, _array(plan.program.slots[slot]), at[0], end if slot in kept else at[-1])
        for slot, at in uses.items()
    ]
    for number, group in enumerate(plan.groups):
        if isinstance(group, Layer) and group.masked:
            nbytes = mask_bytes(*plan.program.slots[group.result].shape)
            last = uses[group.result][-1]
            found.append(Need(("mask", group.result), Scratch((nbytes,), "uint8"), number, last))
        for index, scratch in enumerate(group.workspace(plan.program)):
            found.append(Need((group, index), scratch, number, number))
    return found


def arena_bytes(plan: Plan) -> int:
    """The size of the arena."""
    return place(needs(plan))[1]


def _array(slot: Slot) -> Scratch:
    return Scratch(slot.shape, slot.dtype)


def kept_bytes(plan: Plan) -> int:
    """What the groups' scratch that stays takes, and the constants."""
    kept = sum(s.nbytes for group in plan.groups for s in group.kept(plan.program))
    return kept + sum(s.nbytes for s in plan.program.slots if s.buffer == CONSTANT)


def rows_that_fit(plan: Plan, nbytes: int, travelling: Sequence[Scratch] = ()) -> int:
    """The most rows of a batch, fewer than the plan's, for whose scratch so many bytes are enough.

    Arrays with one row for each of the batch are taken to shrink with it.

    Args:
        plan: the step.
        nbytes: what there is.
        travelling: arrays of their own beside the scratch, for batches that are streamed.
    """
    rows, wanted, kept = plan.program.rows, needs(plan), kept_bytes(plan)

    def size(batch: int) -> int:
        scaled = (need._replace(array=_scaled(need.array, rows, batch)) for need in wanted)
        beside = sum(_allocated(_scaled(array, rows, batch).nbytes) for array in travelling)
        return _allocated(place(scaled)[1]) + kept + beside

    return bisect.bisect_right(range(1, rows), nbytes, key=size)


def _allocated(nbytes: int) -> int:
    return -(-nbytes // POOL_UNIT) * POOL_UNIT


def _scaled(array: Scratch, rows: int, batch: int) -> Scratch:
    if array.shape[:1] != (rows,):
        return array
    return array._replace(shape=(batch, *array.shape[1:]))


class Memory:
    """The arrays of a step.

    Args:
        plan: what needs them.
        device: where the scratch is allocated.
        state: whose buffers the slots are views of.

    Attributes:
        skip: the State's counter ``diverged``, if the Program has a guard.
    """

    def __init__(self, plan: Plan, device: Buffers, state: State) -> None:
        self._device, self._slots = device, plan.program.slots
        offsets, nbytes = place(wanted := needs(plan))
        arena = device.buffer(nbytes)
        taken = {n.key: _view(arena, offsets[n.key], n.array) for n in wanted}
        used = {slot for group in plan.groups for slot in group.slots}
        used |= set(plan.program.outputs.values())
        self._arrays = {slot: taken.get(slot) for slot in used}
        for slot in used - taken.keys():
            if self._slots[slot].buffer not in (ARENA, INPUT):
                self._arrays[slot] = self._outside(self._slots[slot], state)
        self._masks = {
            slot: ReluMask(self._arrays[slot], taken["mask", slot])
            for slot in used
            if ("mask", slot) in taken
        }
        self._work = {
            group: tuple(taken[group, n] for n in range(len(group.workspace(plan.program))))
            for group in plan.groups
        }
        self._kept = {
            group: tuple(_view(device.buffer(s.nbytes), 0, s) for s in group.kept(plan.program))
            for group in plan.groups
        }
        guarded = plan.program.guard is not None
        self.skip = state.view("diverged") if guarded else None

    def _outside(self, slot: Slot, state: State) -> Any:
        """The array of a constant, or the view of the State."""
        if slot.buffer != CONSTANT:
            return state.slot(slot)
        array = _view(self._device.buffer(slot.nbytes), 0, _array(slot))
        array[...] = slot.value
        return array

    def feed(self, arrays: Mapping[str, Any]) -> set[int]:
        """Put input arrays, by name, behind their slots; the slots that have other memory now."""
        changed: set[int] = set()
        for number, before in self._arrays.items():
            slot = self._slots[number]
            if slot.buffer != INPUT:
                continue
            array = arrays.get(slot.name)
            if _place_of(before) != _place_of(array):
                changed.add(number)
            self._arrays[number] = array
        return changed

    def slot(self, number: int | None) -> Any:
        """The array of a slot; None for None."""
        return None if number is None else self._arrays[number]

    def work(self, group: Group) -> tuple[Any, ...]:
        """The group's scratch."""
        return self._work[group]

    def kept(self, group: Group) -> tuple[Any, ...]:
        """The group's scratch that stays."""
        return self._kept[group]

    def mask(self, slot: int) -> Any:
        """The bit mask of a relu's output."""
        return self._masks[slot]


def _view(buffer: Array, offset: int, array: Scratch) -> Any:
    raw = buffer[offset : offset + array.nbytes]
    return raw.view(np.dtype(array.dtype)).reshape(array.shape)


def _place_of(array: Any) -> Any:
    return None if array is None else (array.data.ptr, array.shape, array.dtype)
