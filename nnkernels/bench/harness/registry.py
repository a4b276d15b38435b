"""The one list of workloads."""

from __future__ import annotations

from .inference import cases as inference_cases
from .operators import cases as operator_cases
from .training import cases as training_cases
from .workload import Case, Preset


def cases(preset: Preset = "default") -> list[Case]:
    """Every workload at the sizes of ``preset``: training steps, inference, then operators."""
    return [*training_cases(preset), *inference_cases(preset), *operator_cases(preset)]
