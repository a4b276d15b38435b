"""The process of one candidate: ``python worker.py REQUESTS REPLIES LIFE SYS_PATH WORKLOADS``.

The arguments, requests and replies are those of nnkernels' own workers
(``nnkernels/bench/harness``). No library of a candidate is imported before a request asks for it.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Serve until the pipe of requests ends."""
    *pipes, path, _ = sys.argv[1:]
    sys.path[:] = json.loads(path)
    harness = importlib.import_module("nnkernels.bench.harness.worker")
    harness.run(*map(int, pipes), make=Server)


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
