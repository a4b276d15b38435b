"""Processes: forks, other ways to start one, threads of Python, the end of the interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

DEADLINE_S = 120

TRAIN = """
import numpy as np
import nnkernels as nk
from nnkernels.nn import MLP, Trainer


def train(backend="{name}(threads=2)", epochs=2):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 20)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.int64)
    trainer = Trainer(MLP([20, 64, 2], activation="tanh", seed=1), "adam", backend=backend)
    trainer.fit(x, y, epochs=epochs, batch_size=40, progress=False)
    return float(trainer.history["loss"][-1])
"""


@pytest.fixture
def train(compiled) -> str:
    """A script's function that trains on two threads."""
    return TRAIN.replace("{name}", compiled.name)


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_script(script: str) -> str:
    return run("-W", "error", "-c", script)


def test_a_forked_child_trains_on_threads_of_its_own(train):
    script = (
        train
        + """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, from Python 3.12 on
want = train()
child = os.fork()
if child == 0:
    os._exit(0 if train() == want else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), train() == want)
"""
    )
    assert run_script(script) == "0 True"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_a_process(method, tmp_path, train):
    script = (
        train
        + f"""
import multiprocessing

if __name__ == "__main__":
    want = train()
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        print(pool.apply(train) == want)
"""
    )
    file = tmp_path / "trains.py"
    file.write_text(script)
    assert run(str(file)) == "True"


def test_the_interpreter_ends_while_a_daemon_trains(train):
    script = (
        train
        + """
import threading, time
train()
threading.Thread(target=train, kwargs={"epochs": 100_000}, daemon=True).start()
time.sleep(0.3)
print("ended")
"""
    )
    assert run_script(script) == "ended"


def test_a_thread_may_train(train):
    script = (
        train
        + """
from concurrent.futures import ThreadPoolExecutor
want = train()
with ThreadPoolExecutor(4) as pool:
    print(set(pool.map(lambda _: train(), range(8))) == {want})
"""
    )
    assert run_script(script) == "True"
