"""The medians for github-action-benchmark, in its format ``customSmallerIsBetter``.

A list of objects with ``name`` and ``unit`` (text), ``value`` (a number), and the optional texts
``range`` and ``extra`` (``BenchmarkResult`` in the action's ``src/extract.ts``). The action plots a
trend; that it can also fail a build is not recommended (``docs``: stored baselines are too noisy).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from nnkernels.bench.report.exported import Timed, timed
from nnkernels.bench.results import Run
from nnkernels.bench.statistics import half_width
from nnkernels.bench.text import percent

UNIT = "us"
"""Always the same, so that a curve keeps its scale."""


def render(runs: Sequence[Run]) -> bytes:
    """The file.

    Raises:
        InputError: there are no times, or a row is there twice.
    """
    entries = [_entry(found) for found in timed(runs, "github-action-benchmark")]
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"


def _entry(found: Timed) -> dict[str, Any]:
    times, run = found.times, found.run
    facts = {
        "samples": len(times.samples),
        "interval": f"{times.ci[0] * 1e6:.6g} to {times.ci[1] * 1e6:.6g} {UNIT}",
        "nnkernels": f"{run.code.version} {run.code.git_sha or ''}".strip(),
        "machine": f"{run.machine.identity.cpu} ({run.machine.fingerprint[:16]})",
    }
    return {
        "name": str(found.row),
        "unit": UNIT,
        "value": times.median * 1e6,
        "range": f"± {percent(half_width(times.ci, times.median))}",
        "extra": "\n".join(f"{name}: {value}" for name, value in facts.items()),
    }
