"""The oracle: every operator runs its NumPy reference. Slow, allocating, and easy to read."""

from __future__ import annotations

from nnkernels.backend import Backend
from nnkernels.backends._blas import BlasExecutable, blas_threads
from nnkernels.backends._host import HOST


def load() -> Backend:
    """The reference backend."""
    return Backend("reference", HOST, {}, BlasExecutable, priority=-1, limit=blas_threads)
