"""Inference over all rows of some data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels.backend import Backend
from nnkernels.program import Program, State

INFERENCE_ROWS = 1024
"""Rows of a batch, at most."""


class Pass:
    """The Executables that run a Program over all rows, in batches and a short rest.

    Scratch is allocated first: data gets the room that is left, or is streamed.

    Args:
        backend, state: who computes, on which arrays.
        program: the Program for so many rows.
        arrays: what it reads and writes in rows, as many in each.
    """

    def __init__(
        self, backend: Backend, state: State, program: Callable[[int], Program], **arrays: Any
    ) -> None:
        self.rows = min(map(len, arrays.values()))
        self._backend, self._arrays = backend, arrays
        self._staged = False
        batch = min(INFERENCE_ROWS, self.rows)
        sizes = ((batch, self.rows // batch), (self.rows % batch, 1))
        self._bound = [(backend.bind(program(n), state), count) for n, count in sizes if n]

    def run(self) -> None:
        """Run over all rows, from the State's row on."""
        if not self._staged:
            self._arrays, self._staged = self._backend.stage(**self._arrays), True
        for executable, count in self._bound:
            executable.feed(**self._arrays)
            executable.run(count)
