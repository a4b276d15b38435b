"""How far equal code differs from itself: one backend on both sides of the gate, one workload."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from nnkernels.bench import harness
from nnkernels.bench.doctor.finding import Finding, judged
from nnkernels.bench.gate import isolation, verdicts
from nnkernels.bench.gate.pairs import (
    BOTH,
    EFFORTS,
    REPRIME_SECONDS,
    Pair,
    Row,
    Setting,
    shared_loops,
)
from nnkernels.bench.gate.sides import prepared
from nnkernels.bench.text import counted, percent
from nnkernels.bench.workers import Listed

BACKEND, WORKLOAD = "numpy", "relu"
EFFORT = EFFORTS["default"]
VISIBLE = 0.1
"""The smallest slowdown that a useful gate must see."""


def check() -> Finding:
    """Restart both workers over and over, on one CPU, and compare them in pairs."""
    with prepared(BACKEND, BACKEND) as sides:
        cpus = isolation.idlest(1)
        setting = Setting(dict(zip(BOTH, sides, strict=True)), "default", 1, cpus, EFFORT)
        with isolation.aside(cpus):
            return judge([_restart(setting, number) for number in range(EFFORT.restarts)])


def _restart(setting: Setting, number: int) -> float:
    """The median over the pairs of ln(t_b / t_a)."""
    case = next(c for c in harness.cases(setting.preset) if c.workload == WORKLOAD)
    row = Row(Listed(case.workload, case.size, case.dtype, case.tags), BACKEND, BACKEND)
    with Pair(setting) as pair:
        pair.ready([row])
        a, b = (pair.prime(row, which, REPRIME_SECONDS) for which in BOTH)
        loops = shared_loops(a, b, setting.effort)
        rng = np.random.default_rng(number)
        return pair.measure({row: loops}, rng, lambda: None)[row].d


def judge(restarts: Sequence[float]) -> Finding:
    """``restarts``: for each, the median over its pairs of ln(t_b / t_a)."""
    spread = statistics.stdev(restarts)
    found = verdicts.estimate(restarts)
    visible = None if found is None else float(verdicts.min_detectable(found))
    seen = "the gate sees nothing" if visible is None else f"the gate sees {percent(visible)}"
    return judged(
        "noise",
        bad=visible is None or visible > VISIBLE,
        text=f"equal code differs from itself by {percent(spread)} from restart to restart: {seen} "
        f"or more ({counted(len(restarts), 'restart')})",
        remedy="smaller slowdowns stay unseen here: close what else runs, or give the gate more "
        "restarts ('nnkernels calibrate' says how many)",
        figures={"spread": spread, "min_detectable": visible},
    )
