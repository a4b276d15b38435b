"""The simulated devices: streams of queued work, captures, memory, and what was done.

Everything that the host can ask for comes through :class:`Machine`; the classes that look like
CuPy's are thin.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnkernels.spec import Array
from nnkernels.testing import ptx
from nnkernels.testing.simulated.errors import CUDARuntimeError, OutOfMemoryError
from nnkernels.testing.simulated.log import Entry, Kind, Log
from nnkernels.testing.simulated.memory import Block, DeviceMemory, Layout, PinnedMemory, host_bytes
from nnkernels.testing.simulated.planted import Planted
from nnkernels.testing.simulated.scheduling import Scheduler, Work

Run = Callable[[], None]


@dataclass
class Capture:
    """The work of a graph while it is captured."""

    runs: list[Run] = field(default_factory=list)
    valid: bool = True


@dataclass(eq=False)
class StreamState:
    """A stream.

    Attributes:
        pointer: its handle; 0 for the default stream of every device.
        device: number of its device.
        blocking: whether it waits for the default stream, and that one for it.
        last: the work that was queued last.
        capture: the graph that its work goes into, if one is being captured.
    """

    pointer: int
    device: int
    blocking: bool = True
    last: Work | None = None
    capture: Capture | None = None


class Machine:
    """Simulated GPUs.

    Args:
        devices: how many.
        sm: compute capability of each, 90 for 9.0.
        capacity: bytes of each one's memory.
        seed: of the order in which streams are done, see
            :mod:`~nnkernels.testing.simulated.scheduling`, and blocks are run; None for the plain
            order.
        noise: seed of the errors of approximate instructions; None for none.
        counted: whether :attr:`statistics` are kept, which takes time.

    Attributes:
        corrupting: whether kernels write wrong numbers at the moment.
        statistics: what the kernels did, by name.
        clock: counts the pieces of work that are done, and the marks of events.
        classes: the namespace's own classes, by what they are derived from.
    """

    def __init__(
        self,
        devices: int,
        sm: int,
        capacity: int,
        seed: int | None,
        noise: int | None,
        *,
        counted: bool,
    ) -> None:
        self.devices, self.sm = devices, sm
        self.memory = DeviceMemory(devices, capacity)
        self.pinned = PinnedMemory()
        self.log = Log()
        self.planted = Planted()
        self.statistics: dict[str, ptx.Statistics] = defaultdict(ptx.Statistics)
        self.seed, self.counted, self.corrupting = seed, counted, False
        self.noise = None if noise is None else np.random.default_rng(noise)
        self.lock = threading.RLock()
        self.clock = itertools.count()
        self.classes: dict[type[Any], type[Any]] = {}
        self._scheduler = Scheduler(seed)
        self._handles = itertools.count(0x5000, 16)
        self._current = threading.local()
        self._null = [StreamState(0, device) for device in range(devices)]
        self._streams: dict[int, StreamState] = {}

    # --- devices -------------------------------------------------------------------------------

    @property
    def device(self) -> int:
        """The calling thread's current device."""
        return getattr(self._current, "device", 0)

    def set_device(self, device: int) -> None:
        """Make a device current for the calling thread.

        Raises:
            CUDARuntimeError: there is none of that number.
        """
        self.check(device)
        self._current.device = device

    def check(self, device: int = 0) -> None:
        """Fail where the real runtime would.

        Raises:
            CUDARuntimeError: there is no such device, or it is lost.
        """
        if not 0 <= device < self.devices:
            raise CUDARuntimeError(101)
        if self.planted.strikes("device lost"):
            raise CUDARuntimeError(719)

    # --- memory --------------------------------------------------------------------------------

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> Block:
        """Memory on the current device.

        Raises:
            OutOfMemoryError: there is no room.
        """
        self.check()
        with self.lock:
            self.log.entries.append(Entry("allocation", "", nbytes=nbytes))
            if self.planted.strikes("out of memory"):
                raise OutOfMemoryError(nbytes, self.memory.used[self.device])
            self._collect()
            try:
                return self.memory.allocate(self.device, nbytes, zeroed=zeroed)
            except OutOfMemoryError:
                self._scheduler.finish_all()
                self._collect()
                return self.memory.allocate(self.device, nbytes, zeroed=zeroed)

    def _collect(self) -> None:
        """Free dead blocks; work that waits may still hold their addresses."""
        if self._scheduler.idle:
            self.memory.free_dead_blocks()

    # --- streams -------------------------------------------------------------------------------

    def new_stream(self, *, blocking: bool) -> StreamState:
        """A stream on the current device."""
        self.check()
        state = StreamState(next(self._handles), self.device, blocking)
        self._streams[state.pointer] = state
        return state

    def stream(self, pointer: int) -> StreamState:
        """The stream with this handle.

        Raises:
            CUDARuntimeError: there is none.
        """
        if pointer == 0:
            return self._null[self.device]
        if pointer not in self._streams:
            raise CUDARuntimeError(400)
        return self._streams[pointer]

    def _on(self, device: int) -> list[StreamState]:
        """All streams of a device, the default one first."""
        return [self._null[device], *(s for s in self._streams.values() if s.device == device)]

    def current_pointers(self) -> list[int]:
        """The calling thread's current stream of every device, to be changed in place."""
        found: list[int] | None = getattr(self._current, "streams", None)
        if found is None:
            found = self._current.streams = [0] * self.devices
        return found

    @property
    def current(self) -> StreamState:
        """The current stream of the current device."""
        return self.stream(self.current_pointers()[self.device])

    # --- work ----------------------------------------------------------------------------------

    def submit(
        self,
        state: StreamState,
        kind: Kind,
        name: str,
        run: Run,
        *,
        keep: Any = None,
        nbytes: int = 0,
    ) -> None:
        """Queue work in a stream, or put it into the graph that the stream captures.

        Args:
            state: the stream.
            kind, name, nbytes: for the log.
            run: does the work; holds addresses only.
            keep: what must live until the work is done; a graph does not keep it.
        """
        self.check(state.device)
        with self.lock:
            self.log.entries.append(Entry(kind, name, state.capture is not None, nbytes))
            counted = functools.partial(self._count, run)
            if state.capture is not None:
                state.capture.runs.append(counted)
            else:
                self.queue(state, functools.partial(_run_keeping, counted, keep))

    def _count(self, run: Run) -> None:
        """Do a piece of work, which the clock tells."""
        run()
        next(self.clock)

    def queue(self, state: StreamState, run: Run, after: Work | None = None) -> Work:
        """Queue work that is not logged."""
        null = self._null[state.device]
        before = [state.last, after]
        if state is null:
            blocking = [
                s for s in self._streams.values() if s.device == state.device and s.blocking
            ]
            if any(s.capture is not None for s in blocking):
                raise CUDARuntimeError(906)
            before += [s.last for s in blocking]
        elif state.blocking:
            before.append(null.last)
        state.last = self._scheduler.add(run, [work for work in before if work is not None])
        return state.last

    def synchronise(self, work: Work | None) -> None:
        """Wait until a piece of work is done.

        Raises:
            Fault: what had to be done first did what it must not.
        """
        self.check()
        with self.lock:
            self.log.entries.append(Entry("synchronisation", ""))
            self._finish(work)

    def synchronise_stream(self, state: StreamState) -> None:
        """Wait for all work of a stream.

        Raises:
            CUDARuntimeError: it is capturing, and the capture is spoiled by this.
        """
        if state.capture is not None:
            state.capture.valid = False
            raise CUDARuntimeError(900)
        self.synchronise(state.last)

    def synchronise_device(self, device: int) -> None:
        """Wait for all streams of a device.

        Raises:
            CUDARuntimeError: one of them is capturing.
        """
        states = self._on(device)
        for state in states:
            if state.capture is not None:
                state.capture.valid = False
                raise CUDARuntimeError(900)
        self.synchronise(None)
        with self.lock:
            for state in states:
                self._finish(state.last)

    def poll(self, work: Work | None) -> bool:
        """Whether work is done; if not, it is by the next time."""
        self.check()
        if work is None or work.done:
            return True
        if not self.planted.strikes("device hangs"):
            with self.lock:
                self._finish(work)
        return False

    def _finish(self, work: Work | None) -> None:
        if work is not None and not work.done:
            if self.planted.strikes("device hangs"):
                raise RuntimeError("the device hangs, as planted: a real one is waited for forever")
            self._scheduler.finish(work)

    @contextlib.contextmanager
    def corrupted(self, on: bool) -> Iterator[None]:
        """Within this, kernels write wrong numbers if ``on``."""
        before, self.corrupting = self.corrupting, self.corrupting or on
        try:
            yield
        finally:
            self.corrupting = before

    # --- copies between host and device --------------------------------------------------------

    def copy_from_host(
        self, state: StreamState, address: int, host: int, nbytes: int, keep: Any
    ) -> None:
        """Queue a copy: what pinned memory then holds, or what other memory holds now.

        Raises:
            CUDARuntimeError: memory that is not pinned, into a graph.
        """
        pinned = self.pinned.holds(host, nbytes)
        self._refuse_pageable(state, pinned)
        source = host_bytes(host, nbytes) if pinned else host_bytes(host, nbytes).copy()
        target = _bytes(address, nbytes)

        def run() -> None:
            self.memory.write(target, source)

        self.submit(state, "transfer", "from host", run, keep=keep, nbytes=nbytes)

    def copy_to_host(
        self, state: StreamState, host: int, address: int, nbytes: int, keep: Any
    ) -> None:
        """Queue a copy into pinned memory; into other memory it is done when this returns.

        Raises:
            CUDARuntimeError: memory that is not pinned, from a graph.
        """
        pinned = self.pinned.holds(host, nbytes)
        self._refuse_pageable(state, pinned)
        source = _bytes(address, nbytes)

        def run() -> None:
            ctypes.memmove(
                host, np.ascontiguousarray(self.memory.values(source)).ctypes.data, nbytes
            )

        self.submit(state, "transfer", "to host", run, keep=keep, nbytes=nbytes)
        if not pinned:
            with self.lock:
                self._finish(state.last)

    def _refuse_pageable(self, state: StreamState, pinned: bool) -> None:
        if state.capture is not None and not pinned:
            state.capture.valid = False
            raise CUDARuntimeError(900)

    # --- what the simulated cublasLt needs -----------------------------------------------------

    def read(self, address: int, nbytes: int) -> Array:
        """Bytes of device memory, as uint8."""
        return self.memory.values(_bytes(address, nbytes)).copy()

    def write(self, address: int, data: Array) -> None:
        """Change bytes of device memory; ``data`` is uint8."""
        self.memory.write(_bytes(address, data.size), data)

    def enqueue(self, stream: int, name: str, work: Run) -> None:
        """Do ``work`` when the stream comes to it."""
        self.submit(self.stream(stream), "cublaslt", name, work)


def _bytes(address: int, nbytes: int) -> Layout:
    return Layout.packed(address, (nbytes,), np.uint8)


def _run_keeping(run: Run, keep: Any) -> None:
    """``run``, bound together with what it needs alive."""
    run()
