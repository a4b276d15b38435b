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
from typing import Any, NamedTuple, TypeVar

from nnkernels.backend import Backend
from nnkernels.backends.cupy.device import gpu_of
from nnkernels.backends.cupy.products import WORKSPACE_BYTES
from nnkernels.backends.cupy.steps.counters import Counters
from nnkernels.backends.cupy.steps.graph import capture
from nnkernels.backends.cupy.steps.groups import Head
from nnkernels.backends.cupy.steps.inputs import Inputs, brought
from nnkernels.backends.cupy.steps.lowering import Item, LaunchList
from nnkernels.backends.cupy.steps.memory import Memory, arena_bytes, kept_bytes, rows_that_fit
from nnkernels.backends.cupy.steps.pace import Pace
from nnkernels.backends.cupy.steps.plan import Plan
from nnkernels.errors import BackendError, DeviceMemoryError, NnkernelsError, ProgramError, unknown
from nnkernels.program import Instruction, Program, State
from nnkernels.spec import Array

Read = TypeVar("Read")


class Timed(NamedTuple):
    """Steps between two events.

    Attributes:
        steps: how many were completed.
        seconds: on the device's clock, from before the first to after the last.
        queued: seconds after which the host had queued them.
        graph: whether each was the launch of one graph.
    """

    steps: int
    seconds: float
    queued: float
    graph: bool


