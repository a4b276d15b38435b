"""A process that runs one candidate: it answers requests until the pipe that brings them ends.

A request is a line of JSON, ``{"do": "sample", ...}``; so is the reply, which the raw bytes of the
arrays follow that it announces. What a kernel prints to standard output goes to standard error.

A request may name a ``slot``: slots are candidates of their own, each at a workload of its own, so
that one process can hold many workloads ready.

The process computes no float64 reference: freeing such arrays makes the C library's allocator keep
more memory, after which code that allocates in every step is up to a sixth faster than it is alone
(the textbook's W2). It sends its outputs to the parent, which compares them.
"""

from __future__ import annotations

import collections
import dataclasses
import fcntl
import functools
import importlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

import nnkernels

from . import device_limits, limits
from .eviction import Eviction
from .registry import add, cases
from .sweeps import sweep
from .timing import Track, elapsed, held_to, prime, settle, take, take_cold
from .workload import GATE, Case, Problem

Reply = tuple[dict[str, Any], Sequence[Any]]
"""What is sent: names with values, and arrays."""

TIMES = ["call", "kernel", "e2e"]
"""What can be sampled on a device with a queue."""

MOST_QUEUED = 512
"""Calls that are queued at once: more might have to wait for room in the queue."""

walk = functools.lru_cache(maxsize=1)(Eviction)


class Answering(Protocol):
    """What answers requests."""

    def answer(self, request: dict[str, Any]) -> Reply:
        """The reply to one request; raises what is to be told as an error."""


def run(
    requests: int,
    replies: int,
    life: int,
    workloads: Sequence[str] = (),
    make: Callable[[], Answering] | None = None,
) -> None:
    """Serve on inherited pipe ends.

    Args:
        requests, replies, life: the pipes.
        workloads: files of users.
        make: what answers the requests of a slot; None: a :class:`Server`.
    """
    for end in (requests, replies, life):
        os.set_inheritable(end, False)
    _die_with_parent(life)
    os.dup2(2, 1)
    with open(requests, "rb") as lines, open(replies, "wb") as answers:
        serve(lines, answers, workloads, make)


def _die_with_parent(life: int) -> None:
    """Let the kernel end this process, whatever it is doing, when the other end of ``life`` closes.

    The signal that tells of a change on the pipe, to which nothing is ever written, ends a process
    that has no handler for it. A thread that waits would not do: a kernel may hold the GIL.
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def serve(
    requests: Iterable[bytes],
    replies: BinaryIO,
    workloads: Sequence[str] = (),
    make: Callable[[], Answering] | None = None,
) -> None:
    """Answer every request; an error is an answer too."""
    slots: dict[str, Answering] = collections.defaultdict(make or Server)
    refusal = _refusal(workloads)
    for line in requests:
        reply, arrays = refusal or _answered(slots, line)
        send(replies, reply, arrays)


def _refusal(workloads: Sequence[str]) -> Reply | None:
    """The answer to everything where a file of workloads cannot be added."""
    try:
        for path in workloads:
            add(path)
    except (Exception, SystemExit) as error:
        return _failure(error)
    return None


def _answered(slots: Mapping[str, Answering], line: bytes) -> Reply:
    try:
        request = json.loads(line)
        return slots[request.pop("slot", "")].answer(request)
    except (Exception, SystemExit) as error:  # a kernel is foreign code
        return _failure(error)


def _failure(error: BaseException) -> Reply:
    return {"error": str(error), "kind": type(error).__name__}, ()


def send(stream: BinaryIO, reply: dict[str, Any], arrays: Sequence[Any]) -> None:
    """Write a reply and the bytes of its arrays."""
    announced = [[a.dtype.str, list(a.shape)] for a in arrays]
    stream.write(json.dumps({**reply, "arrays": announced}).encode() + b"\n")
    for array in arrays:
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def identify() -> dict[str, Any]:
    """What must be the same in two processes whose times are compared."""
    return {
        "file": nnkernels.__file__,
        "version": nnkernels.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": _blas(),
        "numba": _installed("numba"),
        "cupy": _installed("cupy"),
    }


@functools.cache
def _installed(name: str) -> str | None:
    """Version of a distribution, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _blas() -> str | None:
    """The BLAS library that came with NumPy, and the kernel it chose."""
    from threadpoolctl import threadpool_info

    folder = str(Path(np.__file__).parent)
    for pool in threadpool_info():
        if pool["user_api"] == "blas" and pool["filepath"].startswith(folder):
            return f"{pool['internal_api']} {pool['version']} {pool.get('architecture')}"
    return None


