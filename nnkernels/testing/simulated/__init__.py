"""Simulated GPUs behind a stand-in for the part of CuPy that the backend uses.

:func:`cupy` gives a namespace to be used in the place of the module ``cupy``. Its kernels are
compiled by the real NVRTC and run by the PTX interpreter of :mod:`nnkernels.testing.ptx`, which
faults on what a real GPU would let pass. Work waits in streams until something waits for it; a
namespace's ``log`` says what was asked for, ``plant()`` lets things go wrong.
"""

from __future__ import annotations

from typing import Any

from nnkernels.backend import Backend
from nnkernels.testing.simulated.namespace import SimulatedCupy
from nnkernels.testing.simulated.planted import FAILURES

__all__ = ["FAILURES", "SimulatedCupy", "backend", "cupy"]

cupy = SimulatedCupy


def backend(cp: SimulatedCupy | None = None, **options: Any) -> Backend:
    """The CuPy backend on the first device of ``cp``, or of a namespace with these ``options``."""
    from nnkernels.backends.cupy import on

    return on(cp or cupy(**options))
