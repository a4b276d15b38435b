"""The Executable of the Numba backend: whole epochs in compiled code, divided among threads.

A step's plan becomes one table of int64 for every thread (:mod:`nnkernels.backends.numba.walker`),
and Python is asked again only several times a second, to look for signals and to choose the number
of threads. What a thread has for itself (loss, counters, learning rate) the first one copies to the
State at the end.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from nnkernels.backend import Backend
from nnkernels.backends._blas import BlasExecutable, blas_threads
from nnkernels.backends.numba import library, walker
from nnkernels.backends.numba.memory import Private, Shared
from nnkernels.backends.numba.pace import Pace, default_threads
from nnkernels.backends.numba.plan import Plan, make_plan
from nnkernels.backends.numba.table import Table
from nnkernels.backends.numba.tasks import Region, Unsupported, regions_of
from nnkernels.errors import BackendError, ProgramError, unknown
from nnkernels.program import Program, State
from nnkernels.program.format import ALIGNMENT, Instruction
from nnkernels.program.interpreter import check_feed
from nnkernels.program.rewrite import specialise
from nnkernels.spec import Array


def bind(backend: Backend, program: Program, state: State) -> Any:
    """An Executable: compiled epochs, or the interpreter where a kernel is Python code."""
    program.validate()
    fitted = specialise(program, backend)
    try:
        plan = make_plan(fitted, backend)
    except Unsupported:
        return BlasExecutable(backend, program, state)
    return EpochExecutable(backend, fitted, plan, state)


class EpochExecutable:
    """Runs a Program's steps in compiled code.

    Args:
        backend: whose kernels run.
        program: the step, specialised to the backend.
        plan: what a step does.
        state: what it reads and writes.
    """

    def __init__(self, backend: Backend, program: Program, plan: Plan, state: State) -> None:
        self.backend, self.program, self.plan, self.state = backend, program, plan, state
        self.threads = backend.threads or default_threads(program)
        self._lock = threading.Lock()
        self._fed: dict[str, Array] = {}
        self.walk = library.plain_entry(walker.walk, 6)
        library.load([self.walk, *plan.entries])
        regions = [r for task in plan.tasks for r in task.regions.values()]
        self._slots = regions_of(program)
        self._shared = Shared(program, state, [*regions, *self._slots])
        self._crews = {n: _Crew(self, n, regions) for n in {1, self.threads}}
        self._last = self._crews[1]
        self._pace = Pace(self.threads)

    # --- what the crews are made of ------------------------------------------------------------

    def table(self, private: Private, threads: int, thread: int) -> Table:
        """The table of one of ``threads``."""
        double = self.program.dtype == "float64"
        inputs = self.program.inputs
        return Table(self.plan, self._shared, private, inputs, double, threads, thread)

    def private(self, regions: Any) -> Private:
        """Memory for one thread."""
        return Private(self.state, [*regions, *self._slots])

    # --- running -------------------------------------------------------------------------------

    def feed(self, **arrays: Array) -> None:
        """Give the input arrays by name; they stay in use, uncopied, until the next feed.

        Raises:
            ProgramError: an unknown or missing name, or an array that is not C-contiguous.
            ShapeError, DTypeError: an array that does not fit its slot.
            LabelError: integers outside the slot's interval.
        """
        slots = self.program.inputs
        if set(arrays) != set(slots):
            raise ProgramError(f"feed: expected {sorted(slots)}, got {sorted(arrays)}")
        for name, array in arrays.items():
            check_feed(self.backend, slots[name], array)
        self._fed = dict(arrays)
        for crew in self._crews.values():
            crew.feed(arrays)

    def run(self, steps: int, stop: Callable[[], bool] | None = None) -> int:
        """Run up to ``steps`` steps and return how many were completed.

        See :meth:`nnkernels.program.Interpreter.run`; ``stop`` is asked about ten times a second.
        """
        if not self._lock.acquire(blocking=False):
            raise ProgramError("run: this executable is already running in another thread")
        try:
            if set(self._fed) != set(self.program.inputs):
                raise ProgramError(f"run: feed {sorted(self.program.inputs)} first")
            with self._quiet_blas():
                return self._run(steps, stop)
        finally:
            self._lock.release()

    def _quiet_blas(self) -> AbstractContextManager[None]:
        """BLAS without threads of its own, where it is called by ours."""
        used = any(entry.name.startswith("products.blas") for entry in self.plan.entries)
        return blas_threads(1) if used else contextlib.nullcontext()

    def _run(self, steps: int, stop: Callable[[], bool] | None) -> int:
        available = self._steps_in_data(steps)
        self._crews[1].prologue()
        done = 0
        while done < available and not (stop is not None and stop()):
            threads, chunk = self._pace.next()
            chunk = min(chunk, available - done)
            began = time.perf_counter()
            completed = self._crew(threads).run(chunk)
            if completed < 0:
                raise BackendError(self._failure())
            self._pace.took(threads, chunk, time.perf_counter() - began)
            done += completed
            if completed < chunk:
                return done
        if done == available < steps:
            self._refuse_row()
        return done

    def _failure(self) -> str:
        """Only users' kernels can fail: ours check nothing."""
        swapped = ", ".join(f"{op}={name}" for op, name in self.backend.swaps.items())
        return (
            f"{self.backend.name}: a kernel raised an exception within a step ({swapped}); call it "
            "by itself on such arrays to see which, or run the program on backend 'numpy'"
        )

    def _crew(self, threads: int) -> _Crew:
        self._last = self._crews[threads]
        return self._last

    def _steps_in_data(self, steps: int) -> int:
        """How many of ``steps`` find their rows in the data."""
        windows = [(self._fed[n], s.shape[0]) for n, s in self.program.inputs.items() if s.window]
        advance = sum(i.params["rows"] for i in self.program.instructions if i.op == "advance")
        row = int(self.state.number("row"))
        for source, rows in windows:
            room = len(source) - row - rows
            fitting = 0 if room < 0 else room // advance + 1 if advance else steps
            steps = min(steps, fitting)
        return steps

    def _refuse_row(self) -> None:
        row = int(self.state.number("row"))
        for name, slot in self.program.inputs.items():
            if slot.window and row + slot.shape[0] > len(self._fed[name]):
                raise ProgramError(
                    f"run: the step needs rows {row} to {row + slot.shape[0]}, the data has "
                    f"{len(self._fed[name])}"
                )

    def profile(self, steps: int) -> list[tuple[Instruction, float]]:
        """Run steps on one thread; for every part of an instruction the seconds that it took.

        The State changes as in :meth:`run`.
        """
        entry = library.plain_entry(walker.walk_timed, 3)
        crew = self._crew(1)
        table, private = crew.members[0].table, crew.members[0].private
        for _, clock in table.clocks:
            clock[0] = 0
        with self._quiet_blas():
            crew.prologue()
            private.fetch_state()
            entry.call(table.address, self._steps_in_data(steps), private.counter("row"))
            private.store_state()
        return [(task.instruction, float(clock[0]) * 1e-9) for task, clock in table.clocks]

    def fetch(self, role: str) -> Array:
        """A NumPy copy of the output ``role`` of the last step (``loss``, ``prediction``)."""
        if role not in self.program.outputs:
            raise unknown("output of the program", role, self.program.outputs)
        number = self.program.outputs[role]
        region = self._slots[number]
        memory = self._last.members[0].private if region.private else self._shared
        return memory.read(region, self.program.slots[number].dtype)


