"""Running a Program instruction by instruction: what every backend can do."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.backend import Backend, Resolution
from nnkernels.errors import DTypeError, LabelError, ProgramError, ShapeError, unknown
from nnkernels.program.builder import solved_dims
from nnkernels.program.format import ARENA, CONSTANT, INPUT, Instruction, Program, Slot, aligned
from nnkernels.program.memory import plan_arena
from nnkernels.program.rewrite import specialise
from nnkernels.program.state import State
from nnkernels.spec import Array


@dataclass(slots=True)
class Bound:
    """An instruction with its kernel and its arrays.

    ``windows`` are the positions in ``arrays`` that move with the row counter.
    """

    instruction: Instruction
    resolution: Resolution
    function: Callable[..., None]
    arrays: list[Any]
    inputs: int
    keywords: dict[str, Any]
    windows: list[tuple[int, Slot]]

    def run(self) -> None:
        """Run the kernel on the arrays."""
        keywords = self.keywords
        outs = self.arrays[self.inputs :]
        if outs:
            keywords["out"] = outs[0] if len(outs) == 1 else tuple(outs)
        self.function(*self.arrays[: self.inputs], **keywords)


class Interpreter:
    """An Executable that calls one kernel after the other, allocating nothing in a step.

    Args:
        backend: whose kernels run.
        program: the step; it is specialised to the backend (see :mod:`nnkernels.program.rewrite`).
        state: what it reads and writes.
    """

    def __init__(self, backend: Backend, program: Program, state: State) -> None:
        self.backend, self.state = backend, state
        self.program = specialise(program, backend)
        self._lock = threading.Lock()
        self._fed: dict[str, Array] = {}
        self._arrays = self._place_slots()
        self.bound = self._bind_all()
        split = [b.instruction.phase for b in self.bound].count("compute")
        self._compute = [self._callable(b) for b in self.bound[:split]]
        self._update = [self._callable(b) for b in self.bound[split:]]
        self._moving = [(b, at, slot) for b in self.bound for at, slot in b.windows]
        self._row = state.view("row")
        self._loss = None if program.guard is None else self._arrays[program.guard]

    # --- binding ---------------------------------------------------------------------------

    def _place_slots(self) -> dict[int, Array]:
        offsets, size = plan_arena(self.program)
        arena = self.backend.device.buffer(size)
        arrays: dict[int, Array] = {}
        for number, slot in enumerate(self.program.slots):
            if number in offsets:
                raw = arena[offsets[number] : offsets[number] + slot.nbytes]
                arrays[number] = raw.view(slot.dtype).reshape(slot.shape)
            elif slot.buffer == CONSTANT:
                array = self.backend.device.buffer(slot.nbytes).view(slot.dtype)
                array[...] = slot.value
                arrays[number] = array.reshape(slot.shape)
            elif slot.buffer not in (ARENA, INPUT):
                arrays[number] = self.state.slot(slot)
        return arrays

    def _bind_all(self) -> list[Bound]:
        works = [self._workspace(i) for i in self.program.instructions]
        size = max((sum(aligned(_nbytes(w)) for w in work) for work in works), default=0)
        scratch = self.backend.device.buffer(size)
        return [
            self._bind(i, work, scratch)
            for i, work in zip(self.program.instructions, works, strict=True)
        ]

    def _workspace(self, instruction: Instruction) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        kernel = self.backend.resolve(instruction.op, instruction.params).kernel
        assert kernel is not None  # the program is specialised
        dims = solved_dims(self.program, instruction)
        floating = np.dtype(self.program.dtype)
        return [
            (sig.shape_of(argument, dims), argument.dtype(floating))
            for argument in sig.parse_arguments(kernel.workspace)
        ]

    def _bind(
        self,
        instruction: Instruction,
        work: list[tuple[tuple[int, ...], np.dtype[Any]]],
        scratch: Array,
    ) -> Bound:
        resolution = self.backend.resolve(instruction.op, instruction.params)
        assert resolution.kernel is not None
        keywords = dict(instruction.params)
        if work:
            keywords["work"] = tuple(_carve(scratch, work))
        numbers = (*instruction.inputs, *instruction.outputs)
        arrays = [None if n is None else self._arrays.get(n) for n in numbers]
        windows = [
            (at, self.program.slots[n])
            for at, n in enumerate(numbers)
            if n is not None and self.program.slots[n].buffer == INPUT
        ]
        return Bound(
            instruction,
            resolution,
            resolution.kernel.function,
            arrays,
            len(instruction.inputs),
            keywords,
            windows,
        )

    @staticmethod
    def _callable(bound: Bound) -> Callable[[], None]:
        """The cheapest call: closed over its arrays unless some of them move."""
        if bound.windows:
            return bound.run
        inputs, outs = tuple(bound.arrays[: bound.inputs]), tuple(bound.arrays[bound.inputs :])
        keywords = dict(bound.keywords)
        if outs:
            keywords["out"] = outs[0] if len(outs) == 1 else outs
        function = bound.function
        return lambda: function(*inputs, **keywords)

    # --- running ---------------------------------------------------------------------------

    def feed(self, **arrays: Array) -> None:
        """Give the input arrays by name; they stay in use, uncopied, until the next feed.

        Raises:
            ProgramError: an unknown or missing name.
            ShapeError, DTypeError: an array that does not fit its slot.
            LabelError: integers outside the slot's interval.
        """
        slots = self.program.inputs
        if set(arrays) != set(slots):
            raise ProgramError(f"feed: expected {sorted(slots)}, got {sorted(arrays)}")
        for name, array in arrays.items():
            check_feed(self.backend, slots[name], array)
        self._fed = dict(arrays)
        for bound in self.bound:
            for at, slot in bound.windows:
                if not slot.window:
                    bound.arrays[at] = arrays[slot.name]

    def run(self, steps: int, stop: Callable[[], bool] | None = None) -> int:
        """Run up to ``steps`` steps and return how many were completed.

        Fewer are completed when ``stop()`` is true before one of them, or when a loss is not
        finite: that step updates nothing and sets the State's ``diverged`` counter.
        """
        if not self._lock.acquire(blocking=False):
            raise ProgramError("run: this executable is already running in another thread")
        try:
            with np.errstate(all="ignore"):
                return self._run(steps, stop)
        finally:
            self._lock.release()

    def _run(self, steps: int, stop: Callable[[], bool] | None) -> int:
        if set(self._fed) != set(self.program.inputs):
            raise ProgramError(f"run: feed {sorted(self.program.inputs)} first")
        for done in range(steps):
            if stop is not None and stop():
                return done
            self._move_windows()
            for call in self._compute:
                call()
            if not self._loss_is_finite():
                self.state.view("diverged")[...] = 1
                return done
            for call in self._update:
                call()
        return steps

    def _loss_is_finite(self) -> bool:
        if self._loss is None:
            return True
        return math.isfinite(self.backend.to_numpy(self._loss).item())

    def _move_windows(self) -> None:
        row = self.backend.to_numpy(self._row).item()
        for bound, at, slot in self._moving:
            if slot.window:
                source = self._fed[slot.name]
                if row + slot.shape[0] > len(source):
                    raise ProgramError(
                        f"run: rows {row} to {row + slot.shape[0]} of {slot.name!r}, which has "
                        f"{len(source)}"
                    )
                bound.arrays[at] = source[row : row + slot.shape[0]]

    def fetch(self, role: str) -> Array:
        """A NumPy copy of the output ``role`` of the last step (``loss``, ``prediction``)."""
        if role not in self.program.outputs:
            raise unknown("output of the program", role, self.program.outputs)
        return np.array(self.backend.to_numpy(self._arrays[self.program.outputs[role]]))

    def first_bad(self) -> str | None:
        """Replay the compute phase at the current row; the first tensor that is not finite."""
        self._move_windows()
        with np.errstate(all="ignore"):
            for bound in self.bound:
                if bound.instruction.phase != "compute":
                    return None
                for name, array in self._operands(bound, before=True):
                    if not _finite(self.backend.to_numpy(array)):
                        return name
                bound.run()
                for name, array in self._operands(bound, before=False):
                    if not _finite(self.backend.to_numpy(array)):
                        return name
        return None

    def _operands(self, bound: Bound, *, before: bool) -> Iterator[tuple[str, Array]]:
        numbers = (*bound.instruction.inputs, *bound.instruction.outputs)
        first, last = (0, bound.inputs) if before else (bound.inputs, len(numbers))
        for number, array in zip(numbers[first:last], bound.arrays[first:last], strict=True):
            if array is not None and number is not None:
                yield self.program.slots[number].name, array


def check_feed(backend: Backend, slot: Slot, array: Any) -> None:
    """Refuse an input array that does not fit its slot."""
    if not backend.device.owns(array):
        raise DTypeError(
            f"feed: {slot.name!r} must be an array of device {backend.device.name}, got "
            f"{type(array).__name__}; use backend.asarray(...)"
        )
    if array.dtype != np.dtype(slot.dtype):
        raise DTypeError(f"feed: {slot.name!r} must be {slot.dtype}, got {array.dtype}")
    rows_fit = len(array.shape) == len(slot.shape) and (
        array.shape[1:] == slot.shape[1:] and array.shape[0] >= slot.shape[0]
        if slot.window
        else tuple(array.shape) == slot.shape
    )
    if not rows_fit:
        raise ShapeError(f"feed: {slot.name!r} must have shape {slot.shape}, got {array.shape}")
    if slot.interval is not None and array.size:
        low, high = slot.interval
        values = backend.to_numpy(array)
        if values.min() < low or values.max() >= high:
            raise LabelError(
                f"feed: {slot.name!r} must lie in [{low}, {high}), got "
                f"{values.min()} to {values.max()}"
            )


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _nbytes(work: tuple[tuple[int, ...], np.dtype[Any]]) -> int:
    return math.prod(work[0]) * work[1].itemsize


def _carve(scratch: Array, work: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> Iterator[Array]:
    offset = 0
    for shape, dtype in work:
        nbytes = math.prod(shape) * dtype.itemsize
        yield scratch[offset : offset + nbytes].view(dtype).reshape(shape)
        offset += aligned(nbytes)
