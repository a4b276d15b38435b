"""Running Programs on the NumPy backend."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from nnkernels.program.interpreter import Interpreter


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextlib.contextmanager
def blas_threads(count: int | None) -> Iterator[None]:
    """Hold the BLAS libraries to ``count`` threads; None leaves them as they are."""
    if count is None:
        yield
        return
    with _controller().limit(limits=count, user_api="blas"):
        yield


class NumpyExecutable(Interpreter):
    """The interpreter under the backend's thread setting."""

    def run(self, steps: int, stop: Callable[[], bool] | None = None) -> int:
        """See :meth:`nnkernels.program.Interpreter.run`."""
        with blas_threads(self.backend.threads):
            return super().run(steps, stop)
