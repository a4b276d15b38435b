"""The Executable of the CuPy backend: steps as lists of launches, which nothing interrupts.

The host queues a chunk of steps, then waits for all of them once and reads the counters. Whether a
loss was finite is decided on the device: a step that diverged, and all that were queued behind it,
change nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from nnkernels.backend import Backend
from nnkernels.backends.cupy.gpu import Gpu
from nnkernels.backends.cupy.products import WORKSPACE_BYTES
from nnkernels.backends.cupy.steps.counters import Counters
from nnkernels.backends.cupy.steps.graph import capture
from nnkernels.backends.cupy.steps.inputs import Inputs
from nnkernels.backends.cupy.steps.lowering import Item, LaunchList
from nnkernels.backends.cupy.steps.memory import Memory, arena_bytes, kept_bytes, rows_that_fit
from nnkernels.backends.cupy.steps.pace import Pace
from nnkernels.backends.cupy.steps.plan import Plan
from nnkernels.errors import BackendError, DeviceMemoryError, NnkernelsError, ProgramError, unknown
from nnkernels.program import Instruction, Program, State
from nnkernels.spec import Array


class StepExecutable:
    """Runs a Program's steps as launches on one stream of its own.

    Args:
        backend: on which device.
        program: the step, specialised to the backend.
        plan: what it launches.
        state: what it reads and writes.

    Attributes:
        same_bits: whether results have the interpreter's bits: the epilogues of cublasLt add up in
            an order of their own.

    Raises:
        DeviceMemoryError: no room for the scratch; the message says which batch would fit.
    """

    def __init__(self, backend: Backend, program: Program, plan: Plan, state: State) -> None:
        self.backend, self.program, self.state = backend, program, state
        self._gpu: Gpu = backend.device.gpu  # type: ignore[attr-defined]
        self._plan = plan
        self.same_bits = not self._gpu.layers.on("lt")
        self._lock = threading.Lock()
        self._memory, workspace = self._allocated()
        self._list = LaunchList(
            self._gpu, plan.launched, self._memory, backend.precision, workspace
        )
        self._inputs = Inputs(backend, plan, self._memory)
        self._counters = Counters(plan, state)
        self._pace = Pace()
        self._graph: Any = None
        self._warm = False
        with self._gpu.current():
            self._stream = self._gpu.cp.cuda.Stream(non_blocking=True)
        backend.device.synchronize()

    @property
    def launches(self) -> list[Item]:
        """What a step launches, in order; known once inputs were fed."""
        return list(self._list.items)

    def _allocated(self) -> tuple[Memory, Any]:
        """The step's arrays, and the scratch of products by cublasLt."""
        device, free = self.backend.device, self._gpu.device.mem_info[0]
        multiplies = any(p.op == "matmul" for p in self._plan.pieces.pieces)
        shared = WORKSPACE_BYTES if multiplies and self._gpu.layers.on("lt") else 0
        try:
            workspace = device.empty((shared,), "uint8") if shared else None
            return Memory(self._plan, device, self.state), workspace
        except DeviceMemoryError as error:
            raise DeviceMemoryError(self._no_room(free, shared)) from error

    def _no_room(self, free: int, shared: int) -> str:
        rows, needed = self.program.rows, arena_bytes(self._plan) + kept_bytes(self._plan) + shared
        fitting = rows_that_fit(self._plan, free - shared)
        remedy = f"batches of {fitting} rows would fit" if fitting else "free other arrays"
        return (
            f"{self.backend.name}: no room on {self.backend.device.name} for a step of {rows} "
            f"rows, which needs {needed / 2**20:.1f} MiB of scratch; {free / 2**20:.1f} MiB are "
            f"free; {remedy}"
        )

    # --- running -------------------------------------------------------------------------------

    def feed(self, **arrays: Array) -> None:
        """Give the input arrays by name; they stay in use, uncopied, until the next feed.

        Data that is read in batches may also be NumPy arrays: it stays in host memory, and every
        batch travels to the device while the one before is computed.

        Raises:
            ProgramError: an unknown or missing name, or an array that is not C-contiguous.
            ShapeError, DTypeError: an array that does not fit its slot.
            LabelError: integers outside the slot's interval.
        """
        with self._gpu.current():
            changed = self._inputs.feed(arrays)
            if self._list.refresh(changed, self._inputs.brought):
                self._graph = None

    def run(self, steps: int, stop: Callable[[], bool] | None = None) -> int:
        """Run up to ``steps`` steps and return how many were completed.

        See :meth:`nnkernels.program.Interpreter.run`; ``stop`` is asked about ten times a second.
        """
        with self._alone():
            done, available = 0, self._steps_in_data(steps)
            while done < available and not (stop is not None and stop()):
                chunk = min(self._longest, self._pace.next(available - done))
                began = time.perf_counter()
                completed = self._chunk(chunk)
                self._pace.took(chunk, time.perf_counter() - began)
                done += completed
                if completed < chunk:
                    return done
            if done == available < steps:
                self._inputs.refuse_row(self._counters.row)
            return done

    def _steps_in_data(self, steps: int) -> int:
        counters = self._counters
        return self._inputs.steps_in_data(counters.row, counters.advance, steps)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """On the own stream; refuses a second thread, and a run without inputs."""
        if not self._lock.acquire(blocking=False):
            raise ProgramError("run: this executable is already running in another thread")
        try:
            self._inputs.check_fed()
            with self._gpu.current():
                with self._reported("what was queued before"):
                    self._counters.read()  # waits for the current stream: what was queued is done
                with self._stream, self._settled(), self._counters.without_diverged():
                    yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """Leave nothing queued that other streams would not wait for."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._stream.synchronize()
            raise
        self._stream.synchronize()

    @property
    def _longest(self) -> int:
        """The longest chunk: one step where the host must know at once whether it diverged."""
        counted = self._counters.counts_steps and not self._inputs.moves
        return 1 if self._plan.guarded and not counted else 2**31

    def _chunk(self, steps: int) -> int:
        """Queue steps and wait for them; how many were completed."""
        self._capture(steps)
        row = self._counters.row
        for number in range(steps):
            at = row + number * self._counters.advance
            self._inputs.bring(at, at + self._counters.advance, self._stream)
            self._launch()
            self._inputs.put(at)
        self._warm = True
        with self._reported("what was queued"):
            return self._counters.read_after(steps)

    def _capture(self, steps: int) -> None:
        """Make the graph, if it is worth that and was not made yet."""
        wanted = self._graph is None and self._warm and steps > 1
        if wanted and self._list.calls and self._gpu.layers.on("graph"):
            self._graph = capture(self._gpu, self._stream, self._list.calls)

    def _launch(self) -> None:
        """Queue the launches of one step."""
        if self._graph is not None:
            try:
                self._graph.launch()
                return
            except Exception as error:  # whatever CUDA says of it, the launches go on working
                self._graph = None
                reason = f"a graph was not launched: {type(error).__name__}: {error}"
                self._gpu.layers.switch_off("graph", reason)
        for item, call in zip(self._list.items, self._list.calls, strict=True):
            with self._reported(f"{item.name} ({item.origin.op} {item.origin.label})"):
                call()

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Turn the device's complaint about queued work into ours."""
        try:
            yield
        except (NnkernelsError, MemoryError):
            raise
        except Exception as error:
            raise BackendError(
                f"{self.backend.name}: a step failed on {self.backend.device.name}, in {what}: "
                f"{type(error).__name__}: {error}"
            ) from error

    # --- looking into it -----------------------------------------------------------------------

    def profile(self, steps: int) -> list[tuple[Instruction, float]]:
        """Run up to ``steps`` steps; for every launch its instruction and the seconds in all.

        The State changes as in :meth:`run`, one launch after the other, between events.
        """
        with self._alone():
            available = self._steps_in_data(steps)
            events = [self._gpu.cp.cuda.Event() for _ in range(len(self._list.calls) + 1)]
            seconds = [0.0] * len(self._list.calls)
            for _ in range(available):
                row = self._counters.row
                self._inputs.bring(row, row + self._counters.advance, self._stream)
                events[0].record()
                for call, event in zip(self._list.calls, events[1:], strict=True):
                    call()
                    event.record()
                self._inputs.put(row)
                if self._counters.read_after(1) < 1:
                    break
                for number, pair in enumerate(itertools.pairwise(events)):
                    seconds[number] += self._gpu.cp.cuda.get_elapsed_time(*pair) / 1e3
            origins = [item.group.origin for item in self._list.items]
            return list(zip(origins, seconds, strict=True))

    def fetch(self, role: str) -> Array:
        """A NumPy copy of the output ``role`` of the last step (``loss``, ``prediction``)."""
        if role not in self.program.outputs:
            raise unknown("output of the program", role, self.program.outputs)
        return self.backend.to_numpy(self._memory.slot(self._plan.program.outputs[role]))
