"""The Numba backend: compiled kernels, and whole epochs without returning to Python.

Needs Numba (``pip install 'nnkernels[numba]'``) on Linux or macOS; any processor, the fastest
products on AVX-512, AVX2 and NEON. On processors with AVX512_BF16 it also has the precision
``bf16``: arrays stay float32, but products round what they multiply to bfloat16, at nearly twice
the speed; everything else, and all of float64, is as in ``fp32``. See ``docs/numba.md``.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys

from nnkernels import plugins
from nnkernels.backend import Backend, KernelTable
from nnkernels.backends._blas import BlasExecutable, blas_threads
from nnkernels.backends._host import HOST
from nnkernels.errors import BackendUnavailableError

PRIORITY = 10


def load() -> Backend:
    """The backend ``numba``.

    With ``NUMBA_DISABLE_JIT`` set, its kernels are those of ``numpy``: the same results, slowly.

    Raises:
        BackendUnavailableError: Numba is not installed, or not for this system.
    """
    if reason := _reason():
        raise BackendUnavailableError(f"backend 'numba' is not available: {reason}")
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        numpy = plugins.load("numpy")
        return Backend("numba", HOST, {}, BlasExecutable, fallback=numpy, limit=blas_threads)
    return _compiled()


def _reason() -> str | None:
    """Why it cannot work here, and the remedy."""
    if sys.platform == "win32":
        return "it runs on Linux and macOS; use 'numpy' here"
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed; run: pip install 'nnkernels[numba]'"
    return None


def _compiled() -> Backend:
    from nnkernels.backends._compiled.declare import in_precision
    from nnkernels.backends._compiled.epochs.executor import bind
    from nnkernels.backends.numba.epochs.engine import ENGINE
    from nnkernels.backends.numba.kernels import (
        activations,
        bookkeeping,
        linear,
        losses,
        movement,
        normalisation,
        regularisation,
        updates,
    )
    from nnkernels.backends.numba.notes import notes
    from nnkernels.backends.numba.products.microkernel import has_pairs
    from nnkernels.backends.numba.swaps import adopt

    families = (
        activations,
        bookkeeping,
        linear,
        losses,
        movement,
        normalisation,
        regularisation,
        updates,
    )
    kernels = KernelTable()
    for module in families:
        kernels.update(module.family.kernels)
    return Backend(
        "numba",
        HOST,
        kernels,
        functools.partial(bind, ENGINE),
        fallback=plugins.load("numpy"),
        strided=False,
        priority=PRIORITY,
        limit=blas_threads,
        precisions=("fp32", "bf16") if has_pairs() else ("fp32",),
        lacking={} if has_pairs() else {"bf16": "this processor has no AVX512_BF16 instructions"},
        kernels_in=functools.partial(in_precision, kernels),
        adopt=adopt,
        notes=notes,
    )
