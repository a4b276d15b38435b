"""Runs of every kind, made up: what other tests read, compare, export and report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from nnkernels.bench import machine, results, statistics

KINDS = ("bench", "ab", "crossover", "roofline", "calibrate", "peers", "compare")

CODE = results.Code("0.1.0", "4f1c2ab0" * 5, False, "…/nnkernels")
IDENTITY = results.Identity(
    cpu="Example 9000 <fast & cheap>",
    arch="x86_64",
    cores_usable=2,
    isa=["AVX2", "AVX512F"],
    l3_bytes=32 << 20,
    mem_bytes=24 << 30,
    blas=results.Blas("openblas", "0.3.31", "Haswell", 2, "pthreads"),
    python="3.11.7",
    numpy="2.4.6",
    numba="0.68.1",
    cupy=None,
    os="Linux 6.1",
    virt="vm",
)
SETTINGS = results.Settings(2, [0, 1], "warm", "off", 0.008, 0.95, 50.0)


def machine_of(identity: results.Identity = IDENTITY, **env: str) -> results.Machine:
    volatile = results.Volatile([1.4, 1.9, 1.2], [1.6, 1.8, 1.2], [2500.0], None, 0.5)
    return results.Machine(machine.fingerprint(identity), identity, volatile, env)


def run(kind: Any = "bench", **fields: Any) -> results.Run:
    """A run with nothing in it but ``fields``."""
    made = results.Run(
        schema="nnkernels.bench/1",
        kind=kind,
        id=results.new_id(),
        created="2026-11-22T00:10:05Z",
        argv=[kind],
        seed=0,
        duration_s=41.5,
        complete=True,
        code=CODE,
        machine=machine_of(OPENBLAS_CORETYPE="Haswell"),
        settings=SETTINGS,
        results=[],
    )
    return replace(made, **fields)


def times(
    median: float, spread: float = 0.01, processes: int = 1, samples: int = 20, seed: int = 0
) -> results.Times:
    """``samples`` of each of ``processes``, whose own medians differ by ``spread``."""
    rng = np.random.default_rng(seed)
    own = median * np.exp(spread * np.linspace(-1, 1, processes) * (processes > 1))
    drawn = own[:, None] * np.exp(spread / 2 * rng.standard_normal((processes, samples)))
    made = statistics.summarise(drawn.ravel().tolist(), contended=2)
    return replace(made, process=np.repeat(np.arange(processes), samples).tolist())


def result(
    workload: str = "matmul",
    size: str = "1024x1024x1024",
    backend: str = "numpy",
    median: float | results.Times | None = 0.0102,
    **fields: Any,
) -> results.Result:
    """A timed row; ``median`` None: one without times."""
    call = times(median) if isinstance(median, float) else median
    cost = fields.pop("cost", results.CostRecord(2.0 * 1024**3, 12.0 * 1024**2, 1024))
    rates = results.Rates(None, None, None)
    if call is not None:
        second = 1 / call.median
        rates = results.Rates(cost.flop * second, cost.bytes * second, cost.items * second)
    made = results.Result(
        workload=workload,
        params={"m": 1024, "n": 1024, "k": 1024},
        dtype="float32",
        backend=backend,
        device="cpu" if call else None,
        correctness=results.Correctness(True, 3.1e-6, 2e-5) if call else None,
        compile_s=0.0 if call else None,
        prime_calls=3 if call else None,
        loops=1 if call else None,
        times=results.TimesByKind(call),
        cost=cost,
        rates=rates,
        memory=results.Memory(),
        energy=results.Energy(),
        status="ok",
        reason=None,
        size=size,
    )
    return replace(made, **fields)


def bench(**fields: Any) -> results.Run:
    """Timed, incorrect, failed and skipped rows; a GPU's three times."""
    rows = [
        result(),
        result(backend="numba", median=0.0614, threads=1),
        result(
            backend="cupy",
            device="gpu",
            median=None,
            times=results.TimesByKind(
                times(7.1e-5), times(5.2e-5), times(1.31e-3), times(5.1e-5), graph=True
            ),
            rates=results.Rates(None, None, None, None, "launches"),
        ),
        result("W1", "784-64-32-10-b32", median=2.9e-4),
        result("W1", "784-64-32-10-b32", "numba", 1.3e-4),
        result("W1", "784-64-32-10-b32", "textbook", 4.4e-4),
        result("relu", "200000", median=7.1e-5),
        result("relu", "200000", "numba", 7.11e-5),
        result(
            "relu",
            "200000",
            "numpy[relu=mine:<b>]",
            None,
            status="incorrect",
            reason="result 0[0, 7] is 1.5 instead of 1",
        ),
        result("tanh", "200000", median=9.1e-4),
        result(
            "tanh",
            "200000",
            "numba",
            None,
            status="failed",
            reason="RuntimeError: lost",
        ),
        *(
            result(w, s, "native", None, status="skipped", reason="not built")
            for w, s in (("matmul", "1024x1024x1024"), ("relu", "200000"))
        ),
    ]
    warnings = ["The second CPU is busy."]
    return run("bench", results=rows, **{"warnings": warnings, **fields})


