"""What is measured and how samples are taken.

This package imports its own modules relatively, and of the library only ``nnkernels``' public API:
loaded by file path under another name, it can drive an older ``nnkernels`` than the one it came
with.
"""

from .registry import add, added, cases
from .sweeps import sweeps
from .timing import REWARM_SECONDS, SAMPLE_SECONDS, Track, elapsed, interleave, prime
from .worker import identify
from .workload import (
    GATE,
    MAIN,
    PRESETS,
    USER,
    Agreement,
    Case,
    Cost,
    Preset,
    Problem,
    Runner,
    Sweep,
)

__all__ = [
    "GATE",
    "MAIN",
    "PRESETS",
    "REWARM_SECONDS",
    "SAMPLE_SECONDS",
    "USER",
    "Agreement",
    "Case",
    "Cost",
    "Preset",
    "Problem",
    "Runner",
    "Sweep",
    "Track",
    "add",
    "added",
    "cases",
    "elapsed",
    "identify",
    "interleave",
    "prime",
    "sweeps",
]
