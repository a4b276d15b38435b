"""Processes that run one candidate each, seen from the parent: see ``harness/worker.py``.

A worker answers one request at a time and blocks on its pipe between two, so that only the one that
was asked can run. It leads a session of its own: it is killed with all its children, and does not
see a Ctrl-C, which is the parent's to handle.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from nnkernels.bench import harness
from nnkernels.bench.rows import Kind

BOOT = Path(harness.__file__).with_name("__main__.py")
MAX_LINE = 1 << 20
MAX_ARRAYS = 1 << 32
"""Bytes of a reply, and of its arrays, beyond which it is taken for garbage."""

GRACE = 0.5
"""Seconds that a worker has to end by itself before it is killed."""

_POLL = 0.5
_KINDS = "fiub"


class CandidateError(Exception):
    """A candidate did not do what its worker was asked to; ``kind`` names the exception there."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class WorkerLostError(CandidateError):
    """The worker ended, or did not answer, or not with what was asked for."""


class WorkerHungError(WorkerLostError):
    """The worker did not answer in time."""


class Greeting(msgspec.Struct):
    """Who a worker is, and whether it can be told a number of threads."""

    identity: dict[str, str | None]
    device: str
    threads: int | None
    adjustable: bool = False


class Listed(msgspec.Struct, frozen=True):
    """A workload that a worker can load."""

    workload: str
    size: str
    dtype: str
    tags: tuple[str, ...]

    @property
    def id(self) -> str:
        """As ``harness.Case.id``."""
        return f"{self.workload}[{self.size}]"


class Workloads(msgspec.Struct):
    """What a worker can load, and what its nnkernels tags ``gate`` itself, where it tells."""

    known: list[Listed]
    declared: list[str] | None


class Loaded(msgspec.Struct):
    """What a reader of the times should know, and which times there are."""

    note: str | None
    kinds: tuple[Kind, ...] = ("call",)


class Primed(msgspec.Struct):
    """Loops a sample, calls so far, what the first one took beyond a later one, and that one."""

    loops: int
    calls: int
    compile_s: float
    seconds: float = 0.0


class Forgotten(msgspec.Struct):
    """What was loaded has been freed."""


class Sample(msgspec.Struct):
    """Seconds a call, and whether the CPU ran something else meanwhile.

    Of kernel times also the seconds that the host needed to queue a call, and whether a call was
    the launch of one graph.
    """

    seconds: float
    contended: bool
    queued: float | None = None
    graph: bool = False


