"""What looks like CuPy's devices, streams, events and graphs."""

from __future__ import annotations

from typing import Any, Self

from nnkernels.testing.simulated.errors import CUDARuntimeError
from nnkernels.testing.simulated.machine import Capture, Machine, Run, StreamState
from nnkernels.testing.simulated.scheduling import Work


class Device:
    """As ``cupy.cuda.Device``.

    Args:
        device: its number; by default the current one's.
    """

    machine: Machine

    def __init__(self, device: Any = None) -> None:
        self.id = self.machine.device if device is None else int(device)
        self._before: list[int] = []

    @classmethod
    def of(cls, machine: Machine, number: int) -> Device:
        """The device of that number."""
        device: Device = bound(cls, machine)(number)
        return device

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]  # compared by content, as in CuPy

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Self:
        self._before.append(self.machine.device)
        self.use()
        return self

    def __exit__(self, *args: object) -> None:
        self.machine.set_device(self._before.pop())

    def use(self) -> Self:
        """Make it current."""
        self.machine.set_device(self.id)
        return self

    def synchronize(self) -> None:
        """Wait for all of its streams."""
        self.machine.check(self.id)
        self.machine.synchronise_device(self.id)

    @property
    def compute_capability(self) -> str:
        """``90`` for 9.0."""
        self.machine.check(self.id)
        return str(self.machine.sm)

    @property
    def mem_info(self) -> tuple[int, int]:
        """Bytes free, and bytes in all."""
        self.machine.check(self.id)
        memory = self.machine.memory
        return memory.capacity - memory.used[self.id], memory.capacity

    @property
    def attributes(self) -> dict[str, int]:
        """Some of CUDA's attributes: those of an H100."""
        self.machine.check(self.id)
        return {
            "ComputeCapabilityMajor": self.machine.sm // 10,
            "ComputeCapabilityMinor": self.machine.sm % 10,
            "MaxThreadsPerBlock": 1024,
            "MultiProcessorCount": 132,
            "WarpSize": 32,
            "MaxSharedMemoryPerBlock": 48 << 10,
            "L2CacheSize": 50 << 20,
        }


class Event:
    """As ``cupy.cuda.Event``; the time of an event is how much was done before it."""

    machine: Machine

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self._timed = not disable_timing
        self._work: Work | None = None
        self._captured: Capture | None = None
        self._time: float | None = None

    @property
    def done(self) -> bool:
        """Whether all work before it is done."""
        return self.machine.poll(self._work)

    def record(self, stream: Any = None) -> None:
        """Mark what the stream has so far."""
        state = self.machine.current if stream is None else self.machine.stream(stream.ptr)
        self.machine.check(state.device)
        self._captured, self._time = state.capture, None
        if state.capture is None:
            self._work = self.machine.queue(state, self._tick)

    def _tick(self) -> None:
        self._time = float(next(self.machine.clock))

    def synchronize(self) -> None:
        """Wait for what it marks."""
        if self._captured is not None:
            self._captured.valid = False
            raise CUDARuntimeError(900)
        self.machine.synchronise(self._work)

    def awaited_by(self, state: StreamState) -> None:
        """Let what the stream gets from now on come after what this event marks.

        Raises:
            CUDARuntimeError: one is captured, and the other is not.
        """
        if state.capture is not self._captured:
            raise CUDARuntimeError(905)
        if self._work is not None and state.capture is None:
            self.machine.queue(state, _nothing, after=self._work)

    def until(self, end: Event) -> float:
        """Milliseconds, at a microsecond for each piece of work and mark, to another event.

        Raises:
            CUDARuntimeError: one was not recorded, keeps no time, or has not happened.
        """
        if not (self._timed and end._timed):
            raise CUDARuntimeError(400)
        if self._time is None or end._time is None:
            raise CUDARuntimeError(600)
        return (end._time - self._time) * 1e-3


def _nothing() -> None:
    """What a stream does when it only waits."""


