"""Times under ceilings: which one bounds a call, how much of it, and what cannot be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nnkernels.bench import results
from nnkernels.bench.harness import Cost
from nnkernels.bench.roofline import REUSE, TOLERANCE, judge, judged, judged_all, merged

KB, MB = 1 << 10, 1 << 20


def compute(value, *, dtype="float32", threads=1, what="gemm_flops", device="cpu"):
    return results.Ceiling(device, dtype, threads, what, value, "FLOP/s", "best of 3, n=512")


def stream(value, nbytes, level, *, what="copy_bw", threads=1, device="cpu"):
    return results.Ceiling(
        device, None, threads, what, value, "B/s", "best of 3", level, nbytes, "read+written"
    )


CEILINGS = [
    compute(100e9),
    compute(120e9, what="fma_flops"),
    compute(50e9, dtype="float64"),
    stream(400e9, 16 * KB, "L1"),
    stream(200e9, MB, "L2"),
    stream(300e9, MB, "L2", what="read_bw"),
    stream(100e9, 16 * MB, "L3"),
    stream(20e9, 512 * MB, "memory"),
]


def test_much_arithmetic_is_bound_by_the_better_of_the_compute_ceilings() -> None:
    found = judge(Cost(1e9, 1e6, 1), 0.01, dtype="float32", ceilings=CEILINGS)
    assert found == (pytest.approx(1e9 / 0.01 / 120e9), "compute", None)


def test_the_dtype_chooses_the_ceiling() -> None:
    found = judge(Cost(1e9, 1e6, 1), 0.04, dtype="float64", ceilings=CEILINGS)
    assert found.pct_peak == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("nbytes", "level", "bandwidth"),
    [
        (100, "L1", 400e9),
        (16 * KB, "L1", 400e9),
        (MB - 1, "L1", 400e9),
        (MB, "L2", 300e9),
        (16 * MB, "L3", 100e9),
        (4096 * MB, "memory", 20e9),
    ],
)
def test_traffic_is_bound_by_the_memory_that_it_fits_in(nbytes, level, bandwidth) -> None:
    seconds = 4 * nbytes / bandwidth
    found = judge(Cost(0, nbytes, 1), seconds, dtype="float32", ceilings=CEILINGS)
    assert found == (pytest.approx(0.25), level, None)


def test_a_dip_of_a_small_working_set_is_noise() -> None:
    dip = [stream(10e9, MB, "L2"), stream(100e9, 16 * MB, "L3")]
    found = judge(Cost(0, MB, 1), 4 * MB / 100e9, dtype="float32", ceilings=dip)
    assert found == (pytest.approx(0.25), "L2", None)


def test_a_rate_beyond_the_compute_ceiling_is_impossible() -> None:
    cost = Cost(1e9, 1, 1)
    possible = judge(cost, 1e9 / (1.04 * 120e9), dtype="float32", ceilings=CEILINGS)
    assert possible.impossible is None
    found = judge(cost, 1e9 / (1.06 * 120e9), dtype="float32", ceilings=CEILINGS)
    assert found.impossible is not None
    assert "1.06 times the measured ceiling of 1.2e+11 FLOP/s (fma_flops" in found.impossible
    assert "missing sync, cached result or wrong cost model" in found.impossible


def test_a_rate_beyond_the_bandwidth_is_impossible_even_if_arithmetic_bounds_it() -> None:
    cost = Cost(1e12, 4096 * MB, 1)
    found = judge(cost, 4096 * MB / 22e9, dtype="float32", ceilings=CEILINGS)
    assert found.bound == "compute"
    assert found.impossible is not None


def test_little_arithmetic_is_counted_by_its_bytes_alone() -> None:
    slow_adds = [compute(1e9), *CEILINGS[3:]]
    found = judge(Cost(1.9 * MB, MB, 1), MB / 30e9, dtype="float32", ceilings=slow_adds)
    assert found.bound == "L2"
    found = judge(Cost(2 * MB, MB, 1), 1.0, dtype="float32", ceilings=slow_adds)
    assert found.bound == "compute"


def test_threads_measured_in_a_busy_moment_give_no_percentage_and_refuse_nothing() -> None:
    busy = [compute(100e9, threads=1), compute(20e9, threads=2)]
    cost = Cost(1e9, 1, 1)
    both = judge(cost, 1e9 / 190e9, dtype="float32", ceilings=busy, threads=2)
    assert both == (None, "compute", None)
    beyond = judge(cost, 1e9 / 220e9, dtype="float32", ceilings=busy, threads=2)
    assert beyond.impossible is not None
    alone = judge(cost, 1e9 / 190e9, dtype="float32", ceilings=busy, threads=1)
    assert alone.impossible is not None


def test_bytes_that_evidently_come_from_a_cache_are_compared_with_it() -> None:
    found = judge(Cost(0, 16 * MB, 1), 16 * MB / 150e9, dtype="float32", ceilings=CEILINGS)
    assert found == (pytest.approx(0.5), "L2", None)


def test_bytes_that_count_several_times_may_come_from_a_smaller_cache() -> None:
    """An update in place: the traffic is twice the array, which fits into the next cache."""
    cost = Cost(0, 16 * MB, 1)
    found = judge(cost, 16 * MB / 150e9, dtype="float32", ceilings=CEILINGS)
    assert found.impossible is None
    found = judge(Cost(0, REUSE * 512 * MB, 1), 0.01, dtype="float32", ceilings=CEILINGS)
    assert found.impossible is not None


def test_threads_choose_the_ceilings() -> None:
    both = [compute(100e9, threads=1), compute(90e9, threads=2), compute(300e9, threads=4)]
    peaks = {
        threads: judge(Cost(1e9, 0, 1), 1.0, dtype="float32", ceilings=both, threads=threads)
        for threads in (1, 2, 3, 4, None)
    }
    found = {threads: 1e9 / judgement.pct_peak for threads, judgement in peaks.items()}
    assert found == pytest.approx({1: 100e9, 2: 100e9, 3: 100e9, 4: 300e9, None: 300e9})
    fewer = judge(Cost(1e9, 0, 1), 1.0, dtype="float32", ceilings=both[1:], threads=1)
    assert fewer.pct_peak == pytest.approx(1 / 90)


def test_another_device_says_nothing() -> None:
    found = judge(Cost(1e9, 1e6, 1), 1e-9, dtype="float32", ceilings=CEILINGS, device="cuda:0")
    assert found == (None, None, None)
    assert judge(Cost(0, 0, 1), 1.0, dtype="float32", ceilings=CEILINGS) == (None, None, None)


def test_links_are_no_bandwidth_of_a_call() -> None:
    link = [stream(1e9, MB, None, what="h2d_pinned_bw")]
    assert judge(Cost(0, MB, 1), 1e-9, dtype="float32", ceilings=link) == (None, None, None)


@given(
    flop=st.floats(0, 1e13),
    nbytes=st.floats(1, 1e12),
    slower=st.floats(1, 1e4),
)
def test_a_call_that_takes_its_time_is_possible(flop, nbytes, slower) -> None:
    seconds = slower * max(flop / 120e9, nbytes / 20e9)
    found = judge(Cost(flop, nbytes, 1), seconds, dtype="float32", ceilings=CEILINGS)
    assert found.impossible is None
    assert 0 < found.pct_peak <= (1 + 1e-9) / slower


def test_merging_keeps_the_best_of_each() -> None:
    again = [compute(90e9), compute(130e9, what="fma_flops"), stream(450e9, 16 * KB, "L1")]
    best = {(c.what, c.dtype, c.array_bytes): c.value for c in merged(CEILINGS, again)}
    assert len(best) == len(CEILINGS)
    assert best["gemm_flops", "float32", None] == 100e9
    assert best["fma_flops", "float32", None] == 130e9
    assert best["copy_bw", None, 16 * KB] == 450e9


def row(seconds, *, kernel=None, status="ok"):
    def times(value):
        return results.Times(
            "s", [value], [0], value, 0.0, value, value, value, (value, value), False, 0
        )

    return results.Result(
        workload="matmul",
        params={},
        dtype="float32",
        backend="numpy",
        device="cpu",
        correctness=None,
        compile_s=None,
        prime_calls=None,
        loops=None,
        times=results.TimesByKind(times(seconds), kernel and times(kernel)),
        cost=results.CostRecord(1e9, 1e6, 1),
        rates=results.Rates(1e9 / seconds, 1e6 / seconds, 1 / seconds),
        memory=results.Memory(),
        energy=results.Energy(),
        status=status,
        reason=None,
    )


def test_a_row_gets_its_fraction_and_bound() -> None:
    found = judged(row(0.02), CEILINGS)
    assert found.rates.pct_peak == pytest.approx(1 / 0.02 / 120)
    assert (found.rates.bound, found.status) == ("compute", "ok")
    assert found.rates.flop_s == 1e9 / 0.02


def test_an_impossible_row_fails() -> None:
    found = judged(row(1e-4), CEILINGS)
    assert found.status == "failed"
    assert "impossible rate" in found.reason
    assert TOLERANCE == 1.05


def test_ceilings_are_measured_again_before_a_row_is_refused() -> None:
    busy = [compute(30e9), *CEILINGS[3:]]
    rows, used = judged_all([row(0.02), row(1e-4)], busy, lambda: CEILINGS)
    assert [r.status for r in rows] == ["ok", "failed"]
    assert rows[0].rates.pct_peak == pytest.approx(1 / 0.02 / 120)
    assert max(c.value for c in used if c.unit == "FLOP/s") == 120e9


def test_nothing_is_measured_again_without_need() -> None:
    def again():
        raise AssertionError

    rows, used = judged_all([row(0.02)], CEILINGS, again)
    assert (rows[0].status, used) == ("ok", CEILINGS)


def test_a_gpu_is_judged_by_its_kernel_time() -> None:
    found = judged(row(0.02, kernel=0.01), CEILINGS)
    assert math.isclose(found.rates.pct_peak, 1 / 0.01 / 120)


def test_a_kernel_longer_than_its_call_is_impossible() -> None:
    found = judged(row(0.02, kernel=0.03), CEILINGS)
    assert found.status == "failed"
    assert "the kernel took 0.03 s" in found.reason


def test_a_row_without_times_or_ceilings_stays_as_it_is() -> None:
    untimed = replace(row(1.0), times=results.TimesByKind(None), status="failed")
    assert judged(untimed, CEILINGS) is untimed
    timed = row(1.0)
    assert judged(timed, []) is timed


@pytest.mark.parametrize(
    ("backend", "bound"),
    [
        ("cupy(precision=tf32)", 0.1),
        ("numpy(precision=fp32)", 1 / 0.02 / 120),
        ("numba(precision=bf16)", None),
        ("library (2 threads)", 1 / 0.02 / 120),
    ],
)
def test_a_precision_has_ceilings_of_its_own(backend, bound) -> None:
    ceilings = [*CEILINGS[:3], compute(500e9, dtype="tf32")]
    found = judged(replace(row(0.02), backend=backend), ceilings)
    assert found.rates.pct_peak == (bound and pytest.approx(bound))
