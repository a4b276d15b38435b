"""What a simulated device was asked to do."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal[
    "launch", "matmul", "cublaslt", "graph", "library", "transfer", "allocation", "synchronisation"
]
"""Kinds of entries.

``launch`` is a kernel of a module, ``matmul`` one of ``cupy.matmul``, ``cublaslt`` a product of
that library, ``graph`` one launch of a whole graph; ``library`` is work of CuPy's own kernels
(copying, filling, converting, reducing) and ``transfer`` a copy between host and device.
"""


class Entry(NamedTuple):
    """One thing that was asked for.

    Attributes:
        kind: see :data:`Kind`.
        name: of the kernel, or what was done.
        captured: whether it went into a graph instead of a stream.
        nbytes: of allocations and transfers.
    """

    kind: Kind
    name: str
    captured: bool = False
    nbytes: int = 0


class Log:
    """The entries since the last :meth:`reset`, in order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def reset(self) -> None:
        """Forget everything."""
        self.entries.clear()

    def names(self, kind: Kind, *, captured: bool = False) -> list[str]:
        """Names of the entries of a kind, in order: those done in streams, or those in graphs."""
        return [e.name for e in self.entries if e.kind == kind and e.captured == captured]

    @property
    def launches(self) -> int:
        """Kernels of modules that were launched in streams."""
        return len(self.names("launch"))

    @property
    def matmuls(self) -> int:
        """Products by ``cupy.matmul``."""
        return len(self.names("matmul"))

    @property
    def products(self) -> int:
        """Products by cublasLt in streams."""
        return len(self.names("cublaslt"))

    @property
    def graphs(self) -> int:
        """Launches of graphs."""
        return len(self.names("graph"))

    @property
    def allocations(self) -> int:
        """Allocations of device memory, from the pool or not."""
        return len(self.names("allocation"))

    @property
    def synchronisations(self) -> int:
        """How often the host waited for the device."""
        return len(self.names("synchronisation"))

    @property
    def host_reads(self) -> int:
        """Copies from the device to the host."""
        return self.names("transfer").count("to host")

    @property
    def copies(self) -> int:
        """Transfers in either direction, and work of CuPy's own kernels."""
        return len(self.names("transfer")) + len(self.names("library"))