class Graph:
    """As ``cupy.cuda.Graph``; it holds addresses, and keeps no array alive."""

    machine: Machine
    _runs: list[Run]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "currently this class cannot be initiated by the user and must be created via stream "
            "capture"
        )

    @classmethod
    def of(cls, machine: Machine, runs: list[Run]) -> Graph:
        """The graph of captured work."""
        graph: Graph = object.__new__(bound(cls, machine))
        graph._runs = runs
        return graph

    def launch(self, stream: Any = None) -> None:
        """Queue all of it.

        Raises:
            CUDARuntimeError: as planted.
        """
        machine = self.machine
        if machine.planted.strikes("graph launch"):
            raise CUDARuntimeError(1)
        state = machine.current if stream is None else machine.stream(stream.ptr)
        wrong = machine.planted.strikes("graph results")

        def run() -> None:
            with machine.corrupted(wrong):
                for each in self._runs:
                    each()

        machine.submit(state, "graph", f"{len(self._runs)} nodes", run)

    def upload(self, stream: Any = None) -> None:
        """Prepare it on the device; nothing is to be seen of that."""
        self.machine.check()


class Stream:
    """As ``cupy.cuda.Stream``."""

    machine: Machine
    null: Stream

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        if ptds:
            raise NotImplementedError("the simulated device has no per-thread default stream")
        self.ptr, self.device_id = 0, -1
        if not null:
            state = self.machine.new_stream(blocking=not non_blocking)
            self.ptr, self.device_id = state.pointer, state.device
        self._before: list[int] = []

    @property
    def _state(self) -> StreamState:
        return self.machine.stream(self.ptr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    __hash__ = None  # type: ignore[assignment]  # compared by content, as in CuPy

    def __enter__(self) -> Self:
        pointers = self.machine.current_pointers()
        self._before.append(pointers[self._own_device()])
        return self.use()

    def __exit__(self, *args: object) -> None:
        device = self.machine.device if self.device_id == -1 else self.device_id
        self.machine.current_pointers()[device] = self._before.pop()

    def use(self) -> Self:
        """Make it current on its device."""
        self.machine.current_pointers()[self._own_device()] = self.ptr
        return self

    def _own_device(self) -> int:
        current = self.machine.device
        if self.device_id not in (-1, current):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with "
                f"the current device ({current})"
            )
        return current

    @property
    def done(self) -> bool:
        """Whether all of its work is done."""
        return self.machine.poll(self._state.last)

    def synchronize(self) -> None:
        """Wait for all of its work."""
        self.machine.synchronise_stream(self._state)

    def record(self, event: Any = None) -> Any:
        """Record an event, a new one by default."""
        marked = bound(Event, self.machine)() if event is None else event
        marked.record(self)
        return marked

    def wait_event(self, event: Event) -> None:
        """Let what comes wait for an event."""
        event.awaited_by(self._state)

    def begin_capture(self, mode: int | None = None) -> None:
        """From now on work goes into a graph.

        Raises:
            RuntimeError: it is the default stream.
            CUDARuntimeError: it is capturing already.
        """
        state = self._state
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if state.capture is not None:
            raise CUDARuntimeError(1)
        self.machine.check(state.device)
        state.capture = Capture()

    def end_capture(self) -> Graph:
        """The graph of what was captured.

        Raises:
            CUDARuntimeError: nothing was, or what is not permitted was tried meanwhile.
        """
        state = self._state
        capture, state.capture = state.capture, None
        if capture is None:
            raise CUDARuntimeError(1)
        if not capture.valid or self.machine.planted.strikes("graph capture"):
            raise CUDARuntimeError(901)
        return Graph.of(self.machine, capture.runs)

    def is_capturing(self) -> bool:
        """Whether work goes into a graph."""
        return self._state.capture is not None


def bound(kind: type[Any], machine: Machine) -> type[Any]:
    """The class of a namespace: ``kind`` on its own devices."""
    known = machine.classes
    if kind not in known:
        known[kind] = type(kind.__name__, (kind,), {"machine": machine, "__doc__": kind.__doc__})
    return known[kind]
