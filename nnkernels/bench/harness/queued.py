"""What can be timed of a device that works while the host goes on: see ``nnkernels.backend.Queue``.

Three times, which are never mixed: ``call`` is on the host's clock, from one launch until its end
is seen; ``kernel`` is on the device's clock, around calls that are queued one behind the other on
data that is there; ``e2e`` is on the host's clock with the transfers of inputs and results.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .poison import legible, poison
from .workload import Runner


class Timed(NamedTuple):
    """Calls that were queued one behind the other.

    Attributes:
        seconds: a call on the device's clock.
        queued: seconds a call that the host needed to queue it.
        graph: whether a call was the launch of one graph.
    """

    seconds: float
    queued: float
    graph: bool = False


class Queued(NamedTuple):
    """What a runner on such a device offers besides, as its attribute ``queued``.

    Attributes:
        time: times so many calls, with ``cold`` each behind a flush of the device's cache.
        travelling: the same work with transfers in every call.
    """

    time: Callable[[int, bool], Timed]
    travelling: Callable[[], Runner]


def time_calls(queue: Any, call: Callable[[], object], loops: int, cold: bool) -> Timed:
    """Time ``loops`` calls."""
    if cold:
        once = [_time_batch(queue, call, 1, flush=True) for _ in range(loops)]
        seconds, queued = (float(np.mean(values)) for values in zip(*once, strict=True))
        return Timed(seconds, queued)
    return Timed(*_time_batch(queue, call, loops, flush=False))


def _time_batch(
    queue: Any, call: Callable[[], object], loops: int, *, flush: bool
) -> tuple[float, float]:
    if flush:
        queue.flush()
    first, began = queue.mark(), time.perf_counter()
    for _ in itertools.repeat(None, loops):
        call()
    queued, last = time.perf_counter() - began, queue.mark()
    return queue.between(first, last) / loops, queued / loops


class TravellingCall:
    """A call whose inputs come from pinned host memory, and whose results go back there.

    Args:
        backend: on which device.
        call: what is called.
        inputs: host arrays with the arrays of the device that they go to.
        results: arrays of the device.
    """

    checked = 1
    note: str | None = None

    def __init__(
        self,
        backend: Any,
        call: Callable[[], object],
        inputs: Sequence[tuple[Any, Any]],
        results: Sequence[Any],
    ) -> None:
        self._device, self._call = backend.device, call
        self._queue = queue = backend.device.queue
        self._inputs = [(queue.pinned(a.shape, a.dtype), a) for _, a in inputs]
        for (pinned, _), (values, _) in zip(self._inputs, inputs, strict=True):
            pinned[...] = values
        self._results = [(a, queue.pinned(a.shape, a.dtype)) for a in results]

    def reset(self) -> None:
        """Poison where the results go to."""
        for _, host in self._results:
            host[...] = poison(host.shape, host.dtype)

    def run(self, loops: int) -> None:
        """Send, call, fetch, and wait: ``loops`` times."""
        queue, synchronize = self._queue, self._device.synchronize
        for _ in itertools.repeat(None, loops):
            for host, array in self._inputs:
                queue.upload(host, array)
            self._call()
            for array, host in self._results:
                queue.download(array, host)
            synchronize()

    def outputs(self) -> list[Any]:
        """What has arrived."""
        return [legible(host.copy()) for _, host in self._results]
