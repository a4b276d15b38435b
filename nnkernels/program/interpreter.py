"""Running a Program instruction by instruction: what every backend can do."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.backend import Backend, Resolution, frozen, function_name, packed
from nnkernels.errors import (
    BackendError,
    DTypeError,
    LabelError,
    NnkernelsError,
    ProgramError,
    ShapeError,
    unknown,
)
from nnkernels.program.builder import solved_dims
from nnkernels.program.format import ARENA, CONSTANT, INPUT, Instruction, Program, Slot, aligned
from nnkernels.program.hosted import PickedRows, gathers, is_hosted, read_in_rows
from nnkernels.program.memory import plan_arena
from nnkernels.program.rewrite import specialise
from nnkernels.program.state import State
from nnkernels.spec import Array


@dataclass(slots=True)
class Bound:
    """An instruction with its kernel and its arrays; those of inputs may change between runs."""

    instruction: Instruction
    resolution: Resolution
    function: Callable[..., None]
    inputs: list[Any]
    outputs: list[Any]
    keywords: dict[str, Any]

    def place(self, position: int, array: Any) -> None:
        """Put ``array`` at a position counted over inputs, then outputs."""
        if position < len(self.inputs):
            self.inputs[position] = array
        else:
            self.outputs[position - len(self.inputs)] = array
            self.keywords["out"] = self.out

    @property
    def out(self) -> Any:
        """What the kernel gets as ``out``."""
        return self.outputs[0] if len(self.outputs) == 1 else tuple(self.outputs)

    def run(self) -> None:
        """Run the kernel on the arrays."""
        self.function(*self.inputs, **self.keywords)

    def frozen(self) -> Callable[[], None]:
        """:meth:`run` for arrays that never change: the cheapest call."""
        return frozen(self.function, self.inputs, self.keywords)


class Interpreter:
    """An Executable that calls one kernel after the other, allocating nothing in a step.

    Args:
        backend: whose kernels run.
        program: the step; it is specialised to the backend (see :mod:`nnkernels.program.rewrite`).
        state: what it reads and writes.
    """

    def __init__(self, backend: Backend, program: Program, state: State) -> None:
        program.validate()
        self.backend, self.state = backend, state
        self.program = specialise(program, backend)
        self._lock = threading.Lock()
        self._fed: dict[str, Array] = {}
        self._windows: list[Any] = []
        self._picked: list[tuple[Bound, PickedRows]] = []
        self._may_stay = read_in_rows(self.program) if backend.staging else frozenset[str]()
        self._arrays = self._place_slots()
        self.bound = self._bind_all()
        self._readers = self._readers_of_inputs()
        split = [b.instruction.phase for b in self.bound].count("compute")
        self._compute = [self._callable(b) for b in self.bound[:split]]
        self._update = [self._callable(b) for b in self.bound[split:]]
        self._row = _reader(backend, state.view("row"))
        self._loss = None
        if program.guard is not None:
            self._loss = _reader(backend, self._arrays[program.guard])

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
        bound = Bound(
            instruction,
            resolution,
            resolution.kernel.function,
            [self._arrays.get(n) for n in instruction.inputs],
            [None if n is None else self._arrays.get(n) for n in instruction.outputs],
            keywords,
        )
        if bound.outputs:
            keywords["out"] = bound.out
        return bound

    def _readers_of_inputs(self) -> dict[str, list[tuple[Bound, int]]]:
        """Where the fed arrays go: bound instructions and positions by input name."""
        readers: dict[str, list[tuple[Bound, int]]] = {name: [] for name in self.program.inputs}
        for bound in self.bound:
            numbers = (*bound.instruction.inputs, *bound.instruction.outputs)
            for position, number in enumerate(numbers):
                if number is not None and self.program.slots[number].buffer == INPUT:
                    readers[self.program.slots[number].name].append((bound, position))
        return readers

    def _callable(self, bound: Bound) -> Callable[[], None]:
        fed = any(bound is reader for readers in self._readers.values() for reader, _ in readers)
        return bound.run if fed else bound.frozen()

    # --- running ---------------------------------------------------------------------------

    def feed(self, **arrays: Array) -> None:
        """Give the input arrays by name; they stay in use, uncopied, until the next feed.

        Where the backend has a ``staging``, data that is read in rows may also be NumPy arrays:
        every step then copies its rows to the device, into fresh memory.

        Raises:
            ProgramError: an unknown or missing name.
            ShapeError, DTypeError: an array that does not fit its slot.
            LabelError: integers outside the slot's interval.
        """
        slots = self.program.inputs
        if set(arrays) != set(slots):
            raise ProgramError(f"feed: expected {sorted(slots)}, got {sorted(arrays)}")
        for name, array in arrays.items():
            check_feed(self.backend, slots[name], array, may_stay=name in self._may_stay)
        self._fed = dict(arrays)
        hosted = {n for n in self._may_stay if is_hosted(self.backend.device, arrays[n])}
        self._windows = [
            (arrays[name], slot.shape[0], name in hosted, self._readers[name])
            for name, slot in slots.items()
            if slot.window
        ]
        self._picked = list(self._picked_from(hosted))
        for name in {name for name, slot in slots.items() if not slot.window} - hosted:
            for bound, position in self._readers[name]:
                bound.place(position, arrays[name])

    def _picked_from(self, hosted: set[str]) -> Iterator[tuple[Bound, PickedRows]]:
        """What takes rows of arrays in host memory, and these rows."""
        for bound in self.bound:
            if gathers(self.program, bound.instruction):
                data, order = (self.program.slots[n] for n in bound.instruction.inputs)
                if data.name in hosted:
                    arrays = self._fed[data.name], self._fed[order.name]
                    yield bound, PickedRows(self.backend, *arrays, order.shape[0])

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
            self._run_phase(self._compute, 0)
            if not self._loss_is_finite():
                self.state.view("diverged")[...] = 1
                return done
            self._run_phase(self._update, len(self._compute))
        return steps

    def profile(self, steps: int) -> list[tuple[Instruction, float]]:
        """Run up to ``steps`` steps; for every instruction the seconds that it took in all.

        The State changes as in :meth:`run`; the clock is read between any two instructions, after
        all pending work of the device. A step whose loss is not finite is the last.
        """
        seconds = [0.0] * len(self.bound)
        calls = [*self._compute, *self._update]
        timed = [self._timed(call, seconds, number) for number, call in enumerate(calls)]
        compute, update = self._compute, self._update
        self._compute, self._update = timed[: len(compute)], timed[len(compute) :]
        try:
            self.run(steps)
        finally:
            self._compute, self._update = compute, update
        return [(b.instruction, s) for b, s in zip(self.bound, seconds, strict=True)]

    def _timed(
        self, call: Callable[[], None], seconds: list[float], number: int
    ) -> Callable[[], None]:
        timer = self.backend.device.timer

        def run() -> None:
            began = timer()
            call()
            seconds[number] += timer() - began

        return run

    def _run_phase(self, calls: Sequence[Callable[[], None]], first: int) -> None:
        try:
            for call in calls:
                call()
        except (NnkernelsError, MemoryError):
            raise
        except Exception as error:
            bound = self.bound[first + calls.index(call)]
            raise BackendError(
                f"{bound.instruction.op} ({bound.instruction.label or 'no label'}) on "
                f"{self.backend.name} failed in {function_name(bound.function)}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _loss_is_finite(self) -> bool:
        if self._loss is None:
            return True
        return math.isfinite(self._loss())

    def _move_windows(self) -> None:
        row = self._row()
        for source, rows, hosted, readers in self._windows:
            if row + rows > len(source):
                raise ProgramError(
                    f"run: the step needs rows {row} to {row + rows}, the data has {len(source)}"
                )
            view = source[row : row + rows]
            if hosted:
                view = self.backend.asarray(view)
            for bound, position in readers:
                bound.place(position, view)
        for bound, picked in self._picked:
            for position, array in enumerate(picked.at(row)):
                bound.place(position, array)

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
                bad = self._bad(bound.instruction.inputs, bound.inputs)
                if bad is None:
                    bound.run()
                    bad = self._bad(bound.instruction.outputs, bound.outputs)
                if bad is not None:
                    return bad
        return None

    def _bad(self, numbers: Sequence[int | None], arrays: Sequence[Any]) -> str | None:
        for number, array in zip(numbers, arrays, strict=True):
            if number is not None and not _finite(self.backend.to_numpy(array)):
                return self.program.slots[number].name
        return None


def check_feed(backend: Backend, slot: Slot, array: Any, *, may_stay: bool = False) -> None:
    """Refuse an input array that does not fit its slot.

    ``may_stay`` says whether it may also lie in host memory.
    """
    hosted = may_stay and is_hosted(backend.device, array)
    if not (hosted or backend.device.owns(array)):
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
    if not backend.strided and not packed(array):
        raise ProgramError(
            f"feed: {slot.name!r} must be C-contiguous for backend {backend.name}; give "
            "numpy.ascontiguousarray(...)"
        )
    if slot.interval is not None and array.size:
        low, high = slot.interval
        values = array if hosted else backend.to_numpy(array)
        if values.min() < low or values.max() >= high:
            raise LabelError(
                f"feed: {slot.name!r} must lie in [{low}, {high}), got "
                f"{values.min()} to {values.max()}"
            )


def _reader(backend: Backend, array: Array) -> Callable[[], Any]:
    """Reads a 0-d array; in host memory without asking the device every time."""
    if backend.to_numpy(array) is array:
        return array.item
    return lambda: backend.to_numpy(array).item()


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
