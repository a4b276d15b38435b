"""Ctrl-C and SIGTERM in the middle of a long epoch of compiled code."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DEADLINE_S = 120

SCRIPT = """
import os, sys, threading, time
import numpy as np
from nnkernels.errors import TrainingInterrupted
from nnkernels.nn import MLP, Callback, Trainer

BATCH, STEPS, BACKEND, NUMBER = 5, 400_000, sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x = rng.standard_normal((BATCH * STEPS, 8), np.float32)
y = (x.sum(1) > 0).astype(np.int64)


def make():
    model = MLP([8, 32, 2], activation="tanh", dropout=0.1, seed=1)
    return Trainer(model, "adam", backend=BACKEND)


def bits(trainer):
    names = ("parameters", "moment1", "moment2", "counters", "scalars")
    return [trainer.state.snapshot()[name].tobytes() for name in names]


sent = []


def send():
    sent.append(time.perf_counter())
    os.kill(os.getpid(), NUMBER)


cut = make()

class Soon(Callback):
    def train_begin(self, trainer, epochs):
        threading.Timer(0.1, send).start()


try:
    cut.fit(x, y, batch_size=BATCH, shuffle=False, callbacks=[Soon()], progress=False)
    print("was not interrupted")
except TrainingInterrupted as error:
    waited = time.perf_counter() - sent[0]
    print(error.signal == NUMBER, waited < 5, end=" ")
done = int(cut.state.number("step"))
print(0 < done < STEPS, int(cut.state.number("epoch_step")) == done, end=" ")
cut.save(sys.argv[3])
resumed = Trainer.load(sys.argv[3], backend=BACKEND)


def reach(trainer, step):
    # Go on in the order of the data until so many steps are done.
    left = step - int(trainer.state.number("step"))
    program = trainer.step_program(BATCH, shuffle=False)
    executable = trainer.backend.bind(program, trainer.state)
    executable.feed(x=x, y=y)
    assert executable.run(left) == left
    return bits(trainer)


undisturbed = make()
for each in (undisturbed, resumed):
    each._make_room(STEPS)
    each.state.set("schedule", np.full(STEPS, 0.001))
print(reach(undisturbed, done) == bits(cut) == bits(resumed), end=" ")
print(reach(undisturbed, done + 50) == reach(resumed, done + 50))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_long_epoch_soon_after_a_whole_step(threads, number, compiled, tmp_path):
    """Training goes on from a checkpoint as if nothing had been."""
    backend = f"{compiled.name}(threads={threads})"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, backend, str(int(number)), str(tmp_path / "cut")],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 6, done.stdout
