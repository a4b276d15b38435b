"""Kernels declared by decorating plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels.backends._compiled import declare
from nnkernels.backends.numba.compiling.linking import Function


class Family(declare.Family):
    """The kernels of one module of the catalogue, written as Python functions."""

    def phase(
        self,
        op: str | None = None,
        *,
        over: str | None = None,
        makes: tuple[str, ...] | None = None,
        alternative: int | None = None,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare the decorated function as the next phase of ``op`` (by default of its name)."""

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            name, code = op or function.__name__, Function(function)
            self.add(name, code, over=over, makes=makes, alternative=alternative)
            return function

        return add
