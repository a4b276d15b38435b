"""The samples as pytest-benchmark stores them, so that ``pytest-benchmark compare`` reads them.

The statistics are those of ``pytest_benchmark.stats.Stats``: quartiles, outliers beyond 1.5 times
the interquartile range and beyond one standard deviation, the sample standard deviation. Its
quartiles are hinges, ours interpolated: they differ by less than the distance of two samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from nnkernels.bench.report.exported import Timed, timed
from nnkernels.bench.results import Run

VERSION = "5.0.0"
"""Of pytest-benchmark, whose format this is."""


def render(runs: Sequence[Run]) -> bytes:
    """The file; machine and commit are those of the last run.

    Raises:
        InputError: there are no times, or a row is there twice.
    """
    found = timed(runs, "pytest-benchmark")
    run = runs[-1]
    document = {
        "machine_info": _machine(run),
        "commit_info": {
            "id": run.code.git_sha or "unversioned",
            "time": run.created,
            "author_time": run.created,
            "dirty": bool(run.code.dirty),
            "project": "nnkernels",
            "branch": "(unknown)",
        },
        "benchmarks": [_benchmark(one) for one in found],
        "datetime": run.created,
        "version": VERSION,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _machine(run: Run) -> dict[str, Any]:
    identity = run.machine.identity
    system, _, release = identity.os.partition(" ")
    return {
        "node": run.machine.fingerprint[:16],
        "processor": identity.arch,
        "machine": identity.arch,
        "python_compiler": "",
        "python_implementation": "CPython",
        "python_implementation_version": identity.python,
        "python_version": identity.python,
        "python_build": ["", ""],
        "release": release,
        "system": system,
        "cpu": {"brand_raw": identity.cpu, "count": identity.cores_usable},
    }


def _benchmark(found: Timed) -> dict[str, Any]:
    row, result = found.row, found.result
    kind = "" if row.kind == "call" else f"-{row.kind}"
    threads = "" if row.threads is None else f"-t{row.threads}"
    name = f"{row.workload}[{row.size}-{row.dtype}-{row.backend}{threads}{kind}]"
    return {
        "group": f"{row.case} {row.dtype}",
        "name": name,
        "fullname": f"nnkernels::{name}",
        "params": {"backend": row.backend, "size": row.size, "dtype": row.dtype},
        "param": f"{row.size}-{row.dtype}-{row.backend}{threads}{kind}",
        "extra_info": {
            "cost": result.cost,
            "rates": result.rates,
            "correctness": result.correctness,
            "compile_s": result.compile_s,
            "fingerprint": found.run.machine.fingerprint,
        },
        "options": {
            "disable_gc": True,
            "timer": "perf_counter",
            "min_rounds": len(found.times.samples),
            "max_time": found.run.settings.budget_s,
            "min_time": found.run.settings.sample_target_s,
            "warmup": True,
        },
        "stats": _stats(found.times.samples, result.loops or 1),
    }


def _stats(samples: Sequence[float], loops: int) -> dict[str, Any]:
    data = np.sort(np.asarray(samples, np.float64))
    q1, median, q3 = (float(q) for q in np.quantile(data, (0.25, 0.5, 0.75)))
    mean, deviation = float(data.mean()), float(data.std(ddof=1)) if len(data) > 1 else 0.0
    inside = data[(data >= q1 - 1.5 * (q3 - q1)) & (data <= q3 + 1.5 * (q3 - q1))]
    far = int((np.abs(data - mean) > deviation).sum())
    beyond = len(data) - len(inside)
    return {
        "min": float(data[0]),
        "max": float(data[-1]),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(data),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond,
        "stddev_outliers": far,
        "outliers": f"{far};{beyond}",
        "ld15iqr": float(inside[0]),
        "hd15iqr": float(inside[-1]),
        "ops": 1 / mean,
        "total": float(data.sum()),
        "data": list(samples),
        "iterations": loops,
    }