class StepExecutable:
    """Runs a Program's steps as launches on one stream of its own.

    Args:
        backend: on which device.
        program: the step, specialised to the backend.
        plan: what it launches.
        state: what it reads and writes.

    Attributes:
        same_bits: whether results have the interpreter's bits: the epilogues of cublasLt, and the
            launch that computes the loss and its gradient, add up in an order of their own.

    Raises:
        DeviceMemoryError: no room for the scratch; the message says which batch would fit.
    """

    def __init__(self, backend: Backend, program: Program, plan: Plan, state: State) -> None:
        self.backend, self.program, self.state = backend, program, state
        self._gpu = gpu_of(backend)
        self._plan = plan
        headed = any(isinstance(group, Head) for group in plan.groups)
        self.same_bits = not (headed or plan.epilogues)
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
        shared = self._shared
        try:
            workspace = device.empty((shared,), "uint8") if shared else None
            return Memory(self._plan, device, self.state), workspace
        except DeviceMemoryError as error:
            raise DeviceMemoryError(self._no_room(free)) from error

    @property
    def _shared(self) -> int:
        """Bytes of the scratch of products by cublasLt."""
        multiplies = any(p.op == "matmul" for p in self._plan.pieces.pieces)
        return WORKSPACE_BYTES if multiplies and self._plan.epilogues else 0

    @property
    def _needed(self) -> int:
        """Bytes of all scratch."""
        return arena_bytes(self._plan) + kept_bytes(self._plan) + self._shared

    def _no_room(self, free: int, *, streamed: bool = False) -> str:
        rows, travelling = self.program.rows, brought(self._plan)
        fitting = rows_that_fit(self._plan, free - self._shared, travelling)
        remedy = f"batches of {fitting} rows would fit" if fitting else "free other arrays"
        room = sum(array.nbytes for array in travelling) / 2**20
        more = f" and {room:.1f} MiB for streamed batches" if streamed else ""
        return (
            f"{self.backend.name}: no room on {self.backend.device.name} for a step of {rows} "
            f"rows, which needs {self._needed / 2**20:.1f} MiB of scratch{more}; "
            f"{free / 2**20:.1f} MiB are free; {remedy}"
        )

    # --- running -------------------------------------------------------------------------------

    def feed(self, **arrays: Array) -> None:
        """Give the input arrays by name; they stay in use, uncopied, until the next feed.

        Data that is read in batches, and its order, may also be NumPy arrays: it stays in host
        memory, and every batch travels to the device while the one before is computed.

        Raises:
            ProgramError: an unknown or missing name, or an array that is not C-contiguous.
            ShapeError, DTypeError: an array that does not fit its slot.
            LabelError: integers outside the slot's interval.
        """
        with self._gpu.current():
            changed = self._inputs.feed(arrays)
            if self._list.refresh(changed, self._inputs.brought):
                self._graph, self._warm = None, False

    def run(self, steps: int, stop: Callable[[], bool] | None = None) -> int:
        """Run up to ``steps`` steps and return how many were completed.

        See :meth:`nnkernels.program.Interpreter.run`; ``stop`` is asked about ten times a second.
        """
        with self._alone():
            done, available = 0, self._steps_in_data(steps)
            while done < available and not (stop is not None and stop()):
                chunk = self._next_chunk(available - done)
                completed = self._chunk(chunk)
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
                self._read("what was queued before", self._counters.read)  # and wait for it
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
                self._wait()
            raise
        self._wait()

    def _wait(self) -> None:
        self._stream.synchronize()
        self._inputs.settle()

    # --- chunks of steps -----------------------------------------------------------------------

    def _next_chunk(self, most: int) -> int:
        """Steps to queue at once.

        One, if the list is new; or if the host must know at once whether that step diverged: when
        no counter tells later, or when the host moves rows of arrays on the device, which it must
        not do beyond that step. Batches from host memory only reach scratch.
        """
        tells = self._counters.counts_steps and not self._inputs.moves
        return self._pace.next(most) if self._warm and (tells or not self._plan.guarded) else 1

    def _chunk(self, steps: int) -> int:
        """Queue steps and wait for them; how many were completed."""
        began, warm = time.perf_counter(), self._warm
        if warm and self._graph is None and self._may_be_graph:
            self._graph = capture(self._gpu, self._stream, self._list.calls)
        for number in range(steps):
            self._step(self._counters.row + number * self._counters.advance)
        completed = self._read("what was queued", lambda: self._counters.read_after(steps))
        if completed < steps - 1 and self._inputs.streams:
            self._step(self._counters.row)  # outputs and gradients are those of its own batch again
        self._warm = True
        if warm:
            self._pace.took(steps, time.perf_counter() - began)
        return completed

    def _step(self, row: int) -> None:
        """Queue a step at ``row``."""
        self._bring(row, row + self._counters.advance)
        self._launch()
        self._inputs.put(row)

    def _bring(self, row: int, following: int) -> None:
        """Queue what must be moved before a step.

        Raises:
            DeviceMemoryError: no room for the batches that are streamed.
        """
        try:
            self._inputs.bring(row, following, self._stream)
        except DeviceMemoryError as error:
            free = self._gpu.device.mem_info[0] + self._needed
            raise DeviceMemoryError(self._no_room(free, streamed=True)) from error

    @property
    def _may_be_graph(self) -> bool:
        """Whether the list can be captured: its products are cublasLt's, and the layer is on."""
        return self._plan.epilogues and self._gpu.layers.on("graph")

    def _launch(self) -> None:
        """Queue the launches of one step."""
        if self._graph is None:
            self._launch_each()
            return
        try:
            self._graph.launch()
        except Exception as error:  # whatever CUDA says of it, the launches go on working
            self._graph = None
            reason = f"a graph was not launched: {type(error).__name__}: {error}"
            self._gpu.layers.switch_off("graph", reason)
            self._launch_each()

    def _launch_each(self, events: list[Any] | None = None) -> None:
        """Queue one launch after the other; append an event to ``events``, if given, after each."""
        for item, call in zip(self._list.items, self._list.calls, strict=True):
            try:
                call()
            except (NnkernelsError, MemoryError):
                raise
            except Exception as error:
                where = f"{item.name} ({item.origin.op} {item.origin.label})"
                raise self._failure(where, error) from error
            if events is not None:
                events.append(self._stream.record())

    def _read(self, what: str, read: Callable[[], Read]) -> Read:
        """Read what waits for the device, whose complaint about queued work becomes ours."""
        try:
            return read()
        except (NnkernelsError, MemoryError):
            raise
        except Exception as error:
            raise self._failure(what, error) from error

    def _failure(self, where: str, error: Exception) -> BackendError:
        return BackendError(
            f"{self.backend.name}: a step failed on {self.backend.device.name}, in {where}: "
            f"{type(error).__name__}: {error}"
        )

    # --- looking into it -----------------------------------------------------------------------

    def timed(self, steps: int) -> Timed:
        """Run up to ``steps`` steps as :meth:`run` does, as many as it queues at once."""
        with self._alone():
            steps = self._next_chunk(self._steps_in_data(steps))
            first, began = self._stream.record(), time.perf_counter()
            for number in range(steps):
                self._step(self._counters.row + number * self._counters.advance)
            queued, last = time.perf_counter() - began, self._stream.record()
            completed = self._read("what was queued", lambda: self._counters.read_after(steps))
        seconds = self._gpu.cp.cuda.get_elapsed_time(first, last) / 1e3
        return Timed(completed, seconds, queued, self._graph is not None)

    def profile(self, steps: int) -> list[tuple[Instruction, float]]:
        """Run up to ``steps`` steps; for every launch its instruction and the seconds in all.

        The State changes as in :meth:`run`, one launch after the other, between events.
        """
        seconds = [0.0] * len(self._list.items)
        with self._alone():
            for _ in range(self._steps_in_data(steps)):
                events = self._marked_step()
                if self._counters.read_after(1) < 1:
                    break
                for number, pair in enumerate(itertools.pairwise(events)):
                    seconds[number] += self._gpu.cp.cuda.get_elapsed_time(*pair) / 1e3
        origins = [item.origin for item in self._list.items]
        return list(zip(origins, seconds, strict=True))

    def _marked_step(self) -> list[Any]:
        """Queue a step; the events before its first launch and after each."""
        row = self._counters.row
        self._bring(row, row + self._counters.advance)
        events = [self._stream.record()]
        self._launch_each(events)
        self._inputs.put(row)
        return events

    def fetch(self, role: str) -> Array:
        """A NumPy copy of the output ``role`` of the last step (``loss``, ``prediction``)."""
        if role not in self.program.outputs:
            raise unknown("output of the program", role, self.program.outputs)
        return self.backend.to_numpy(self._memory.slot(self._plan.program.outputs[role]))
