"""The Executable of compiled kernels: whole epochs in compiled code, divided among threads.

A step's plan becomes one table of int64 for every thread (see
:mod:`nnkernels.backends._compiled.epochs.engine`), and Python is asked again only several times a
second, to look for signals and to choose the number of threads. What a thread has for itself (loss,
counters, learning rate) the first one copies to the State at the end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from nnkernels.backend import Backend
from nnkernels.backends._blas import BlasExecutable, blas_threads
from nnkernels.backends._compiled.epochs.crew import Crew, Job
from nnkernels.backends._compiled.epochs.engine import Engine
from nnkernels.backends._compiled.epochs.memory import Shared
from nnkernels.backends._compiled.epochs.pace import Pace, default_threads
from nnkernels.backends._compiled.epochs.plan import Plan, make_plan
from nnkernels.backends._compiled.epochs.tasks import Unsupported, regions_of
from nnkernels.errors import BackendError, ProgramError, unknown
from nnkernels.program import Program, State
from nnkernels.program.format import Instruction
from nnkernels.program.interpreter import check_feed
from nnkernels.program.rewrite import specialise
from nnkernels.spec import Array

LIMIT_S = 0.3
"""Seconds after which a chunk of steps ends early, where another process took the processors."""


def bind(engine: Engine, backend: Backend, program: Program, state: State) -> Any:
    """An Executable: compiled epochs, or the interpreter where a kernel is Python code."""
    program.validate()
    fitted = specialise(program, backend)
    try:
        plan = make_plan(fitted, backend)
    except Unsupported:
        return BlasExecutable(backend, program, state)
    return EpochExecutable(engine, backend, fitted, plan, state)


class EpochExecutable:
    """Runs a Program's steps in compiled code.

    Args:
        engine: the compiled loops.
        backend: whose kernels run.
        program: the step, specialised to the backend.
        plan: what a step does.
        state: what it reads and writes.
    """

    def __init__(
        self, engine: Engine, backend: Backend, program: Program, plan: Plan, state: State
    ) -> None:
        self._engine = engine
        self.backend, self.program, self.plan, self.state = backend, program, plan, state
        self.threads = backend.threads or default_threads(program)
        self._lock = threading.Lock()
        self._fed: dict[str, Array] = {}
        self._windows: int | None = None  # the last row at which a step finds its rows
        self._advance = sum(i.params["rows"] for i in program.instructions if i.op == "advance")
        counts = {1, self.threads}
        engine.load([*plan.entries, *(entry for n in counts for entry in engine.entries(n))])
        touched = [r for task in plan.tasks for r in task.regions.values()]
        common = {r.memory for r in touched if not r.private}
        self._slots = [
            r._replace(private=r.private and r.memory not in common) for r in regions_of(program)
        ]
        regions = [*touched, *self._slots]
        self._shared = Shared(program, state, regions)
        job = Job(engine, program, plan, state, self._shared, regions)
        self._crews = {n: Crew(job, n) for n in counts}
        self._last = self._crews[1]
        self._pace = Pace(self.threads)
        self._used_blas = any(engine.uses_blas(entry) for entry in plan.entries)

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
        last = [len(arrays[n]) - s.shape[0] for n, s in slots.items() if s.window]
        self._windows = min(last, default=None)
        for crew in self._crews.values():
            crew.feed(arrays)

    def run(self, steps: int, stop: Callable[[], bool] | None = None) -> int:
        """Run up to ``steps`` steps and return how many were completed.

        See :meth:`nnkernels.program.Interpreter.run`; ``stop`` is asked about ten times a second.
        """
        with self._alone():
            return self._run(steps, stop)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second thread, and a run without inputs."""
        if not self._lock.acquire(blocking=False):
            raise ProgramError("run: this executable is already running in another thread")
        try:
            if set(self._fed) != set(self.program.inputs):
                raise ProgramError(f"run: feed {sorted(self.program.inputs)} first")
            with self._quiet_blas():
                yield
        finally:
            self._lock.release()

    def _quiet_blas(self) -> AbstractContextManager[None]:
        """BLAS without threads of its own, where it is called by ours."""
        return blas_threads(1) if self._used_blas else contextlib.nullcontext()

    def _run(self, steps: int, stop: Callable[[], bool] | None) -> int:
        available = self._steps_in_data(steps)
        self._crews[1].prologue()
        done = 0
        while done < available and not (stop is not None and stop()):
            threads, chunk = self._pace.next()
            chunk = min(chunk, available - done)
            began = time.perf_counter()
            completed = self._crew(threads).run(chunk, LIMIT_S)
            if completed < 0:
                raise BackendError(self._failure())
            self._pace.took(threads, max(completed, 1), time.perf_counter() - began)
            done += completed
            if completed < chunk and self.state.number("diverged"):
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

    def _crew(self, threads: int) -> Crew:
        self._last = self._crews[threads]
        return self._last

    def _steps_in_data(self, steps: int) -> int:
        """How many of ``steps`` find their rows in the data."""
        if self._windows is None:
            return steps
        last = self._windows - int(self.state.number("row"))
        if last < 0 or last > self._windows:
            return 0
        return min(steps, last // self._advance + 1) if self._advance else steps

    def _refuse_row(self) -> None:
        row = int(self.state.number("row"))
        for name, slot in self.program.inputs.items():
            if slot.window and not 0 <= row <= len(self._fed[name]) - slot.shape[0]:
                raise ProgramError(
                    f"run: the step needs rows {row} to {row + slot.shape[0]}, the data has "
                    f"{len(self._fed[name])}"
                )

    def profile(self, steps: int) -> list[tuple[Instruction, float]]:
        """Run steps on one thread; for every part of an instruction the seconds that it took.

        The State changes as in :meth:`run`.
        """
        crew = self._crew(1)
        table, private = crew.members[0].table, crew.members[0].private
        for _, clock in table.clocks:
            clock[0] = 0
        with self._alone():
            crew.prologue()
            private.fetch_state()
            self._engine.walk_timed.call(
                table.address, self._steps_in_data(steps), private.counter("row")
            )
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