R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and with what a worker runs.

    Attributes:
        python: the interpreter; None is this process's.
        path: its ``sys.path``, where the nnkernels that it drives is found first; None is this
            process's own.
        environment: variables set beside this process's own; None: not set at all.
        cpus: the only CPUs that it may use; None leaves the system's choice.
        program: the file that it runs, called as ``harness/__main__.py`` is.
    """

    python: str | None = None
    path: Sequence[str] | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    cpus: Collection[int] | None = None
    program: Path = BOOT


class Worker:
    """A process that has been started, and must be closed.

    Raises:
        WorkerLostError: it cannot be started.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        chosen = settings or Settings()
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        life_end, self._life = os.pipe()
        theirs = (request_end, reply_end, life_end)
        entries = sys.path if chosen.path is None else chosen.path
        path = json.dumps([str(entry) for entry in entries])
        workloads = json.dumps(harness.added())
        self._buffer = bytearray()
        self._open = [self._requests, self._replies, self._life]
        try:
            self._process = subprocess.Popen(
                [
                    chosen.python or sys.executable,
                    str(chosen.program),
                    *map(str, theirs),
                    path,
                    workloads,
                ],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=_variables(chosen.environment),
            )
        except OSError as error:
            self._close_pipes()
            raise WorkerLostError(f"its process cannot be started: {error.strerror}") from error
        finally:
            for end in theirs:
                os.close(end)
        if chosen.cpus is not None:
            os.sched_setaffinity(self.pid, chosen.cpus)

    @property
    def pid(self) -> int:
        """The process's id, which is also its session's."""
        return self._process.pid

    def ask(self, reply: type[R], seconds: float, do: str, **request: Any) -> R:
        """Send a request and wait for its reply.

        Raises:
            CandidateError: the reply is an error.
            WorkerLostError: there is no reply; the worker has been killed.
        """
        self.send(do, **request)
        return self.receive(reply, seconds)

    def ask_arrays(self, seconds: float, do: str, **request: Any) -> list[Any]:
        """Send a request and wait for the arrays of its reply; errors as with :meth:`ask`."""
        self.send(do, **request)
        with self._killed_when_lost():
            deadline = time.monotonic() + seconds
            announced = self._reply(deadline).get("arrays")
            specs: list[tuple[str, list[int]]] = _convert(announced, list[tuple[str, list[int]]])
            if sum(_nbytes(*spec) for spec in specs) > MAX_ARRAYS:
                raise WorkerLostError("its process announced arrays beyond any size")
            return [self._array(dtype, shape, deadline) for dtype, shape in specs]

    def send(self, do: str, **request: Any) -> None:
        """Send a request without waiting, for which :meth:`receive` must be called."""
        line = json.dumps({"do": do, **request}).encode() + b"\n"
        with self._killed_when_lost():
            try:
                os.write(self._requests, line)
            except OSError as error:
                raise WorkerLostError(self._end()) from error

    def receive(self, reply: type[R], seconds: float) -> R:
        """Wait for the reply to what was sent; errors as with :meth:`ask`."""
        with self._killed_when_lost():
            answer = self._reply(time.monotonic() + seconds)
            if answer.pop("arrays", None) != []:
                raise WorkerLostError("its process answered garbage")
            converted: R = _convert(answer, reply)
            return converted

    @contextlib.contextmanager
    def _killed_when_lost(self) -> Iterator[None]:
        try:
            yield
        except WorkerLostError:
            self.kill()
            raise

    def _reply(self, deadline: float) -> dict[str, Any]:
        answer = _decode(self._line(deadline))
        if "error" in answer:
            raise CandidateError(str(answer["error"]), str(answer.get("kind")))
        return answer

    def _line(self, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                raise WorkerLostError("its process answered garbage")
            self._buffer += self._chunk(deadline)
        return self._take(end + 1)

    def _array(self, dtype: str, shape: list[int], deadline: float) -> Any:
        count = _nbytes(dtype, shape)
        while len(self._buffer) < count:
            self._buffer += self._chunk(deadline)
        return np.frombuffer(self._take(count), dtype).reshape(shape)

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def _chunk(self, deadline: float) -> bytes:
        """Some bytes; waits for them in slices, since a child may hold a dead worker's pipe."""
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        asked = time.monotonic()
        while not poll.poll(1000 * min(_POLL, max(0.0, deadline - time.monotonic()))):
            if self._process.poll() is not None:
                raise WorkerLostError(self._end())
            if time.monotonic() >= deadline:
                raise WorkerHungError(f"no answer within {deadline - asked:.3g} s")
        chunk = os.read(self._replies, 1 << 20)
        if not chunk:
            raise WorkerLostError(self._end())
        return chunk

    def _end(self) -> str:
        """How the process ended."""
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "its process closed the pipe"
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def close(self) -> None:
        """End the process: at once if it waits for a request, by force after :data:`GRACE`."""
        if self._requests in self._open:
            os.close(self._requests)
            self._open.remove(self._requests)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self.kill()

    def kill(self) -> None:
        """End the process and all that it started in its session's process group."""
        if not self._open:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        while self._open:
            os.close(self._open.pop())


def _variables(changes: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with ``changes``."""
    merged = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _decode(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkerLostError("its process answered garbage") from error


def _convert(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise WorkerLostError(f"its process answered garbage: {error}") from error


def _nbytes(dtype: str, shape: Sequence[int]) -> int:
    """Size of an announced array.

    Raises:
        WorkerLostError: it cannot be one.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise WorkerLostError(f"its process announced an array of {dtype!r}") from error
    if kind.kind not in _KINDS or min(shape, default=0) < 0:
        raise WorkerLostError(f"its process announced an array of {dtype!r} and {list(shape)}")
    return kind.itemsize * math.prod(shape)
