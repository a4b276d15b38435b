"""The ceilings of a machine: what is asked, of whom, and what is kept of the answers."""

import itertools

import pytest

from nnkernels.bench import ceilings, machine, results
from nnkernels.bench.ceilings import FULL, QUICK, Effort, requests
from nnkernels.bench.machine import Cache
from nnkernels.bench.workers import CandidateError, Settings

TINY = Effort((32,), ("copy",), 1 << 20, 1, 1, 0.01)
KB, MB = 1 << 10, 1 << 20
CACHES = (Cache("L1", 32 * KB, 1), Cache("L2", MB, 1), Cache("L3", 16 * MB, 4))


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "caches", lambda: CACHES)
    monkeypatch.setattr(machine, "cores", lambda: 4)


@pytest.mark.parametrize(
    ("nbytes", "threads", "level"),
    [
        (32 * KB, 1, "L1"),
        (33 * KB, 1, "L2"),
        (128 * KB, 4, "L1"),
        (4 * MB, 4, "L2"),
        (4 * MB, 2, "L3"),
        (16 * MB, 4, "L3"),
        (17 * MB, 4, "memory"),
        (128 * KB, 64, "L1"),
        (129 * KB, 64, "L2"),
    ],
)
def test_caches_of_a_core_add_up_and_shared_ones_do_not(four_cores, nbytes, threads, level) -> None:
    assert ceilings.level_of(nbytes, threads, CACHES) == level


def test_without_known_caches_all_is_memory() -> None:
    assert ceilings.level_of(1, 1, ()) == "memory"


def test_a_full_measurement_goes_from_the_first_cache_to_beyond_the_last(four_cores) -> None:
    planned = list(requests([1, 4], ["float32", "float64"], FULL))
    copies = [r.ceiling.array_bytes for r in planned if r.kind == "copy" and r.ceiling.threads == 1]
    assert copies[0] == 16 * KB
    assert copies[-1] >= 2 * 4 * 16 * MB  # each of two arrays is four times the last cache
    assert all(b == 2 * a for a, b in itertools.pairwise(copies[:-1]))
    products = {(r.ceiling.dtype, r.ceiling.threads) for r in planned if r.kind == "gemm"}
    assert products == {(d, t) for d in ("float32", "float64") for t in (1, 4)}
    assert {r.ceiling.level for r in planned if r.ceiling.array_bytes} == {
        "L1",
        "L2",
        "L3",
        "memory",
    }
    assert len(list(requests([1], ["float32"], QUICK))) < len(planned) / 5


def test_memory_is_not_exhausted(four_cores, monkeypatch) -> None:
    small = type("Facts", (), {"mem_bytes": 64 * MB})
    monkeypatch.setattr(machine, "identity", lambda: small)
    assert max(r.arguments.get("nbytes", 0) for r in requests([1], ["float32"], FULL)) == 8 * MB


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
def test_numbers_of_threads(cores, counts) -> None:
    assert ceilings.thread_counts(cores) == counts


def test_a_worker_measures(monkeypatch) -> None:
    told = []
    found = ceilings.measure(threads=[1], effort=TINY, progress=lambda *event: told.append(event))
    planned = list(requests([1], ["float32"], TINY))
    assert [(number, total) for _, number, total in told] == [
        (number, len(planned)) for number in range(len(planned))
    ]
    by_kind = {c.what: c for c in found}
    assert set(by_kind) >= {"gemm_flops", "copy_bw"}
    gemm, copy = by_kind["gemm_flops"], by_kind["copy_bw"]
    assert (gemm.dtype, gemm.threads, gemm.unit) == ("float32", 1, "FLOP/s")
    assert (copy.unit, copy.convention) == ("B/s", ceilings.CONVENTION)
    assert copy.array_bytes == planned[-1].arguments["nbytes"]
    assert all(c.value > 0 and isinstance(c, results.Ceiling) for c in found)


def test_the_workers_settings_are_those_that_were_given() -> None:
    """Without compiled loops there are no chains, and the worker says so by leaving them out."""
    settings = Settings(environment={"NUMBA_DISABLE_JIT": "1"})
    found = ceilings.measure(threads=[1], effort=TINY, settings=settings)
    assert {c.what for c in found} == {"gemm_flops", "copy_bw"}


def test_what_a_worker_cannot_measure_is_an_error() -> None:
    with pytest.raises(CandidateError):
        ceilings.measure(threads=[1], dtypes=["float99"], effort=TINY)
