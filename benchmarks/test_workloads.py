"""Every workload on every available backend: correct and primed first, then timed."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from nnkernels import get_backend
from nnkernels.bench.harness import Case, Track, elapsed, prime


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
    )
