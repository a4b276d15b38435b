"""The oracle: every operator runs its NumPy reference. Slow, allocating, and easy to read."""

from __future__ import annotations

from nnkernels.backend import Backend
from nnkernels.backends._host import HOST
from nnkernels.program.interpreter import Interpreter


def load() -> Backend:
    """The reference backend."""
    return Backend("reference", HOST, {}, Interpreter, priority=-1)
