"""A product that is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class PreparedProduct:
    """Runs a product, and what its epilogue asks for, on the current stream.

    Args:
        calls: what to do, in order.
        text: how, for people.
    """

    def __init__(self, calls: Sequence[Callable[[], Any]], text: str) -> None:
        self._calls, self._text = calls, text

    def __call__(self) -> None:
        """Queue it."""
        for call in self._calls:
            call()

    def describe(self) -> str:
        """How it is computed, and what could not be done on the way."""
        return self._text
