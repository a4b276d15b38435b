"""What training looked like, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from nnkernels.errors import InputError, missing_extra, unknown
from nnkernels.nn.checks import check_names
from nnkernels.spec import Array


class Epoch(msgspec.Struct, frozen=True):
    """Figures of one epoch.

    Attributes:
        epoch: its number, from 0.
        step: optimizer steps done when it ended.
        learning_rate: of its last step.
        seconds: wall time, validation included.
        values: ``loss`` and metrics; with ``val_`` in front those of the validation data.
        gradient_norms: Euclidean norm of every parameter's gradient in the epoch's last step (after
            clipping): a vanishing or exploding gradient shows here.
    """

    epoch: int
    step: int
    learning_rate: float
    seconds: float
    values: dict[str, float]
    gradient_norms: dict[str, float]


class History:
    """All epochs of a trainer, and recorded arrays.

    ``history["loss"]`` is the curve of one figure, ``history.recorded[name]`` the copies that
    ``fit(record=...)`` kept, one an epoch. ``backend`` names the backend that ran it,
    ``stop_reason`` says why the last ``fit`` ended: ``"epochs"``, ``"early stopping"``,
    ``"diverged"``, ``"SIGINT"``, ...
    """

    def __init__(self, backend: str = "") -> None:
        self.backend = backend
        self.epochs: list[Epoch] = []
        self.recorded: dict[str, list[Array]] = {}
        self.stop_reason = ""

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def keys(self) -> list[str]:
        """Names of the figures, of all epochs together."""
        names = dict.fromkeys(name for epoch in self.epochs for name in epoch.values)
        return [*names, "learning_rate", "seconds"] if self.epochs else []

    def __getitem__(self, name: str) -> Array:
        """One figure over the epochs, float64; NaN for an epoch without it (no validation)."""
        if name not in self.keys():
            raise unknown("figure of the history", name, self.keys())
        if name in ("learning_rate", "seconds"):
            return np.array([getattr(e, name) for e in self.epochs])
        return np.array([e.values.get(name, math.nan) for e in self.epochs])

    def gradient_norms(self, name: str) -> Array:
        """Norms of one parameter's gradient over the epochs."""
        known = self.epochs[0].gradient_norms if self.epochs else {}
        if name not in known:
            raise unknown("parameter of the history", name, known)
        return np.array([e.gradient_norms[name] for e in self.epochs])

    def plot(
        self, names: str | Sequence[str] | None = None, *, ax: Any = None, log: bool = False
    ) -> Any:
        """Draw figures over the epochs; returns the matplotlib Axes.

        Args:
            names: figure to draw, or several; by default the loss and its validation.
            ax: Axes to draw into; a new figure's if None.
            log: logarithmic vertical axis.

        Raises:
            InputError: there is no epoch yet, or no such figure.
        """
        self._check_epochs("plot")
        chosen = check_names("plot: names", names or self._losses())
        curves = {name: self[name] for name in chosen}
        label = ", ".join(dict.fromkeys(name.removeprefix("val_") for name in chosen))
        ax = self._draw(curves, ax, label)
        if log:
            ax.set_yscale("log")
        return ax

    def _losses(self) -> list[str]:
        return [name for name in ("loss", "val_loss") if name in self.keys()]

    def _check_epochs(self, function: str) -> None:
        if not self.epochs:
            raise InputError(f"{function}: the history has no epoch yet; train at least one first")

    def _draw(self, curves: Mapping[str, Array], ax: Any, label: str) -> Any:
        """Curves over the epochs, with what every diagram of ours has."""
        ax = ax if ax is not None else _new_axes()
        from matplotlib.ticker import MaxNLocator  # after the message about a missing matplotlib

        for name, curve in curves.items():
            ax.plot([e.epoch for e in self.epochs], curve, label=name, marker=_marker(len(self)))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.set_ylabel(label)
        ax.legend(fontsize="small")
        ax.grid(alpha=0.3)
        return ax

    def plot_gradient_norms(self, *, ax: Any = None) -> Any:
        """Draw the norm of every parameter's gradient over the epochs; returns the Axes.

        Raises:
            InputError: there is no epoch yet.
        """
        self._check_epochs("plot_gradient_norms")
        names = self.epochs[0].gradient_norms
        ax = self._draw({name: self.gradient_norms(name) for name in names}, ax, "gradient norm")
        ax.set_yscale("log")
        return ax

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epochs)"
        last = ", ".join(f"{k} {v:.6g}" for k, v in self.epochs[-1].values.items())
        return f"History({len(self)} epochs, {last}, {self.stop_reason or 'running'})"


def _marker(points: int) -> str | None:
    return "o" if points < 3 else None


def _new_axes() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("plot()", "matplotlib", "report") from None
    # A Figure of its own, not pyplot's: nothing global is opened that somebody must close.
    return Figure(figsize=(7, 4.5), layout="constrained").subplots()
