"""The one list of workloads."""

from __future__ import annotations

from . import operators, training
from .workload import Case, Preset


def cases(preset: Preset = "default") -> list[Case]:
    """Every workload at the sizes of ``preset``: training steps, then operators."""
    return [*training.cases(preset), *operators.cases(preset)]
