"""The tuned NumPy backend: no temporaries, results written where they belong."""

from __future__ import annotations

from nnkernels import plugins
from nnkernels.backend import Backend, KernelTable
from nnkernels.backends._blas import BlasExecutable, blas_threads
from nnkernels.backends._host import HOST
from nnkernels.backends.numpy import (
    activations,
    bookkeeping,
    linear,
    losses,
    movement,
    normalisation,
    regularisation,
    updates,
)

FAMILIES = (
    activations,
    bookkeeping,
    linear,
    losses,
    movement,
    normalisation,
    regularisation,
    updates,
)


def load() -> Backend:
    """The backend ``numpy``; what it lacks falls back to the reference."""
    kernels = KernelTable()
    for family in FAMILIES:
        kernels.update(family.kernels)
    return Backend(
        "numpy",
        HOST,
        kernels,
        BlasExecutable,
        fallback=plugins.load("reference"),
        limit=blas_threads,
    )