def side(label: str) -> results.Side:
    return results.Side(label, CODE, {"python": "3.11.7", "numpy": "2.4.6", "cupy": None})


def comparison(
    workload: str = "relu", ratio: float = 1.001, verdict: Any = "same", **fields: Any
) -> results.Comparison:
    made = results.Comparison(
        workload=workload,
        size="200000",
        dtype="float32",
        backend="numba",
        a="9be01c7",
        b="4f1c2ab",
        status="ok",
        reason=None,
        a_s=7.15e-5,
        b_s=7.15e-5 * ratio,
        ratio=ratio,
        ci_low=ratio - 0.012,
        ci_high=ratio + 0.012,
        restarts=[math.log(ratio) + d for d in (-0.004, 0.003, 0.0, 0.001)],
        pairs=96,
        contended=3,
        stage="screen",
        p=0.4,
        p_holm=None,
        margin=0.03,
        verdict=verdict,
        min_detectable=0.041,
        more_restarts=None,
    )
    return replace(made, **fields)


def nothing_compared(workload: str, status: Any, reason: str) -> results.Comparison:
    none: Any = dict.fromkeys(("a_s", "b_s", "ratio", "ci_low", "ci_high", "p", "min_detectable"))
    empty = replace(comparison(workload, verdict=None), restarts=[], pairs=0, **none)
    return replace(empty, status=status, reason=reason)


def ab(**fields: Any) -> results.Run:
    """All verdicts, and rows that could not be compared."""
    rows = [
        comparison(),
        comparison("matmul", 0.996, backend="numpy", size="192x192x192"),
        comparison("softmax", 1.121, "slower", stage="confirm", p=4e-4, p_holm=4e-4),
        comparison("tanh", 0.81, "faster", stage="confirm", p=1e-4, p_holm=2e-4),
        comparison("W1", 1.024, "unsure", more_restarts=20),
        nothing_compared("fused", "new", "9be01c7 has no such workload"),
        nothing_compared("old", "gone", "4f1c2ab has no such workload"),
        nothing_compared("adam", "failed", "its process ended with exit code 7"),
        nothing_compared("dropout", "incorrect", "result 0[3] is 0.5 instead of 1"),
    ]
    return run("ab", sides=[side("9be01c7"), side("4f1c2ab")], comparisons=rows, **fields)


def compare(**fields: Any) -> results.Run:
    """Two saved files."""
    unpaired: Any = {"stage": "unpaired", "restarts": [], "pairs": 0, "min_detectable": None}
    rows = [
        comparison("relu", 1.3, "slower", margin=0.1, **unpaired),
        comparison("tanh", 1.05, "unsure", margin=0.1, **unpaired),
    ]
    return run("compare", sides=[side("old.json"), side("new.json")], comparisons=rows, **fields)


def points(a: float, b: Sequence[float]) -> list[results.CrossoverPoint]:
    """Candidate a takes ``a * n`` seconds, b ``b[0] + b[1] * n``."""
    found = []
    for size in (2**k for k in range(4, 12)):
        a_s, b_s = a * size, b[0] + b[1] * size
        ratio = b_s / a_s
        ci = (0.95 * ratio, 1.05 * ratio)
        found.append(results.CrossoverPoint(size, size * size, a_s, b_s, ratio, ci))
    return found


