"""What the CuPy backend says about itself: its layers, and a Program as launches."""

from __future__ import annotations

from typing import Any

from nnkernels.backend import Backend, Notes
from nnkernels.backends.cupy.device import gpu_of
from nnkernels.program import Program


def notes(backend: Backend, target: Any) -> Notes:
    """The state of the layers; for a Program also its launches, in order."""
    verdicts = gpu_of(backend).layers.verdicts()
    table = (("layer", "state", "why"), *((n, v.state, v.reason) for n, v in verdicts.items()))
    if not isinstance(target, Program):
        return Notes(table=table)
    from nnkernels.backends.cupy.steps import describe

    return Notes(lines=tuple(describe(backend, target)), table=table)