@functools.lru_cache(maxsize=1)
def _known(preset: Any) -> dict[str, Case]:
    return {case.id: case for case in cases(preset)}


@functools.lru_cache(maxsize=1)
def _problem(preset: Any, case: str) -> Problem:
    """The inputs that were drawn last; the next slot often asks for the same ones."""
    return _known(preset)[case].make()


def _declared(preset: Any) -> list[str] | None:
    """What the nnkernels that is driven tags ``gate`` itself; None: it has no such list."""
    try:
        own = importlib.import_module("nnkernels.bench.harness")
        return sorted({case.workload for case in own.cases(preset) if GATE in case.tags})
    except (ImportError, AttributeError, TypeError):
        return None


def _limited(backend: Any, threads: int | None) -> Any:
    """``backend`` with so many threads, to which samples hold the BLAS libraries from outside.

    A backend that sees to them itself takes some 25 us for that in every call.
    """
    return dataclasses.replace(backend.configure(threads=threads), limit=None)


class Server:
    """The candidate, and the workload it is at."""

    def __init__(self) -> None:
        self._backend: Any = None
        self._baseline: str | None = None
        self._threads: int | None = None
        self._hold = True
        self._tracks: dict[str, Track] = {}

    def answer(self, request: dict[str, Any]) -> Reply:
        """Do what is asked.

        Raises:
            ValueError: there is no such request.
        """
        known: dict[str, Callable[..., Reply]] = {
            "hello": self._hello,
            "workloads": self._workloads,
            "load": self._load,
            "load_at": self._load_at,
            "check": self._check,
            "prime": self._prime,
            "sample": self._sample,
            "forget": self._forget,
            "limit": self._limit,
        }
        name = request.pop("do", None)
        if name not in known:
            raise ValueError(f"unknown request {name!r}")
        return known[name](**request)

    def _hello(
        self, backend: str | None, baseline: str | None, threads: int | None, hold: bool = True
    ) -> Reply:
        """Become a candidate: a backend, which may say its number of threads, or a baseline.

        Without ``hold`` the environment and the CPUs of the process see to ``threads``.
        """
        self._baseline, self._threads, self._hold = baseline, threads, hold
        if backend is not None:
            found = nnkernels.get_backend(backend)
            own = not hold or None in (threads, found.limit) or found.threads is not None
            self._backend = found if own else _limited(found, threads)
            self._threads = self._backend.threads if hold else threads
        device = "cpu" if self._backend is None else self._backend.device.name
        return {
            "identity": identify(),
            "device": device,
            "threads": self._threads,
            "adjustable": self._backend is None or self._backend.limit is not None,
        }, ()

    def _workloads(self, preset: Any) -> Reply:
        """What can be loaded, and :func:`_declared`."""
        told = ("workload", "size", "dtype", "tags")
        known = [{name: getattr(case, name) for name in told} for case in _known(preset).values()]
        return {"known": known, "declared": _declared(preset)}, ()

    def _load(self, preset: Any, case: str) -> Reply:
        """Get ready to run a workload at a size of ``preset``."""
        return self._begin(_problem(preset, case))

    def _load_at(self, sweep_id: str, size: int) -> Reply:
        """Get ready to run a workload at any size."""
        return self._begin(sweep(sweep_id).at(size).make())

    def _begin(self, problem: Problem) -> Reply:
        """Bind a workload; what was loaded before goes first."""
        self._tracks.clear()
        if self._backend is not None:
            runner = problem.runner(self._backend)
        else:
            runner = problem.baseline(str(self._baseline))
        self._tracks["call"] = Track(runner, self._held)
        queued = getattr(runner, "queued", None)
        return {"note": runner.note, "kinds": ["call"] if queued is None else TIMES}, ()

    @property
    def _held(self) -> int | None:
        """Threads that the BLAS libraries are held to while something is timed."""
        return self._threads if self._hold else None

    def _track(self, kind: str) -> Track:
        """The runner of a kind of time; the one with transfers is made when it is first needed."""
        if not self._tracks:
            raise ValueError("no workload is loaded")
        if kind == "e2e" and kind not in self._tracks:
            runner: Any = self._tracks["call"].runner
            self._tracks[kind] = Track(runner.queued.travelling(), self._held)
        return self._tracks["e2e" if kind == "e2e" else "call"]

    def _check(self, kind: str = "call") -> Reply:
        """Run the checked calls from the start; the outputs are the reply's arrays."""
        track = self._track(kind)
        runner = track.runner
        runner.reset()
        with held_to(track.threads):
            first = elapsed(runner, 1)
            runner.run(runner.checked - 1)
        if track.first is None:
            track.first, track.prime_calls = first, runner.checked
        return {}, runner.outputs()

    def _prime(self, limit: float, kind: str = "call") -> Reply:
        """Prime, from the start, and estimate the loops of a sample."""
        track = self._track(kind)
        track.runner.reset()
        if track.first is None:
            track.first, track.prime_calls = elapsed(track.runner, 1), 1
        prime(track, track.first, limit)
        settle(self._threads)
        return {
            "loops": track.loops,
            "calls": track.prime_calls,
            "compile_s": track.compile_s,
            "seconds": track.seconds,
        }, ()

    def _sample(self, loops: int, inject: float = 0.0, kind: str = "call", cold: int = 0) -> Reply:
        """Take one sample of ``loops`` calls; reply when no thread of this process works.

        With ``inject`` the sample is that of code slower by this fraction: as many more calls are
        made, to the nearest whole one, so that it is as long and as noisy. With ``cold`` so many
        bytes are walked over before every call, or the device's cache is flushed.
        """
        track, made = self._track(kind), round(loops * (1 + inject))
        if kind == "kernel":
            return self._sample_kernel(track, min(made, MOST_QUEUED), 1 + inject, bool(cold)), ()
        if cold:
            seconds, contended = take_cold(track, made, self._eviction(cold))
        else:
            seconds, contended = take(track, made)
        seconds *= 1 + inject
        settle(self._threads)
        return {"seconds": seconds, "contended": contended}, ()

    def _sample_kernel(self, track: Track, loops: int, slower: float, cold: bool) -> dict[str, Any]:
        runner: Any = track.runner
        timed = runner.queued.time(loops, cold)
        return {
            "seconds": timed.seconds * slower,
            "contended": False,
            "queued": timed.queued * slower,
            "graph": timed.graph,
        }

    def _eviction(self, nbytes: int) -> Callable[[], None]:
        """What empties the caches of the device that this candidate runs on."""
        device = None if self._backend is None else self._backend.device
        queue = getattr(device, "queue", None)
        if device is None or queue is None:
            return walk(nbytes)

        def flush() -> None:
            queue.flush()
            device.synchronize()

        return flush

    def _forget(self) -> Reply:
        """Free what is loaded."""
        self._tracks.clear()
        _problem.cache_clear()
        return {}, ()

    def _limit(
        self, kind: str, rounds: int, budget: float, on: str = "cpu", **request: Any
    ) -> Reply:
        """Measure a rate that no workload of this process, or of its device, can exceed."""
        kinds = limits.KINDS if on == "cpu" else device_limits.KINDS
        if kind not in kinds:
            raise ValueError(f"unknown limit {kind!r} of {on}")
        subject = () if on == "cpu" else (self._backend,)
        found = kinds[kind](*subject, **request, effort=limits.Effort(rounds, budget))
        settle(request.get("threads", 1))
        return {"value": found.value, "method": found.method, "level": found.level}, ()