class _Member(NamedTuple):
    """One thread's memory and table."""

    private: Private
    table: Table


class _Crew:
    """A number of threads that run steps together; the first of them is the caller's."""

    def __init__(
        self, executable: EpochExecutable, threads: int, regions: Sequence[Region]
    ) -> None:
        self._executable, self._threads = executable, threads
        self.members: list[_Member] = []
        for thread in range(threads):
            private = executable.private(regions)
            self.members.append(_Member(private, executable.table(private, threads, thread)))
        self._barrier = executable.state.device.buffer(2 * ALIGNMENT).view(np.int64)
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def feed(self, arrays: Mapping[str, Array]) -> None:
        """Use these input arrays."""
        for member in self.members:
            member.table.feed(arrays)

    def prologue(self) -> None:
        """Run what comes before a run of steps."""
        table = self.members[0].table
        for task in self._executable.plan.prologue:
            record = table.record(task)
            task.step.entry.call(record.ctypes.data, 0, task.step.items)

    def run(self, steps: int) -> int:
        """Run up to ``steps`` steps; returns how many were completed."""
        for member in self.members:
            member.private.fetch_state()
        self._barrier[:] = 0
        others = [self._workers().submit(self._walk, m, steps) for m in self.members[1:]]
        done = self._walk(self.members[0], steps)
        wait(others)
        self.members[0].private.store_state()
        return done

    def _walk(self, member: _Member, steps: int) -> int:
        private = member.private
        done: int = self._executable.walk.call(
            member.table.address,
            steps,
            private.counter("row"),
            private.counter("diverged"),
            self._barrier.ctypes.data,
            self._threads,
        )
        return done

    def _workers(self) -> ThreadPoolExecutor:
        """Threads of this process: after a fork the parent's are gone."""
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self._threads - 1), os.getpid()
        return self._pool