def crossover(**fields: Any) -> results.Run:
    """All verdicts."""
    one = results.Crossover(
        workload="matmul",
        dtype="float32",
        a="numpy",
        b="cupy",
        sweep="n",
        scenario="resident",
        points=points(1e-6, (1e-4, 1e-7)),
        verdict="found",
        size=111.0,
        interval=(101.0, 122.0),
        reason=None,
    )
    none = {"size": None, "interval": None}
    moved = replace(one, scenario="transfers", points=points(1e-6, (3e-4, 3e-7)))
    rows = [
        one,
        replace(moved, size=428.0, interval=(391.0, 470.0)),
        replace(one, workload="relu", verdict="never", points=points(1e-7, (1e-4, 2e-7)), **none),
        replace(one, workload="tanh", verdict="always", points=points(1e-6, (0, 4e-7)), **none),
        replace(one, workload="add", verdict="unclear", reason="the machine was too noisy", **none),
        replace(one, workload="mul", verdict="unclear", reason="cupy failed", points=[], **none),
    ]
    return run("crossover", crossovers=rows, **fields)


def ceiling(what: str, value: float, **fields: Any) -> results.Ceiling:
    unit: Any = fields.pop("unit", "FLOP/s" if what.endswith("flops") else "B/s")
    made = results.Ceiling(
        "cpu", "float32" if unit == "FLOP/s" else None, 2, what, value, unit, "best of 10"
    )
    return replace(made, **fields)


def roofline(**fields: Any) -> results.Run:
    """Ceilings of the processor and the memories, and rows under them."""
    limits = [
        ceiling("gemm_flops", 2.09e11),
        ceiling("fma_flops", 1.9e11),
        ceiling("gemm_flops", 1.0e11, dtype="float64"),
        ceiling("h2d_latency", 7e-6, device="gpu", unit="s"),
        ceiling("triad_bw", 3.0e11, level="L1", array_bytes=1 << 14),
        ceiling("triad_bw", 1.4e11, level="L2", array_bytes=1 << 18),
        ceiling("triad_bw", 8.0e10, level="L3", array_bytes=1 << 23),
        ceiling("copy_bw", 3.4e10, level="memory", array_bytes=1 << 27, convention="read+write"),
    ]
    rows = []
    for name, flop, nbytes, seconds, share, bound in (
        ("matmul", 2.0 * 1024**3, 12.0 * 1024**2, 0.0105, 0.98, "compute"),
        ("relu", 2e5, 1.6e6, 7.1e-5, 0.66, "L2"),
        ("adam", 2.2e6, 5.6e6, 2.0e-4, 0.82, "L3"),
        ("one_hot", 0.0, 1.6e5, 2.0e-5, None, None),
    ):
        cost = results.CostRecord(flop, nbytes, 1000)
        row = result(name, "default", median=seconds, cost=cost)
        rates = replace(row.rates, pct_peak=share, bound=bound, flop_s=flop / seconds or None)
        rows.append(replace(row, rates=rates))
    return run("roofline", ceilings=limits, results=rows, **fields)


def calibrate(**fields: Any) -> results.Run:
    """False alarms and power, live and resampled."""

    def power(inject: float, method: Any, tried: int, slower: int) -> results.Power:
        return results.Power(inject, method, tried, slower, 0, tried - slower)

    rows = [
        results.CalibrationRow(
            name,
            "numba",
            spread,
            [
                power(0.0, "resampled", 2000, 0),
                power(0.05, "resampled", 2000, found),
                power(0.1, "resampled", 2000, 1998),
                power(0.0, "live", 30, 0),
                power(0.1, "live", 30, 30),
            ],
            8,
        )
        for name, spread, found in (("relu", 0.007, 1900), ("W1", 0.012, 1430))
    ]
    return run("calibrate", calibration=rows, **fields)


def peers(**fields: Any) -> results.Run:
    """Training steps beside other libraries."""
    rows = [
        result("W1", "784-64-32-10-b32", name, median)
        for name, median in (("numba", 1.3e-4), ("torch", 2.1e-4), ("jax", 3.0e-4))
    ]
    return run("peers", results=rows, **fields)


def every_kind() -> Mapping[str, results.Run]:
    """A run of each kind by its name."""
    return {
        "bench": bench(),
        "ab": ab(),
        "crossover": crossover(),
        "roofline": roofline(),
        "calibrate": calibrate(),
        "peers": peers(),
        "compare": compare(),
    }
