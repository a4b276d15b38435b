"""Compiled code as something to call: by Python, or by a compiled loop through its address."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from nnkernels.backends._compiled.record import Layout

_lock = threading.RLock()


@dataclass(eq=False)
class Entry:
    """Compiled code that is found, or made, when its address is first asked for.

    Attributes:
        name: what it is called in the cache.
        link: gives the address of the machine code.
        arguments: how many int64 it takes; a kernel's are its record, first and last.
        seconds: time that compiling it took in this process; 0 where that was not needed.
        kept: what must live as long as the code.
    """

    name: str
    link: Callable[[Entry], int]
    arguments: int = 3
    seconds: float = 0.0
    kept: list[Any] = field(default_factory=list)
    _linked: int | None = None

    @property
    def symbol(self) -> str:
        """Name of the function in the object code."""
        return "nnk_" + "".join(c if c.isalnum() else "_" for c in self.name.partition("|")[0])

    @functools.cached_property
    def address(self) -> int:
        """Where the machine code begins."""
        with _lock:
            if self._linked is None:  # another thread may have linked it in the meantime
                self._linked = self.link(self)
            return self._linked

    @functools.cached_property
    def call(self) -> Any:
        """The entry as a function of integers; other Python threads may run during its calls."""
        return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * self.arguments)(self.address)


class Code(Protocol):
    """The code of a kernel, of which there is an entry for every layout of its arrays.

    Attributes:
        name: for people.
        parameters: what it wants, by the names that :mod:`record` knows.
        written_in: the Python function that computes it, or that tells where it is written.
    """

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> tuple[str, ...]: ...

    @property
    def written_in(self) -> Callable[..., Any] | None: ...

    def entry(self, layout: Layout) -> Entry:
        """What is called with records that ``layout`` describes."""
