"""What goes wrong on a simulated device on purpose."""

from __future__ import annotations

from nnkernels.errors import unknown

FAILURES = {
    "cubin loading": "a compiled module is refused by the driver",
    "cubin results": "kernels of compiled modules write slightly wrong numbers",
    "graph capture": "a capture ends with an error",
    "graph launch": "a graph is captured and cannot be launched",
    "graph results": "kernels in a graph write slightly wrong numbers",
    "no nvrtc": "NVRTC is not installed",
    "out of memory": "nothing more can be allocated",
    "device lost": "every call of the runtime fails",
    "device hangs": "work that was queued is never done",
}
"""The failures that can be planted, and what they do."""


class Planted:
    """The failures that are planted at the moment."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def plant(self, failure: str, *, after: int = 0) -> None:
        """Let something go wrong.

        Args:
            failure: one of :data:`FAILURES`.
            after: how often it still goes well.

        Raises:
            UnknownNameError: there is no such failure.
        """
        if failure not in FAILURES:
            raise unknown("failure", failure, FAILURES)
        self._left[failure] = after

    def heal(self) -> None:
        """From now on everything goes well."""
        self._left.clear()

    def strikes(self, failure: str) -> bool:
        """Whether ``failure`` happens now; an occasion on which it could."""
        left = self._left.get(failure)
        if left is None:
            return False
        self._left[failure] = max(left - 1, 0)
        return left == 0
