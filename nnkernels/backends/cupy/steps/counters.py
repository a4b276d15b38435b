"""The State's counters as the host follows them: read once for a whole chunk of steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from nnkernels.backends.cupy.steps.plan import Plan
from nnkernels.program import State
from nnkernels.program.format import COUNTERS


class Counters:
    """How far a run came.

    Args:
        plan: the step.
        state: whose counters they are.

    Attributes:
        advance: what a step adds to ``row``.
    """

    def __init__(self, plan: Plan, state: State) -> None:
        self._state, self._guarded = state, plan.guarded
        self._places = {e.name: e.offset // 8 for e in state.layout.entries if e.name in COUNTERS}
        self._values = np.zeros(len(COUNTERS), np.int64)
        of_row = [
            piece.instruction
            for piece in plan.pieces.pieces
            if piece.op == "advance" and piece.inputs[0] == plan.pieces.row
        ]
        self.advance = sum(instruction.params["rows"] for instruction in of_row)
        self._counting: tuple[str, int] | None = None
        if self.advance and all(i.phase == "update" for i in of_row):
            self._counting = "row", self.advance
        elif any(piece.op == "tick" for piece in plan.pieces.pieces):
            self._counting = "epoch_step", 1

    @property
    def row(self) -> int:
        """The data cursor, when it was last read."""
        return self._value("row")

    @property
    def counts_steps(self) -> bool:
        """Whether a counter tells how many steps were completed."""
        return self._counting is not None

    def _value(self, name: str) -> int:
        return int(self._values[self._places[name]])

    def read(self) -> None:
        """Read all counters, after the work that was queued before on the current stream."""
        self._values = self._state.device.to_numpy(self._state.buffers["counters"])

    def read_after(self, steps: int) -> int:
        """Read all counters after ``steps`` steps were queued; how many were completed."""
        before = self._values
        self.read()
        if not (self._guarded and self._value("diverged")):
            return steps
        if self._counting is None:
            return 0
        name, each = self._counting
        return (self._value(name) - int(before[self._places[name]])) // each

    @contextlib.contextmanager
    def without_diverged(self) -> Iterator[None]:
        """Begin with ``diverged`` at 0, as nothing would be updated else, and then put it back."""
        before = self._value("diverged") if self._guarded else 0
        if before:
            self._state.view("diverged")[...] = 0
        try:
            yield
        finally:
            if before:
                self._state.view("diverged")[...] = before
