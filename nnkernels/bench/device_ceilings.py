"""The ceilings of a CUDA device and of its link to the host, measured in a worker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from nnkernels.bench import gpus
from nnkernels.bench.ceilings import PATIENCE, Progress, Request, ask, empty
from nnkernels.bench.results import Ceiling
from nnkernels.bench.workers import Greeting, Settings, Worker

KB, MB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        dtypes: of the products: dtypes, or precisions of products of float32 arrays.
        sizes: of the products.
        working_sets: bytes of the arrays that kernels move.
        transfers: bytes of the copies over the link.
        rounds: of each measurement, at least.
        sustained: seconds of each product.
        seconds: of every other measurement.
    """

    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]
    working_sets: tuple[int, ...]
    transfers: tuple[int, ...]
    rounds: int
    sustained: float
    seconds: float


QUICK = Effort(("float32",), (4096,), (16 * MB, 512 * MB), (64 * KB, 16 * MB), 5, 0.1, 0.02)
FULL = Effort(
    dtypes=("float32", "tf32", "fp16", "bf16", "float64"),
    sizes=(4096, 8192),
    working_sets=tuple(MB << bits for bits in range(0, 11, 2)),
    transfers=tuple(KB << bits for bits in range(0, 19, 2)),
    rounds=10,
    sustained=2.0,
    seconds=0.05,
)


def measure(
    backend: str,
    *,
    effort: Effort = QUICK,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[Ceiling]:
    """Measure the device of ``backend``, with the fit of its link.

    Raises:
        CandidateError: the worker was lost, or cannot use the backend, or cannot measure.
    """
    worker = Worker(settings)
    try:
        hello: dict[str, Any] = {"backend": backend, "baseline": None, "threads": None}
        device = worker.ask(Greeting, PATIENCE, "hello", **hello).device
        with gpus.Watch() as watch:
            found = [
                _told(ceiling, watch.take())
                for ceiling in ask(worker, list(requests(device, effort)), progress)
            ]
    finally:
        worker.close()
    return [*found, *fitted(found)]


def _told(ceiling: Ceiling, state: str) -> Ceiling:
    """A rate of arithmetic with the clocks that it was reached at, where they are known."""
    if ceiling.what != "gemm_flops" or not state:
        return ceiling
    return replace(ceiling, method=f"{ceiling.method}; {state}")


def requests(device: str, effort: Effort) -> Iterator[Request]:
    """What :func:`measure` asks for, in order."""
    common = {"on": device, "rounds": effort.rounds, "budget": effort.seconds}
    for dtype, size in itertools.product(effort.dtypes, effort.sizes):
        arguments = {**common, "dtype": dtype, "size": size, "budget": effort.sustained}
        record = empty("gemm_flops", "FLOP/s", device=device, dtype=dtype)
        yield Request("product", arguments, record)
    for kind, nbytes in itertools.product(("copy", "triad"), effort.working_sets):
        record = empty(f"{kind}_bw", "B/s", device=device, nbytes=nbytes)
        yield Request(kind, {**common, "nbytes": nbytes}, record)
    for direction, pinned in itertools.product(("h2d", "d2h"), (True, False)):
        what = f"{direction}_{'pinned' if pinned else 'pageable'}_bw"
        for nbytes in effort.transfers:
            arguments = {**common, "direction": direction, "pinned": pinned, "nbytes": nbytes}
            record = replace(
                empty(what, "B/s", device=device, nbytes=nbytes), convention="bytes sent"
            )
            yield Request("link", arguments, record)


def fitted(ceilings: Sequence[Ceiling]) -> list[Ceiling]:
    """Bandwidth and latency of each way over the link, where it was measured with several sizes.

    Their times are fitted by ``latency + bytes / bandwidth``, by least squares of relative errors,
    so that small copies count as much as large ones.
    """
    ways: dict[str, list[Ceiling]] = {}
    for ceiling in ceilings:
        if ceiling.what.startswith(("h2d_", "d2h_")):
            ways.setdefault(ceiling.what, []).append(ceiling)
    return [line for found in ways.values() if len(found) > 1 for line in _fit(found)]


def _fit(found: Sequence[Ceiling]) -> Iterator[Ceiling]:
    sizes = np.array([c.array_bytes for c in found], np.float64)
    seconds = sizes / np.array([c.value for c in found])
    columns = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    (latency, per_byte), *_ = np.linalg.lstsq(columns, np.ones_like(sizes), rcond=None)
    fit = replace(found[0], array_bytes=None, method=f"fit of {len(found)} sizes")
    if per_byte > 0:
        yield replace(fit, value=float(1 / per_byte))
    what = fit.what.removesuffix("_bw") + "_latency"
    yield replace(fit, what=what, value=max(float(latency), 0.0), unit="s", convention=None)
