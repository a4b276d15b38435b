"""The candidates, a module a family, imported only in the process that runs one."""

from __future__ import annotations

from typing import Any, Protocol


class Unable(Exception):
    """The library cannot express the workload; the message says why."""


class Runner(Protocol):
    """One candidate at one problem; built with ``(problem, threads, **options)``."""

    def run(self, steps: int) -> None:
        """Do so many steps, going on where the last call ended, and wait for their end."""

    def outputs(self) -> list[Any]:
        """NumPy arrays to compare: weights ``[inputs, outputs]``, then biases; or results."""


class Trainer(Runner, Protocol):
    """A runner that can train to a target: from the start again, at rates that change."""

    def reset(self) -> None:
        """Go back to the initial weights, the optimizer's initial state and the first batch."""

    def set_rate(self, rate: float) -> None:
        """Use this learning rate from the next step on."""
