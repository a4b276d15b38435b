"""Matrix products: what a forced OpenBLAS kernel costs, and what more threads bring."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence

from nnkernels.bench import ceilings, machine
from nnkernels.bench.ceilings import PATIENCE, Found
from nnkernels.bench.doctor.finding import Finding, judged
from nnkernels.bench.text import counted, listed, quantity
from nnkernels.bench.workers import Greeting, Settings, Worker

FORCING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that override what OpenBLAS finds out about the CPU."""

SIZE = 768
ROUNDS = 9
WORTH = 1.05
"""A factor that counts."""

SCALING = 0.5
"""Of the gain that each further thread could bring, the part that it must."""


def named() -> Finding:
    """Whether a kernel is forced, without measuring what that costs."""
    present = _present()
    if not present:
        return _chosen()
    return Finding(
        "BLAS kernel",
        "warn",
        f"{_assigned(present)}: the kernel is forced",
        f"unset {' '.join(present)}; 'nnkernels doctor' without --quick measures what it costs",
    )


def _present() -> list[str]:
    return [name for name in FORCING if os.environ.get(name)]


def _assigned(present: Sequence[str]) -> str:
    return listed([f"{name}={os.environ.get(name, '')}" for name in present])


def _chosen() -> Finding:
    blas = machine.identity().blas
    kernel = blas.kernel if blas else None
    return Finding("BLAS kernel", "ok", f"{kernel or 'unknown'}, chosen by the library itself")


def forced() -> Finding:
    """Products with and without the variables that force a kernel, one thread, in turns."""
    present = _present()
    if not present:
        return _chosen()
    free = Settings(environment=dict.fromkeys(present))
    with _workers(Settings(), free) as (with_it, without):
        names = [_kernel(worker) for worker in (with_it, without)]
        pairs = [(_rate(with_it, 1), _rate(without, 1)) for _ in range(ROUNDS)]
    return judge_forced(present, names, pairs)


def judge_forced(
    present: Sequence[str], kernels: Sequence[str], pairs: Sequence[tuple[float, float]]
) -> Finding:
    """``kernels`` and ``pairs`` of rates: with the variables, and without."""
    factor = statistics.median(free / forced for forced, free in pairs)
    best = [max(rates) for rates in zip(*pairs, strict=True)]
    told = [quantity(rate, "FLOP/s") for rate in best]
    return judged(
        "BLAS kernel",
        bad=factor > WORTH,
        text=f"{_assigned(present)}: {kernels[0]} with, {kernels[1]} without; {told[0]} with, "
        f"{told[1]} without ({factor:.2f} times, sgemm, 1 thread)",
        remedy=f"unset {' '.join(present)}: products are slower than this CPU computes them",
        figures={"forced_flop_s": best[0], "free_flop_s": best[1], "factor": factor},
    )


def scaling() -> Finding:
    """Products with 1 to all threads, in turns."""
    counts = ceilings.thread_counts(machine.cores())
    with _workers(Settings()) as (worker,):
        rounds = [{count: _rate(worker, count) for count in counts} for _ in range(ROUNDS)]
    return judge_scaling({count: max(found[count] for found in rounds) for count in counts})


def judge_scaling(rates: Mapping[int, float]) -> Finding:
    """``rates``: the best by number of threads."""
    most = max(rates)
    gain = rates[most] / rates[1]
    told = listed([f"{counted(n, 'thread')} {quantity(r, 'FLOP/s')}" for n, r in rates.items()])
    return judged(
        "threads",
        bad=gain < 1 + SCALING * (most - 1),
        text=told if most == 1 else f"{told}: {gain:.2f} times (sgemm)",
        remedy=f"{most} threads do not have {most} CPUs, which are busy or shared: --threads 1 is "
        "steadier, and a comparison must say the number",
        figures={"gain": gain, **{f"flop_s_{count}": rate for count, rate in rates.items()}},
    )


@contextlib.contextmanager
def _workers(*settings: Settings) -> Iterator[list[Worker]]:
    with contextlib.ExitStack() as stack:
        workers = []
        for one in settings:
            worker = Worker(one)
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def _kernel(worker: Worker) -> str:
    hello = {"backend": None, "baseline": None, "threads": 1}
    identity = worker.ask(Greeting, PATIENCE, "hello", **hello).identity
    return (identity.get("blas") or "unknown").rpartition(" ")[2]


def _rate(worker: Worker, threads: int) -> float:
    limits = {"rounds": 2, "budget": 1.0}
    found = worker.ask(
        Found,
        PATIENCE,
        "limit",
        kind="gemm",
        dtype="float32",
        size=SIZE,
        threads=threads,
        **limits,
    )
    return found.value or 0.0
