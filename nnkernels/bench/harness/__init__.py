"""What is measured and how samples are taken.

This package imports its own modules relatively, and of the library only ``nnkernels``' public API:
loaded by file path under another name, it can drive an older ``nnkernels`` than the one it came
with.
"""

from .registry import cases
from .timing import Track, interleave, prime
from .workload import Agreement, Case, Cost, Problem, Runner

__all__ = [
    "Agreement",
    "Case",
    "Cost",
    "Problem",
    "Runner",
    "Track",
    "cases",
    "interleave",
    "prime",
]
