"""The native backend: C++ kernels that were compiled when the package was built.

It starts at once and needs no compiler, no LLVM: whole epochs run in the same way as those of the
Numba backend. The arithmetic of its kernels is that of the GPU's (``nnkernels/csrc/arithmetic``).
See ``docs/native.md``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from nnkernels import plugins
from nnkernels.backend import Backend
from nnkernels.errors import BackendUnavailableError

if TYPE_CHECKING:
    from nnkernels.backends.native.library import Library

PRIORITY = 5


def load() -> Backend:
    """The backend ``native``.

    Raises:
        BackendUnavailableError: the library was not built, or is not this version's.
    """
    from nnkernels.backends.native import library

    path = library.find()
    if path is None:
        raise BackendUnavailableError(f"backend 'native' is not available: {library.absence()}")
    return _backend(library.Library(path))


def _backend(library: Library) -> Backend:
    from nnkernels.backends._blas import blas_threads
    from nnkernels.backends._compiled.epochs.executor import bind
    from nnkernels.backends._host import HOST
    from nnkernels.backends.native.kernels import engine_of, table_of

    return Backend(
        "native",
        HOST,
        table_of(library),
        functools.partial(bind, engine_of(library)),
        fallback=plugins.load("numpy"),
        strided=False,
        priority=PRIORITY,
        limit=blas_threads,
    )
