"""What a workload is: something drawn once, run by several candidates, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

Rate = Literal["flop", "byte", "item"]
Preset = Literal["quick", "default", "thorough"]
PRESETS: tuple[Preset, ...] = ("quick", "default", "thorough")

MAIN = "main"
"""Tag of the workloads that are measured when none are asked for."""

GATE = "gate"
"""Tag of the workloads that the regression gate compares."""

USER = "user"
"""Tag of the workloads from a file of the user's."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Model cost of one call: flops, bytes of compulsory traffic, and items (samples, elements)."""

    flop: float
    bytes: float
    items: int


COMPUTE_BOUND = 2.0
"""Flops a byte from which a rate is told in flops."""


def rate_of(cost: Cost) -> Rate:
    """Which of an operator's rates is worth telling."""
    return "flop" if cost.flop >= COMPUTE_BOUND * cost.bytes else "byte"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a result is from the float64 reference.

    ``error`` and ``limit`` are relative; ``error`` is None when the result is not finite where the
    reference is. ``reason`` says what is wrong when ``ok`` is false.
    """

    ok: bool
    error: float | None
    limit: float
    reason: str | None = None


class Runner(Protocol):
    """One candidate, ready to run one problem.

    Attributes:
        checked: how many loops after a ``reset`` the result is compared after.
        note: what a reader of the times should know; None when there is nothing.

    A runner on a device with a queue also has an attribute ``queued``, see ``queued.py``.
    """

    checked: int
    note: str | None

    def reset(self) -> None:
        """Put back the inputs and poison the outputs."""

    def run(self, loops: int) -> None:
        """Do the work ``loops`` times and wait for its end."""

    def outputs(self) -> list[Any]:
        """What ``run(checked)`` after ``reset`` gave, as NumPy arrays: valid until the next run."""


class Problem(Protocol):
    """The inputs of a workload at one size: the same whenever and wherever they are drawn."""

    def runner(self, backend: Any) -> Runner:
        """The problem on a backend of nnkernels."""

    def baseline(self, name: str) -> Runner:
        """The problem as one of the case's baselines does it."""

    def agreement(self, found: Sequence[Any]) -> Agreement:
        """Compare a runner's outputs with the reference, which is computed when first needed."""


@dataclass(frozen=True, slots=True)
class Case:
    """A workload at one size.

    Attributes:
        workload: its name.
        size: its size, for people.
        params: its size, for programs.
        dtype: floating dtype of its arrays.
        tags: words that ``-k`` finds it by, besides its name.
        cost: of one call.
        rate: which of the cost's numbers its rate is told in.
        make: draws the inputs.
        baselines: candidates that are not backends, for comparison.
        sweep: id of the sweep that it is from, and its size there; None: it is a preset's.
    """

    workload: str
    size: str
    params: Mapping[str, int | float | str]
    dtype: str
    tags: tuple[str, ...]
    cost: Cost
    rate: Rate
    make: Callable[[], Problem]
    baselines: tuple[str, ...] = ()
    sweep: tuple[str, int] | None = None

    @property
    def id(self) -> str:
        """The name that lists and test ids show; it tells the dtype where that is not float32."""
        dtype = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.workload}[{self.size}{dtype}]"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A workload that grows in one direction.

    Attributes:
        workload: its name.
        over: what grows: ``n`` (all sides of square matrices), ``elements``, ``rows``, ``batch``,
            ``width`` or, of users' workloads, ``size``.
        low, high: the sizes between which the interesting ones lie.
        tags: words that ``-k`` finds it by, besides its id.
        make: the workload at a size.
    """

    workload: str
    over: str
    low: int
    high: int
    tags: tuple[str, ...]
    make: Callable[[int], Case]

    @property
    def id(self) -> str:
        """The name that lists show: ``matmul[n]``."""
        return f"{self.workload}[{self.over}]"

    def at(self, size: int) -> Case:
        """The workload at ``size``, which a worker finds again by the sweep's id and the size."""
        return replace(self.make(size), sweep=(self.id, size))
