"""Ctrl-C and SIGTERM: training ends after a whole step and goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

import nnkernels
from nnkernels.errors import TrainingInterrupted
from nnkernels.nn import Callback, Checkpoint, EarlyStopping, Trainer
from nnkernels.nn.interrupts import deferred
from nnkernels.program import Interpreter

EPOCHS, BATCH = 24, 5
STEPS = EPOCHS * 9
KEPT = ("parameters", "statistics", "moment1", "moment2")


class Recorder(Interpreter):
    """Notes what training goes on from after every step."""

    states: list[dict] = []

    def run(self, steps, stop=None):
        for done in range(steps):
            if super().run(1, stop) < 1:
                return done
            kept = self.state.snapshot()
            self.states.append({n: kept[n].tobytes() for n in KEPT})
        return steps


@pytest.fixture(scope="module")
def undisturbed(classes, rich_model):
    """States by number of steps, and the trainer, of a run that nobody disturbed."""
    states: list[dict] = []
    executor = type("Noting", (Recorder,), {"states": states})
    backend = replace(nnkernels.get_backend("numpy"), executor=executor)
    trainer = Trainer(rich_model(), "adam", backend=backend, schedule="cosine")
    kept = trainer.state.snapshot()
    states.append({n: kept[n].tobytes() for n in KEPT})
    trainer.fit(*classes, epochs=EPOCHS, batch_size=BATCH, progress=False)
    assert len(states) == STEPS + 1
    return states, trainer


@pytest.fixture
def alarm():
    """``alarm(seconds, signal)`` sends this process a signal some time later."""
    sent = []

    def arm(seconds: float, number: int) -> None:
        def send(*_):
            sent.append(number)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGALRM, send)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.getsignal(signal.SIGALRM)
    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def fit(trainer, data):
    left = EPOCHS - trainer.epoch
    return trainer.fit(*data, epochs=left, batch_size=BATCH, progress=False)


def seconds(trainer, data) -> float:
    started = time.perf_counter()
    fit(trainer, data)
    return time.perf_counter() - started


def interrupt_somewhere(times, seed, alarm, undisturbed, make, data, tmp_path, same):
    """Interrupt ``times`` trainings at random; returns how many were hit inside."""
    states, whole = undisturbed
    chance, hits = random.Random(seed), 0
    duration = min(seconds(make(), data) for _ in range(3))  # what is shorter never ends first
    for number in range(times):
        trainer = make()
        which = chance.choice((signal.SIGINT, signal.SIGTERM))
        before = signal.signal(which, signal.SIG_IGN)
        try:
            alarm(chance.uniform(1e-4, duration), which)
            fit(trainer, data)
        except TrainingInterrupted as error:
            hits += 1
            assert error.signal == which
            assert trainer.history.stop_reason == signal.Signals(which).name
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(which, before)
        step = int(trainer.state.number("step"))
        kept = trainer.state.snapshot()
        assert {n: kept[n].tobytes() for n in KEPT} == states[step]
        assert len(trainer.history) == step // 9
        if number % 2:
            trainer.save(tmp_path / "cut.safetensors")
            trainer = Trainer.load(tmp_path / "cut.safetensors", backend="numpy")
        if trainer.epoch < EPOCHS:
            fit(trainer, data)
        same(trainer, whole)
        np.testing.assert_array_equal(trainer.history["loss"], whole.history["loss"])
    return hits


# The timer of these tests is the one that pytest-timeout would use.
THREAD_TIMEOUT = pytest.mark.timeout(300, method="thread")


@pytest.mark.parametrize(
    "times", [pytest.param(60), pytest.param(1000, marks=pytest.mark.slow)], ids=str
)
@THREAD_TIMEOUT
def test_a_signal_at_any_time_leaves_whole_steps(
    times, alarm, undisturbed, classes, rich_model, tmp_path, assert_same_state
):
    def make():
        return Trainer(rich_model(), "adam", backend="numpy", schedule="cosine")

    args = (alarm, undisturbed, make, classes, tmp_path, assert_same_state)
    assert interrupt_somewhere(times, times, *args) > times // 3


class SignalAt(Callback):
    """Sends a signal when a hook is called."""

    def __init__(self, hook: str, number: int = signal.SIGINT) -> None:
        self.hook, self.number = hook, number

    def train_begin(self, trainer, epochs):
        self._send("train_begin")

    def epoch_end(self, trainer, record):
        self._send("epoch_end")

    def train_end(self, trainer):
        self._send("train_end")

    def _send(self, hook):
        if hook == self.hook:
            self.hook = ""
            os.kill(os.getpid(), self.number)


@pytest.fixture
def trainer(rich_model) -> Trainer:
    return Trainer(rich_model(), "adam")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_callback_ends_training_after_the_epoch(trainer, classes, number):
    with pytest.raises(TrainingInterrupted, match="after step 9") as caught:
        trainer.fit(*classes, epochs=3, batch_size=5, callbacks=[SignalAt("epoch_end", number)])
    assert caught.value.signal == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert len(trainer.history) == 1


def test_a_signal_before_the_first_step_trains_nothing(trainer, classes):
    before = trainer.weights()
    with pytest.raises(TrainingInterrupted, match="after step 0"):
        trainer.fit(*classes, epochs=3, batch_size=5, callbacks=[SignalAt("train_begin")])
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_signal_after_the_last_epoch_is_not_lost(trainer, classes):
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*classes, epochs=1, batch_size=5, callbacks=[SignalAt("train_end")])
    assert len(trainer.history) == 1


def test_a_signal_that_comes_with_early_stopping_is_not_lost(trainer, classes):
    class Stop(Callback):
        def epoch_end(self, trainer, record):
            return True

    with pytest.raises(TrainingInterrupted):
        hooks = [SignalAt("epoch_end"), Stop()]
        trainer.fit(*classes, epochs=3, batch_size=5, callbacks=hooks)


def test_early_stopping_keeps_the_place_of_an_interrupted_training(trainer, classes):
    """The first epoch is the best by far, but what comes back is where the signal struck."""
    weights = []

    class Worse(Callback):
        def epoch_end(self, trainer, record):
            record.values["loss"] = float(record.epoch)
            weights.append(trainer.state.get("linear0.weight"))
            if record.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)

    hooks = [Worse(), EarlyStopping("loss", patience=10)]
    with pytest.raises(TrainingInterrupted):
        trainer.fit(*classes, epochs=9, batch_size=5, callbacks=hooks)
    assert len(weights) == 3
    np.testing.assert_array_equal(trainer.state.get("linear0.weight"), weights[2])


def test_a_checkpoint_of_the_last_step_is_written(trainer, classes, tmp_path, assert_same_state):
    path = tmp_path / "run.safetensors"
    hooks = [Checkpoint(path, every=100), SignalAt("epoch_end")]
    with pytest.raises(TrainingInterrupted):
        trainer.fit(*classes, epochs=3, batch_size=5, callbacks=hooks)
    assert_same_state(Trainer.load(path), trainer)


def test_an_epoch_goes_on_with_its_own_settings_only(trainer, classes):
    trainer.fit(*classes, epochs=1, batch_size=5, progress=False)
    trainer.state.set("epoch_step", 2)
    for settings in ({"batch_size": 4}, {"batch_size": 5, "shuffle": False}):
        with pytest.raises(ValueError, match="inside an epoch"):
            trainer.fit(*classes, **settings)


def test_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with deferred() as pending:
        os.kill(os.getpid(), signal.SIGTERM)
        assert pending.name == "SIGTERM"
        pending.answered = True
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_closed_terminal_does_not_matter_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred() as pending:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not pending
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_unanswered_signal_is_raised_again():
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_defer_nothing():
    handlers = []

    def look():
        with deferred() as pending:
            handlers.append((signal.getsignal(signal.SIGINT), bool(pending)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(20)
    assert handlers == [(signal.getsignal(signal.SIGINT), False)]
