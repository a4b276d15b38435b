"""How fast a CUDA device computes and moves memory, and how fast its link to the host is.

Kernels are timed by events around batches of calls on resident data, the link by the host's clock
around copies that have ended.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import nnkernels

from .limits import Effort, Rate

BATCH_SECONDS = 0.005
"""A batch of calls lasts about so long, or one call where that is longer."""


def product(backend: Any, dtype: str, size: int, effort: Effort) -> Rate:
    """Flops a second of a square product, sustained: the median batch of ``effort.seconds``.

    ``dtype`` is one of the arrays, or a precision in which the device multiplies float32 arrays.
    """
    kind = "float64" if dtype == "float64" else "float32"
    if not dtype.startswith("float"):
        if dtype not in backend.precisions:
            return Rate(None, f"{backend.name} does not multiply in {dtype}")
        backend = backend.configure(precision=dtype)
    rng = np.random.default_rng(size)
    a, b = (backend.asarray(rng.standard_normal((size, size)).astype(kind)) for _ in range(2))
    out = backend.device.empty((size, size), np.dtype(kind))
    seconds = _batches(backend, nnkernels.bind("matmul", a, b, out=out, backend=backend), effort)
    return Rate(2.0 * size**3 / statistics.median(seconds), f"matmul, n={size}, median")


def copy(backend: Any, nbytes: int, effort: Effort) -> Rate:
    """Bytes read and written a second by the copying kernel, with two arrays of ``nbytes``."""
    return _stream(backend, nbytes, 2, "identity", effort)


def add(backend: Any, nbytes: int, effort: Effort) -> Rate:
    """Bytes read and written a second by ``a = b + c``, with three arrays of ``nbytes``."""
    return _stream(backend, nbytes, 3, "add", effort)


def link(backend: Any, direction: str, pinned: bool, nbytes: int, effort: Effort) -> Rate:
    """Bytes a second to the device (``h2d``) or from it (``d2h``): the median copy."""
    cp = backend.device.cp
    host = _pinned(cp, nbytes) if pinned else np.empty(nbytes, np.uint8)
    host[:] = 1
    array = backend.device.empty((nbytes,), np.dtype(np.uint8))
    array.set(host)
    backend.device.synchronize()

    def send() -> None:
        array.set(host)
        backend.device.synchronize()

    work = send if direction == "h2d" else lambda: array.get(out=host)
    taken: list[float] = []
    deadline = time.perf_counter() + effort.seconds
    while len(taken) < effort.rounds and not (len(taken) >= 5 and time.perf_counter() > deadline):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return Rate(nbytes / max(statistics.median(taken), 1e-9), "median copy")


KINDS: Mapping[str, Callable[..., Rate]] = {
    "product": product,
    "copy": copy,
    "triad": add,
    "link": link,
}


def _stream(backend: Any, nbytes: int, arrays: int, operator: str, effort: Effort) -> Rate:
    length = nbytes // (4 * arrays)
    host = np.random.default_rng(1).standard_normal(length).astype(np.float32)
    inputs = [backend.asarray(host) for _ in range(arrays - 1)]
    out = backend.device.empty((length,), np.dtype(np.float32))
    call = nnkernels.bind(operator, *inputs, out=out, backend=backend)
    best = max(min(_batches(backend, call, effort)), 1e-9)
    level = "L2" if 4 * arrays * length <= _l2_bytes(backend) else "memory"
    return Rate(4.0 * arrays * length / best, f"operator {operator}", level)


def _batches(backend: Any, call: Callable[[], object], effort: Effort) -> list[float]:
    """Seconds a call on the device's own clock, one a batch."""
    call()
    backend.device.synchronize()
    once = max(_elapsed(backend.device.cp, call, 1), 1e-6)
    calls = max(1, round(BATCH_SECONDS / once))
    found: list[float] = []
    deadline = time.perf_counter() + effort.seconds
    while len(found) < effort.rounds or time.perf_counter() < deadline:
        found.append(_elapsed(backend.device.cp, call, calls) / calls)
    return found


def _elapsed(cp: Any, call: Callable[[], object], calls: int) -> float:
    """Seconds between events around ``calls`` on the current stream."""
    start, stop = cp.cuda.Event(), cp.cuda.Event()
    start.record()
    for _ in range(calls):
        call()
    stop.record()
    stop.synchronize()
    return float(cp.cuda.get_elapsed_time(start, stop)) / 1e3


def _pinned(cp: Any, nbytes: int) -> Any:
    return np.frombuffer(cp.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)


def _l2_bytes(backend: Any) -> int:
    """Of the device's last-level cache; 0 where CUDA does not tell it."""
    runtime = backend.device.cp.cuda.runtime
    properties = runtime.getDeviceProperties(backend.device.gpu.index)
    return int(properties.get("l2CacheSize", 0))
