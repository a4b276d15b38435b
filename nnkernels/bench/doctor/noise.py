"""How far equal code differs from itself: two workers of the same code, as the gate runs them."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Collection, Sequence

import numpy as np

from nnkernels.bench import harness, machine
from nnkernels.bench.doctor.finding import Finding, judged
from nnkernels.bench.text import counted, percent
from nnkernels.bench.workers import Greeting, Loaded, Primed, Sample, Settings, Worker

RESTARTS = 8
PAIRS = 12
WORKLOAD = "relu"
PATIENCE = 60.0
MARGIN = 0.03
"""A spread beyond the margin of the gate hides what it looks for."""


def check() -> Finding:
    """Restart two workers, each time compare them in pairs, on one CPU where that is possible."""
    usable = machine.affinity()
    cpus = None if usable is None else usable[-1:]
    return judge([_restart(number, cpus) for number in range(RESTARTS)])


def _restart(number: int, cpus: Collection[int] | None) -> float:
    """The median of ln(b / a) over the pairs of one restart."""
    case = next(c.id for c in harness.cases("default") if c.workload == WORKLOAD)
    rng = np.random.default_rng(number)
    with contextlib.ExitStack() as stack:
        pair = []
        for _ in range(2):
            worker = Worker(Settings(cpus=cpus))
            stack.callback(worker.close)
            hello = {"backend": "numpy", "baseline": None, "threads": 1}
            worker.ask(Greeting, PATIENCE, "hello", **hello)
            worker.ask(Loaded, PATIENCE, "load", preset="default", case=case)
            pair.append(worker)
        loops = max(w.ask(Primed, PATIENCE, "prime", limit=0.2).loops for w in pair)
        ratios = []
        for _ in range(PAIRS):
            taken = [0.0, 0.0]
            for which in rng.permutation(2):
                taken[which] = pair[which].ask(Sample, PATIENCE, "sample", loops=loops).seconds
            ratios.append(math.log(taken[1] / taken[0]))
    return statistics.median(ratios)


def judge(restarts: Sequence[float]) -> Finding:
    """``restarts``: for each, the median over its pairs of ln(b / a)."""
    spread = statistics.stdev(restarts)
    return judged(
        "noise",
        bad=spread > MARGIN,
        text=f"equal code differs from itself by {percent(spread)} from restart to restart "
        f"({counted(len(restarts), 'restart')} of {PAIRS} pairs)",
        remedy="the gate sees only large slowdowns here: close what else runs, or give it more "
        "restarts ('nnkernels calibrate' says how many)",
        figures={"spread": spread},
    )
