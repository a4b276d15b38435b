"""What was fed, and the windows that are moved by themselves, at rows that the host knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.backends.cupy.device import CudaDevice
from nnkernels.backends.cupy.steps.feeding import HostRows
from nnkernels.backends.cupy.steps.groups import Gather, Group, Scratch
from nnkernels.backends.cupy.steps.memory import Memory
from nnkernels.backends.cupy.steps.pieces import PUT, TAKE, Piece
from nnkernels.backends.cupy.steps.plan import Plan
from nnkernels.errors import ProgramError
from nnkernels.program.hosted import is_hosted
from nnkernels.program.interpreter import check_feed
from nnkernels.spec import Array


class Inputs:
    """The input arrays of a step.

    Args:
        backend: on whose device arrays are expected.
        plan: the step.
        memory: where its arrays lie.

    Attributes:
        brought: groups whose data stays in host memory, which are not launched therefore.
    """

    def __init__(self, backend: Backend, plan: Plan, memory: Memory) -> None:
        self._backend, self._plan, self._memory = backend, plan, memory
        self._slots = plan.program.inputs
        self._may_stay = frozenset(_names_of_rows(plan))
        self._fed: dict[str, Array] = {}
        self._host: dict[Group, HostRows] = {}
        self._takes: list[Piece] = []
        self._puts = [piece for piece in plan.moves if piece.op == PUT]
        self.brought: frozenset[Group] = frozenset()

    @property
    def moves(self) -> bool:
        """Whether the host moves rows of arrays on the device in every step."""
        return bool(self._takes or self._puts)

    @property
    def streams(self) -> bool:
        """Whether batches come from host memory."""
        return bool(self._host)

    # --- feeding -------------------------------------------------------------------------------

    def feed(self, arrays: Mapping[str, Array]) -> set[int]:
        """Take arrays by name; the slots whose memory is another one now.

        Raises:
            ProgramError, ShapeError, DTypeError, LabelError: they do not fit.
        """
        if set(arrays) != set(self._slots):
            raise ProgramError(f"feed: expected {sorted(self._slots)}, got {sorted(arrays)}")
        for name, array in arrays.items():
            may_stay = name in self._may_stay
            check_feed(self._backend, self._slots[name], array, may_stay=may_stay)
        on_host = {n for n in self._may_stay if is_hosted(self._backend.device, arrays[n])}
        self._fed = dict(arrays)
        changed = self._memory.feed({n: a for n, a in arrays.items() if n not in on_host})
        self._bring_from_host(on_host)
        return changed

    def _bring_from_host(self, on_host: set[str]) -> None:
        slots = self._plan.program.slots
        brought = [g for g in self._plan.groups if on_host & {slots[n].name for n in _read_by(g)}]
        self.brought = frozenset(brought)
        self._host = {group: self._rows_from_host(group) for group in brought}
        at_home = {piece for group in brought for piece in group.pieces}
        takes = [piece for piece in self._plan.moves if piece.op == TAKE]
        self._takes = [piece for piece in takes if piece not in at_home]

    def _rows_from_host(self, group: Group) -> HostRows:
        slots, memory = self._plan.program.slots, self._memory
        names = {slots[source].name: target for source, target in _rows_of(group).items()}
        sources = {name: self._values(name) for name in names}
        order = group.order if isinstance(group, Gather) else None
        rows = None if order is None else self._values(slots[order].name)
        if group in self._host:
            self._host[group].turn_to(sources, rows)
            return self._host[group]
        targets = {name: memory.slot(target) for name, target in names.items()}
        device = self._backend.device
        assert isinstance(device, CudaDevice)  # there are no others that a list is made for
        return HostRows(device, sources, targets, rows)

    def _values(self, name: str) -> Array:
        """A fed array in host memory."""
        array = self._fed[name]
        return array if isinstance(array, np.ndarray) else self._backend.to_numpy(array)

    # --- running -------------------------------------------------------------------------------

    def check_fed(self) -> None:
        """Refuse to run without inputs."""
        if set(self._fed) != set(self._slots):
            raise ProgramError(f"run: feed {sorted(self._slots)} first")

    def steps_in_data(self, row: int, advance: int, steps: int) -> int:
        """How many of ``steps``, the first at ``row``, find their rows in the data."""
        windows = [(n, s.shape[0]) for n, s in self._slots.items() if s.window]
        last = min((len(self._fed[name]) - rows for name, rows in windows), default=None)
        if last is None:
            return steps
        if not 0 <= row <= last:
            return 0
        return min(steps, (last - row) // advance + 1) if advance else steps

    def refuse_row(self, row: int) -> None:
        """Refuse a step whose rows the data does not have."""
        for name, slot in self._slots.items():
            if slot.window and not 0 <= row <= len(self._fed[name]) - slot.shape[0]:
                raise ProgramError(
                    f"run: the step needs rows {row} to {row + slot.shape[0]}, the data has "
                    f"{len(self._fed[name])}"
                )

    def bring(self, row: int, following: int, stream: Any) -> None:
        """Queue what must be moved before a step at ``row``; the next one is at ``following``."""
        for rows in self._host.values():
            rows.bring(row, following, stream)
        for piece in self._takes:
            self._memory.slot(piece.result)[...] = self._window(piece.inputs[0], row)

    def put(self, row: int) -> None:
        """Queue what must be moved after a step at ``row``."""
        for piece in self._puts:
            self._window(piece.result, row)[...] = self._memory.slot(piece.inputs[0])

    def settle(self) -> None:
        """Wait for what is on its way from host memory."""
        for rows in self._host.values():
            rows.settle()

    def _window(self, slot: int, row: int) -> Any:
        rows = self._plan.program.slots[slot].shape[0]
        return self._memory.slot(slot)[row : row + rows]


def brought(plan: Plan) -> list[Scratch]:
    """What streaming takes on the device: the batches of two steps."""
    slots = plan.program.slots
    targets = {target for group in plan.groups for target in _rows_of(group).values()}
    return [Scratch(slots[n].shape, slots[n].dtype) for n in sorted(targets) for _ in range(2)]


def _rows_of(group: Group) -> dict[int, int]:
    """The inputs of which a group fetches rows, and where it puts them."""
    if isinstance(group, Gather):
        return {group.x: group.out[0], group.targets: group.out[1]}
    piece = group.pieces[0]
    return {piece.inputs[0]: piece.result} if piece.op == TAKE else {}


def _read_by(group: Group) -> set[int]:
    """The inputs that a group reads in batches: those, and their order."""
    order = {group.order} if isinstance(group, Gather) and group.order is not None else set()
    return order | _rows_of(group).keys()


def _names_of_rows(plan: Plan) -> Iterator[str]:
    """Names of inputs that are read in batches, and in no other way."""
    groups = [(group, _read_by(group)) for group in plan.groups]
    for number in {slot for _, rows in groups for slot in rows}:
        if all(number in rows or number not in group.slots for group, rows in groups):
            yield plan.program.slots[number].name
