"""Hooks into training, called between epochs."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkernels.errors import UnknownNameError, unknown
from nnkernels.nn.checks import check_number, check_whole
from nnkernels.nn.history import Epoch
from nnkernels.spec import Array

if TYPE_CHECKING:
    from nnkernels.nn.trainer import Trainer


CUT_OFF = ("diverged", "SIGINT", "SIGTERM", "SIGHUP")
"""Reasons after which ``fit`` raises."""


BAR = 16
"""Columns of the progress bar."""


class Callback:
    """Base of all callbacks; override what you need.

    A true value from :meth:`epoch_end` stops training.
    """

    reason = "callback"

    def check(self, figures: Sequence[str]) -> None:
        """Before anything is done: refuse, by an InputError, a training that gives ``figures``."""

    def train_begin(self, trainer: Trainer, epochs: int) -> None:
        """Before the first of ``epochs`` epochs."""

    def progress(self, trainer: Trainer, epoch: int, step: int, steps: int) -> None:
        """Several times a second: ``step`` of ``steps`` of this epoch are done."""

    def epoch_end(self, trainer: Trainer, record: Epoch) -> bool | None:
        """After every epoch; the trainer's state is consistent and may be saved."""

    def train_end(self, trainer: Trainer) -> None:
        """After the last epoch, also when training was interrupted or diverged."""


class EarlyStopping(Callback):
    """Stop when a figure has not improved for ``patience`` epochs.

    Args:
        monitor: figure of the history; ``val_loss`` needs validation data.
        patience: epochs without improvement that are tolerated.
        min_delta: smallest change that counts as improvement.
        restore_best: put back the parameters of the best epoch at the end; not when a signal
            or divergence cut the training off.
        mode: ``"min"`` or ``"max"``; by default ``"max"`` for accuracies.
    """

    reason = "early stopping"

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str | None = None,
    ) -> None:
        check_whole("EarlyStopping: patience", patience, 0)
        check_number("EarlyStopping: min_delta", min_delta, "[0,inf)")
        chosen = mode or ("max" if "accuracy" in monitor else "min")
        if chosen not in ("min", "max"):
            raise unknown("EarlyStopping mode", chosen, ("min", "max"))
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.restore_best, self.sign = restore_best, 1 if chosen == "min" else -1
        self.best, self.best_epoch, self.waited = math.inf, -1, 0
        self._weights: dict[str, Array] | None = None

    def check(self, figures: Sequence[str]) -> None:
        """Refuse to monitor what the training does not give."""
        if self.monitor not in figures:
            validated = any(figure.startswith("val_") for figure in figures)
            hint = "" if validated else " Validation figures need validation_data=."
            found = unknown("figure for EarlyStopping to monitor", self.monitor, figures)
            raise UnknownNameError(f"{found}{hint}")

    def train_begin(self, trainer: Trainer, epochs: int) -> None:
        """Forget an earlier training."""
        self.best, self.best_epoch, self.waited, self._weights = math.inf, -1, 0, None

    def epoch_end(self, trainer: Trainer, record: Epoch) -> bool:
        """Compare with the best epoch so far."""
        value = self.sign * record.values[self.monitor]
        if value < self.best - self.min_delta:
            self.best, self.best_epoch, self.waited = value, record.epoch, 0
            self._weights = trainer.weights() if self.restore_best else None
        else:
            self.waited += 1
        return self.waited > self.patience

    def train_end(self, trainer: Trainer) -> None:
        """Restore the best weights, unless training can go on from where it was cut off."""
        if self._weights is not None and trainer.history.stop_reason not in CUT_OFF:
            trainer.set_weights(self._weights)
        self._weights = None


class Checkpoint(Callback):
    """Save the trainer to ``path`` every ``every`` epochs and at the end."""

    def __init__(self, path: str | Path, *, every: int = 1) -> None:
        self.path, self.every = Path(path), check_whole("Checkpoint: every", every, 1)

    def epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        """Save."""
        if (record.epoch + 1) % self.every == 0:
            trainer.save(self.path)

    def train_end(self, trainer: Trainer) -> None:
        """Save."""
        trainer.save(self.path)


class ProgressBar(Callback):
    """A bar with the time left, the loss and the metrics; silent when stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._first = 0

    def train_begin(self, trainer: Trainer, epochs: int) -> None:
        """Show the bar."""
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR, table_column=Column(no_wrap=True)),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=epochs, text="")
        self._first = len(trainer.history)

    def progress(self, trainer: Trainer, epoch: int, step: int, steps: int) -> None:
        """Move within the epoch."""
        if self._bar is not None:
            done = epoch - self._first + step / steps
            self._bar.update(self._task, completed=done, description=f"epoch {epoch}")

    def epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        """Show the epoch's figures."""
        if self._bar is not None:
            text = figures_within(record.values, self._bar.console.width - BAR - 32)
            self._bar.update(self._task, completed=record.epoch + 1 - self._first, text=text)

    def train_end(self, trainer: Trainer) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def figures_within(values: Mapping[str, float], width: int) -> str:
    """As many figures, from the first on, as ``width`` columns hold."""
    text = ""
    for name, value in values.items():
        longer = f"{text} {name} {value:.4g}".strip()
        if len(longer) > width:
            break
        text = longer
    return text
