"""Every workload on every available backend: correct and primed first, then timed."""

from __future__ import annotations

from statistics import median
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from nnkernels import get_backend
from nnkernels.bench import machine
from nnkernels.bench.harness import Case, Track, elapsed, prime
from nnkernels.bench.harness.timing import take


def test_workload(benchmark: BenchmarkFixture, case: Case, candidate: str) -> None:
    problem = case.make()
    if candidate in case.baselines:
        runner = problem.baseline(candidate)
    else:
        runner = problem.runner(get_backend(candidate))
    track = Track(runner)
    runner.reset()
    first = elapsed(runner, 1)
    runner.run(runner.checked - 1)
    agreement = problem.agreement(runner.outputs())
    assert agreement.ok, agreement.reason

    benchmark.group = case.id
    runner.reset()
    if benchmark.disabled:
        benchmark(runner.run, 1)
        return
    prime(track, first, limit=0.5)
    benchmark.pedantic(runner.run, args=(1,), rounds=20, iterations=track.loops)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        flop=case.cost.flop,
        bytes=case.cost.bytes,
        items=case.cost.items,
        flop_s=case.cost.flop / seconds,
        byte_s=case.cost.bytes / seconds,
        item_s=case.cost.items / seconds,
        max_rel_err=agreement.error,
        compile_s=track.compile_s,
        fingerprint=machine.fingerprint(machine.identity()),
        **_device_times(runner, track.loops),
    )


def _device_times(runner: Any, loops: int) -> dict[str, float]:
    """Seconds of a call by the device's clock, and with its transfers; nothing on a CPU."""
    queued = getattr(runner, "queued", None)
    if queued is None:
        return {}
    travelling = Track(queued.travelling())
    prime(travelling, elapsed(travelling.runner, 1), limit=0.5)
    samples = [take(travelling, travelling.loops)[0] for _ in range(5)]
    return {"kernel_s": queued.time(min(loops, 512), False).seconds, "e2e_s": median(samples)}
