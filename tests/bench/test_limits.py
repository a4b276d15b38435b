"""What a worker is asked for to know its ceilings: the loops, and what is done with their times."""

import threading

import numpy as np
import pytest

from nnkernels.bench.harness import limits, loops
from nnkernels.bench.harness.limits import KINDS, Effort

TINY = Effort(2, 0.01)
needs_numba = pytest.mark.skipif(not loops.available(), reason="Numba compiles nothing here")


@needs_numba
def test_the_loops_do_what_they_say() -> None:
    a, b, c = (np.arange(1.0, 1001.0, dtype=np.float32) * k for k in (1, 2, 3))
    assert loops.reading()(a, 3) == pytest.approx(3 * 500_500, rel=1e-5)
    loops.copying()(a, b, 2)
    assert np.array_equal(a, b)
    loops.triad()(a, b, c, 3)
    assert np.array_equal(a, b + 2 * c)


@needs_numba
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_chains_multiply_and_add(dtype) -> None:
    loop, flops = loops.multiplying(dtype)
    starts = [1.0 + chain for chain in range(loops.CHAINS)]
    for _ in range(4):
        starts = [x * 0.5 + 0.5 for x in starts]
    kind = np.dtype(dtype).type
    assert loop(kind(1), kind(0.5), 4) == pytest.approx(sum(starts))
    assert flops % (2 * loops.CHAINS) == 0


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["read", "copy", "triad"])
def test_memory_moves_with_and_without_numba(monkeypatch, kind, threads, jit) -> None:
    if not jit:
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    found = KINDS[kind](nbytes=1 << 16, threads=threads, effort=TINY)
    assert 0 < found.value < 1e15
    assert ("compiled" in found.method) == (jit and loops.available())


def test_arithmetic_has_a_rate(monkeypatch) -> None:
    assert limits.gemm("float64", 64, 1, TINY).value > 0
    assert limits.gemm("float64", 64, None, TINY).method == "np.matmul, n=64"
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert limits.fma("float32", 1, TINY).value is None


@needs_numba
def test_chains_run_in_several_threads() -> None:
    assert limits.fma("float32", 2, TINY).value > 0


class Clock:
    """A clock that each thread's work moves on by one second a repeat."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_the_best_round_counts(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    monkeypatch.setattr(limits, "ROUND_SECONDS", 4.0)
    slowness = iter([*[1.0] * 7, 3.0, 2.0, 1.0, 5.0])

    def work(repeats: int) -> None:
        clock.now += repeats * next(slowness)

    found = limits._rate(lambda: work, 10.0, 1, Effort(4, 1e9))
    assert found == pytest.approx(10.0)  # a repeat took 1 s in the third round of four


def test_rounds_end_with_the_time(monkeypatch) -> None:
    clock, calls = Clock(), []
    monkeypatch.setattr(limits, "time", clock)
    monkeypatch.setattr(limits, "ROUND_SECONDS", 1.0)

    def work(repeats: int) -> None:
        clock.now += repeats
        calls.append(repeats)

    limits._rate(lambda: work, 1.0, 1, Effort(100, 2.5))
    assert len(calls) == 1 + 6 + 3  # a first one, the choice of the repeats, three rounds


def test_a_thread_that_fails_does_not_leave_the_others_waiting() -> None:
    first = threading.Event()

    def prepared():
        if first.is_set():
            raise ValueError("no room")
        first.set()
        return lambda repeats: None

    with pytest.raises((ValueError, threading.BrokenBarrierError)):
        limits._rate(prepared, 1.0, 2, TINY)
