"""Running the steps of an epoch: full batches, the last short one, in file or shuffled order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from nnkernels.backend import Backend
from nnkernels.catalog.philox import shuffled
from nnkernels.nn.arrays import Samples
from nnkernels.nn.lowering import Step, train_program
from nnkernels.nn.model import Model
from nnkernels.program import Interpreter, State
from nnkernels.program.format import SCALARS
from nnkernels.spec import Array

CHUNK_SECONDS = 0.2
PER_EPOCH = ("row", "epoch_step", "diverged", *(n for n in SCALARS if n != "learning_rate"))
"""Scalars and counters of the State that begin every epoch at 0."""


class FitSettings(msgspec.Struct, frozen=True):
    """How the epochs of one ``fit`` run; kept so that a resumed epoch can be checked against it."""

    rows: int
    batch_size: int
    shuffle: bool

    @property
    def steps(self) -> int:
        """Steps of an epoch, with the last short one."""
        return -(-self.rows // self.batch_size)


class Epochs:
    """The Executables of one ``fit`` and the data they run on.

    Args:
        backend, model, state: who trains what.
        samples: the training data, which goes to the backend's device; where it does not fit, the
            batches do (see :meth:`nnkernels.backend.Backend.stage`).
        step: what a step consists of; its ``gather`` and ``schedule`` are filled in here.
        settings: the rows of a full batch, at most all; and whether every epoch has a new order,
            from the model's seed and the epoch's number.
    """

    def __init__(
        self,
        backend: Backend,
        model: Model,
        state: State,
        samples: Samples,
        step: Step,
        settings: FitSettings,
    ) -> None:
        self.backend, self.model, self.state = backend, model, state
        self.rows, self.steps, self.shuffle = settings.rows, settings.steps, settings.shuffle
        self.full, self._rest = divmod(settings.rows, settings.batch_size)
        self._batch = settings.batch_size
        step = replace(step, gather=self.rows if self.shuffle else None, schedule=self.steps)
        sizes = [rows for rows in (self._batch, self._rest) if rows]
        self.programs = {rows: train_program(model, rows, step) for rows in sizes}
        self._executables = {r: backend.bind(p, state) for r, p in self.programs.items()}
        self._samples = {"x": samples.x, "y": samples.y}
        self._fed: dict[str, Any] = {}
        self._streams = False

    @property
    def done(self) -> int:
        """Steps of the current epoch that are done."""
        return int(self.state.number("epoch_step"))

    @property
    def _next(self) -> int:
        """Rows of the next step."""
        return self._batch if self.done < self.full else self._rest

    @property
    def diverged(self) -> bool:
        """Whether the last step met a loss that is not finite."""
        return bool(self.state.number("diverged"))

    def begin(self, epoch: int, rates: Array) -> None:
        """Prepare an epoch: its order and its learning rates."""
        self.state.set("schedule", rates)
        order = {}
        if self.shuffle:
            order["order"] = shuffled(self.rows, int(self.state.number("seed")), epoch)
        self._fed = self._placed(order)
        for executable in self._executables.values():
            executable.feed(**self._fed)

    def _placed(self, order: dict[str, Array]) -> dict[str, Any]:
        """Data and order on the device; once they do not fit, in host memory for good."""
        if not self._streams:
            placed = self.backend.stage(**{**self._samples, **self._fed, **order})
            self._streams = not all(map(self.backend.device.owns, placed.values()))
            if not self._streams:
                return placed
        return {**self._samples, **order}

    def run(self, stop: Callable[[], bool], progress: Callable[[int], None]) -> bool:
        """Run the rest of the epoch; False if it was stopped or diverged before its end."""
        chunk, reported = 1, time.perf_counter()
        while self.done < self.steps:
            limit = self.full if self.done < self.full else self.steps
            count = min(chunk, limit - self.done)
            started = time.perf_counter()
            if self._executables[self._next].run(count, stop) < count:
                return False
            now = time.perf_counter()
            chunk = _next_chunk(chunk, now - started)
            if now - reported >= CHUNK_SECONDS:
                progress(self.done)
                reported = now
        return True

    def finish(self) -> None:
        """Reset what is counted within an epoch."""
        reset(self.state, PER_EPOCH)

    def first_bad(self) -> str:
        """Name of the first tensor of the current step that is not finite."""
        interpreter = Interpreter(self.backend, self.programs[self._next], self.state)
        interpreter.feed(**self._fed)
        return interpreter.first_bad() or "a parameter after the update"

    def replay_finite(self, start: dict[str, Array]) -> None:
        """Go back to ``start`` and repeat the steps as long as everything stays finite."""
        self.state.restore(start)
        while self.done < self.steps:
            before = self.state.snapshot()
            if self._executables[self._next].run(1) < 1 or not finite(self.state):
                self.state.restore(before)
                return


def reset(state: State, names: Sequence[str]) -> None:
    """Set scalars and counters to 0."""
    for name in names:
        state.set(name, 0)


def finite(state: State) -> bool:
    """Whether all parameters, moments and statistics are finite."""
    kept = [b for b in state.buffers if b not in ("gradients", "schedule", "scalars", "counters")]
    return all(bool(np.isfinite(state.device.to_numpy(state.buffers[b])).all()) for b in kept)


def _next_chunk(chunk: int, seconds: float) -> int:
    """Steps that take about :data:`CHUNK_SECONDS`, growing carefully."""
    if seconds <= 0:
        return chunk * 8
    return max(1, min(chunk * 8, int(chunk * CHUNK_SECONDS / seconds)))
