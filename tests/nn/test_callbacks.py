"""Callbacks: order, early stopping, checkpoints, the progress bar."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
import time

import numpy as np
import pytest

from nnkernels.errors import InputError, UnknownNameError
from nnkernels.nn import MLP, Callback, Checkpoint, EarlyStopping, Epoch, ProgressBar, Trainer
from nnkernels.nn.callbacks import figures_within

X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.arange(12) % 3


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(MLP([4, 5, 3], seed=1), learning_rate=0.1)


class Noting(Callback):
    def __init__(self, name: str, log: list, stop_at: int = 10**9) -> None:
        self.name, self.log, self.stop_at = name, log, stop_at

    def train_begin(self, trainer, epochs):
        self.log.append((self.name, "begin", epochs))

    def epoch_end(self, trainer, record):
        self.log.append((self.name, record.epoch, len(trainer.history)))
        return record.epoch >= self.stop_at

    def train_end(self, trainer):
        self.log.append((self.name, "end"))


def fit(trainer, *hooks, epochs=3, **options):
    options = {"batch_size": 5, "progress": False, **options}
    return trainer.fit(X, Y, epochs=epochs, callbacks=hooks, **options)


def test_callbacks_are_called_in_their_order(trainer):
    log: list = []
    fit(trainer, Noting("a", log), Noting("b", log), epochs=2)
    assert log == [
        *[("a", "begin", 2), ("b", "begin", 2)],
        *[("a", 0, 1), ("b", 0, 1), ("a", 1, 2), ("b", 1, 2)],
        *[("a", "end"), ("b", "end")],
    ]


def test_a_true_value_stops_after_all_were_called(trainer):
    log: list = []
    history = fit(trainer, Noting("a", log, stop_at=1), Noting("b", log), epochs=9)
    assert (len(history), history.stop_reason) == (2, "callback")
    assert log[-3:] == [("b", 1, 2), ("a", "end"), ("b", "end")]


@pytest.mark.parametrize("hook", ["train_begin", "epoch_end", "train_end"])
def test_an_error_in_a_callback_ends_the_others_properly(trainer, hook):
    log: list = []

    class Broken(Callback):
        pass

    def fail(*_):
        raise RuntimeError("planted")

    setattr(Broken, hook, fail)
    with pytest.raises(RuntimeError, match="planted"):
        fit(trainer, Noting("a", log), Broken(), Noting("b", log))
    assert [entry for entry in log if entry[1] == "end"] == [("a", "end"), ("b", "end")]
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, trainer.model.parameters[name])


def test_progress_is_told_within_long_epochs(trainer):
    told = []

    class Slow(Callback):
        def progress(self, trainer, epoch, step, steps):
            told.append((epoch, step, steps))

    def slow_relu(x, *, out):
        time.sleep(0.03)
        np.maximum(x, 0, out=out)

    slow = Trainer(trainer.model, backend=trainer.backend.replace(relu=slow_relu))
    slow.fit(X, Y, batch_size=1, callbacks=[Slow()], progress=False)
    assert told
    assert all(epoch == 0 and 0 < step <= 12 == steps for epoch, step, steps in told)


# --- early stopping ----------------------------------------------------------------------------


def stopped(values, monitor="loss", **options):
    """Epochs after which EarlyStopping stops on these figures, and the one it restores."""
    trainer = Trainer(MLP([4, 3], seed=1), learning_rate=0.1)
    weights = []

    class Planted(Callback):
        def epoch_end(self, trainer, record):
            record.values[monitor] = values[record.epoch]
            weights.append(trainer.weights()["linear0.weight"])

    fit(trainer, Planted(), EarlyStopping(monitor, **options), epochs=len(values))
    final = trainer.weights()["linear0.weight"]
    best = next(i for i, w in enumerate(weights) if (w == final).all())
    assert (trainer.model.parameters["linear0.weight"] == final).all()
    return len(trainer.history), best, trainer.history.stop_reason


def test_early_stopping_waits_and_restores_the_best():
    values = [5, 4, 3, 3.5, 3.2, 3.1, 2]
    assert stopped(values, patience=2) == (6, 2, "early stopping")
    assert stopped(values, patience=3) == (7, 6, "epochs")
    assert stopped(values, patience=0) == (4, 2, "early stopping")
    assert stopped(values, patience=2, restore_best=False) == (6, 5, "early stopping")


def test_early_stopping_wants_a_real_improvement():
    assert stopped([5, 4.9, 4.8, 4.7, 1], patience=2, min_delta=0.5) == (4, 0, "early stopping")


def test_accuracies_are_to_grow():
    assert stopped([0.1, 0.5, 0.4, 0.3, 0.9], "accuracy", patience=1) == (4, 1, "early stopping")
    assert stopped([0.1, 0.5, 0.4], "accuracy", patience=0, mode="min") == (2, 0, "early stopping")


def test_early_stopping_on_validation_data(trainer):
    far = (X, (Y + 1) % 3)
    history = fit(trainer, EarlyStopping(patience=2), epochs=200, validation_data=far)
    assert history.stop_reason == "early stopping"
    assert trainer.evaluate(*far)["loss"] == history["val_loss"].min()


def test_early_stopping_starts_anew_with_every_fit(trainer):
    hook = EarlyStopping("loss", patience=1)
    fit(trainer, hook, epochs=2)
    hook.best = -1.0
    assert fit(trainer, hook, epochs=2).stop_reason == "epochs"


def test_what_is_not_there_cannot_be_monitored(trainer):
    log: list = []
    with pytest.raises(InputError, match="validation_data"):
        fit(trainer, Noting("a", log), EarlyStopping())
    assert log == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"patience": -1}, InputError),
        ({"patience": 1.5}, InputError),
        ({"min_delta": -0.1}, InputError),
        ({"min_delta": float("nan")}, InputError),
        ({"mode": "maximum"}, UnknownNameError),
    ],
)
def test_bad_arguments_of_early_stopping(options, error):
    with pytest.raises(error, match="EarlyStopping"):
        EarlyStopping(**options)


# --- checkpoints -------------------------------------------------------------------------------


def test_checkpoints_every_few_epochs(trainer, tmp_path):
    path, seen = tmp_path / "run.safetensors", []

    class Look(Callback):
        def epoch_end(self, trainer, record):
            seen.append(Trainer.load(path).epoch if path.exists() else None)

    fit(trainer, Checkpoint(path, every=2), Look(), epochs=5)
    assert seen == [None, 2, 2, 4, 4]
    assert Trainer.load(path).epoch == 5
    with pytest.raises(InputError, match="every"):
        Checkpoint(path, every=0)


def test_the_restored_weights_are_the_ones_saved_at_the_end(trainer, tmp_path):
    path = tmp_path / "run.safetensors"
    hooks = EarlyStopping("loss", mode="max", patience=1), Checkpoint(path)
    fit(trainer, *hooks, epochs=5)
    saved = Trainer.load(path).weights()
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, saved[name])


# --- progress bar ------------------------------------------------------------------------------


def test_the_bar_is_silent_when_piped(trainer, capfd):
    fit(trainer, progress=True)
    assert capfd.readouterr() == ("", "")


@contextlib.contextmanager
def terminal(monkeypatch):
    """Make stderr a terminal of 80 columns; yields a function that gives what was written."""
    leader, follower = pty.openpty()
    parts: list[bytes] = []

    def written() -> str:
        stream.flush()
        os.set_blocking(leader, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                parts.append(os.read(leader, 65536))
        return b"".join(parts).decode()

    with monkeypatch.context() as patch, os.fdopen(follower, "w", encoding="utf-8") as stream:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "80")
        yield written
    os.close(leader)


def test_the_bar_is_shown_on_a_terminal(trainer, monkeypatch):
    with terminal(monkeypatch) as written:
        fit(trainer, progress=True)
        shown = written()
    assert "loss" in shown
    assert "accuracy" in shown
    assert "100%" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor comes back


def test_bar_and_time_left_stay_visible_in_80_columns(trainer, monkeypatch):
    bar = ProgressBar()
    values = {"loss": 0.123456, "accuracy": 0.98765, "val_loss": 0.234567, "val_accuracy": 0.87654}
    with terminal(monkeypatch) as written:
        bar.train_begin(trainer, 99_999)
        bar.progress(trainer, 12_345, 5, 10)
        bar.epoch_end(trainer, Epoch(12_345, 10, 0.1, 1.0, values, {}))
        bar._bar.refresh()
        (line,) = re.findall(r"epoch 12345[^\r\n]*0\.1235[^\r\n]*", written())[-1:]
        bar.train_end(trainer)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
    assert len(plain.rstrip()) <= 80
    assert re.fullmatch(
        r"epoch 12345 [━╸╺]{16} +12% [-\d]:[-\d]{2}:[-\d]{2} loss 0\.1235 .*", plain.rstrip()
    )


def test_figures_are_shown_as_far_as_they_fit():
    values = {"loss": 0.25, "accuracy": 0.5}
    assert figures_within(values, 22) == "loss 0.25 accuracy 0.5"
    assert figures_within(values, 21) == "loss 0.25"
    assert figures_within(values, 0) == ""


def test_the_bar_can_be_switched_off(trainer, monkeypatch):
    with terminal(monkeypatch) as written:
        fit(trainer, progress=False)
        assert written() == ""


def test_the_bar_moves_within_an_epoch(trainer, monkeypatch):
    bar = ProgressBar()
    with terminal(monkeypatch) as written:
        bar.train_begin(trainer, 2)
        bar.progress(trainer, 0, 5, 10)
        (task,) = bar._bar.tasks
        assert task.completed == 0.5
        bar.epoch_end(trainer, Epoch(0, 10, 0.1, 1.0, {"loss": 0.25}, {}))
        assert (task.completed, task.fields["text"]) == (1, "loss 0.25")
        bar.train_end(trainer)
        bar.train_end(trainer)
        assert "epoch 0" in written()
