"""What the harness itself adds to a sample, by a workload that does nothing."""

from __future__ import annotations

import statistics
import time
from typing import Any

from nnkernels.bench.doctor.finding import Finding, judged
from nnkernels.bench.harness import SAMPLE_SECONDS
from nnkernels.bench.harness.timing import Track, take
from nnkernels.bench.text import duration

ALLOWED = 0.01
"""Of a sample."""

SAMPLES = 200


class Nothing:
    """A workload that does nothing, at once."""

    checked = 1
    note: str | None = None

    def reset(self) -> None:
        """Nothing."""

    def run(self, loops: int) -> None:
        """Nothing."""

    def outputs(self) -> list[Any]:
        """None."""
        return []


def check() -> Finding:
    """Within the timed region, where it counts, and around it."""
    track = Track(Nothing(), threads=1)
    take(track, 1)
    inside, around = [], []
    for _ in range(SAMPLES):
        begin = time.perf_counter()
        seconds, _ = take(track, 1)
        around.append(time.perf_counter() - begin)
        inside.append(seconds)
    return judge(statistics.median(inside), statistics.median(around))


def judge(inside: float, around: float) -> Finding:
    """Seconds that the clock shows for nothing, and that taking such a sample took."""
    share = inside / SAMPLE_SECONDS
    return judged(
        "harness",
        bad=share > ALLOWED,
        text=f"adds {duration(inside)} to a sample of {duration(SAMPLE_SECONDS)} "
        f"({100 * share:.4f} %); {duration(around)} around it are not timed",
        remedy="the machine is too busy or too slow for samples this short: close what else runs",
        figures={"inside_s": inside, "around_s": around, "share": share},
    )
