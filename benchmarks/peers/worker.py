"""The process of one candidate: ``python -m benchmarks.peers.worker REQUESTS REPLIES LIFE CPUS``.

The first three arguments are the numbers of inherited pipe ends. CPUS are the numbers of the CPUs
it may use, joined by commas, or ``all``; the choice is made before any library counts them.
Requests and replies are those of ``nnkernels.bench.workers``.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

CPUS = "all"


def main() -> None:
    """Serve until the pipe of requests ends."""
    *ends, cpus = sys.argv[1:]
    requests, replies, life = map(int, ends)
    if cpus != CPUS:
        os.sched_setaffinity(0, {int(number) for number in cpus.split(",")})
    for end in (requests, replies, life):
        os.set_inheritable(end, False)
    _die_with_parent(life)
    os.dup2(2, 1)
    with os.fdopen(requests, "rb") as lines, os.fdopen(replies, "wb") as answers:
        _serve(lines, answers)


def _die_with_parent(life: int) -> None:
    """Have the kernel end this process, busy or hung, when the other end of ``life`` closes."""
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _serve(requests: Any, replies: Any) -> None:
    from nnkernels.bench.harness.worker import send

    server = Server()
    for line in requests:
        try:
            reply, arrays = server.answer(json.loads(line))
        except (Exception, SystemExit) as error:  # a candidate is foreign code
            reply, arrays = {"error": str(error), "kind": type(error).__name__}, []
        send(replies, reply, arrays)


class Server:
    """Holds the candidate and does what the parent asks of it."""

    def __init__(self) -> None:
        self._runner: Any = None
        self._threads = 1

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """The reply to one request, and its arrays."""
        known: dict[str, Callable[..., Any]] = {
            "load": self._load,
            "run": self._run,
            "outputs": lambda: ({}, self._runner.outputs()),
            "reset": lambda: ({}, self._runner.reset() or []),
            "rate": lambda rate: ({}, self._runner.set_rate(rate) or []),
        }
        answered: tuple[dict[str, Any], list[Any]] = known[request.pop("do")](**request)
        return answered

    def _load(
        self, problem: list[Any], target: str, options: dict[str, Any], threads: int
    ) -> tuple[dict[str, Any], list[Any]]:
        """Draw the problem (``[function, arguments]``) and build the candidate, which is timed."""
        function, arguments = problem
        drawn = _locate(function)(**arguments)
        make = _locate(target)
        self._threads = threads
        start = time.perf_counter()
        self._runner = make(drawn, threads, **options)
        return {"seconds": time.perf_counter() - start}, []

    def _run(self, steps: int) -> tuple[dict[str, Any], list[Any]]:
        """Time ``steps`` steps; reply when no thread of this process spins any more."""
        from nnkernels.bench.harness.timing import settle

        gc.disable()
        start = time.perf_counter()
        self._runner.run(steps)
        seconds = time.perf_counter() - start
        gc.enable()
        settle(self._threads)
        return {"seconds": seconds}, []


def _locate(name: str) -> Any:
    """The attribute written as ``module:attribute``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    main()
