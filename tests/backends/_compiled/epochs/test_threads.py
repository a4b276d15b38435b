"""Threads: the same bits for any number of them, and nothing that two users of them share."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nnkernels.errors import ProgramError
from nnkernels.nn import Trainer
from nnkernels.nn.layers import activation_names
from nnkernels.nn.optimizers import OPTIMIZERS
from nnkernels.spec import get_op

ROWS = 97
needs_tiles = pytest.mark.usefixtures("needs_tiles")


def random_case(case, seed):
    """Layers of odd and even, narrow and wide sizes, of everything that takes sums over rows."""
    chance = random.Random(seed)
    widths = [chance.choice([1, 2, 5, 16, 17, 40, 130]) for _ in range(chance.randint(2, 4))]
    activations = [chance.choice(activation_names()) for _ in widths]
    options = {
        "activation": activations,
        "norm": chance.choice([None, "batch", "layer"]),
        "dropout": chance.choice([0.0, 0.25]),
        "l2": chance.choice([0.0, 1e-3]),
        "loss": chance.choice(["softmax_cross_entropy", "mse", "huber"]),
    }
    limits = {"clip_norm": chance.choice([None, 0.5]), "clip_value": chance.choice([None, 0.1])}
    optimizer = chance.choice(sorted(OPTIMIZERS))
    return case([chance.choice([3, 20, 70]), *widths, 3], options, optimizer, limits)


@needs_tiles
@pytest.mark.parametrize("batch", [1, 16, 33])
@pytest.mark.parametrize(
    "seed",
    [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60))],
)
def test_the_same_bits_for_any_number_of_threads(
    seed, batch, compiled, pinned, case, assert_same_bits
):
    chosen, dtype = random_case(case, seed), ("float32", "float64")[seed % 2]
    _, want = chosen.train(pinned(compiled, 1), dtype, rows=ROWS, batch=batch)
    for threads in (2, 3, 5):
        backend = pinned(compiled, threads, chunk=ROWS // batch)
        _, got = chosen.train(backend, dtype, rows=ROWS, batch=batch)
        assert_same_bits(got, want)


@needs_tiles
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "mse"])
def test_a_batch_of_one_row_and_weights_of_one_element(
    loss, batch, threads, compiled, pinned, case, assert_same_bits
):
    """What a single thread computes reaches all of them, be it one number only."""
    chosen = case([1, 1, 1, 3], {"activation": "tanh", "loss": loss}, "adam", {"clip_norm": 0.5})
    _, want = chosen.train(pinned(compiled, 1), rows=17, batch=batch)
    _, got = chosen.train(pinned(compiled, threads), rows=17, batch=batch)
    assert_same_bits(got, want)


@pytest.fixture
def long_run(compiled, pinned, case):
    """An executable that is fed and has a great many steps before it, on two threads."""
    chosen = case([5, 30, 3], {})
    trainer = Trainer(chosen.model("float32"), backend=pinned(compiled, 2, 20))
    program = trainer.step_program(16, shuffle=False)
    executable = trainer.backend.bind(program, trainer.state)
    x, y = chosen.data(1 << 20, "float32")
    executable.feed(x=x.astype(np.float32), y=y)
    return executable


@pytest.mark.parametrize("call", ["run", "profile"])
def test_a_second_thread_is_refused_and_harms_nothing(call, long_run):
    inside, over = threading.Event(), threading.Event()

    def stop():
        inside.set()
        return over.is_set()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(long_run.run, 1 << 16, stop)
        try:
            assert inside.wait(60)
            with pytest.raises(ProgramError, match="already running"):
                getattr(long_run, call)(1)
        finally:
            over.set()
        assert first.result(60) > 0
    assert long_run.run(2) == 2


def test_two_executables_at_once(compiled, pinned, case, assert_same_bits):
    chosen = case([5, 60, 3], {"dropout": 0.2}, "adam")
    backend = pinned(compiled, 2)
    _, want = chosen.train(backend, rows=97, batch=16)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(chosen.train, backend, rows=97, batch=16) for _ in range(8)]
        for run in runs:
            assert_same_bits(run.result(120)[1], want)


EAGER = {
    "relu": ((70, 30),),
    "softmax": ((70, 30),),
    "matmul": ((70, 30), (30, 20)),
    "linear": ((70, 30), (30, 20), (20,)),
    "layer_norm": ((70, 30), (30,), (30,)),
}


@pytest.mark.parametrize("name", EAGER)
def test_calls_by_eight_threads_equal_serial_ones(name, compiled):
    rng = np.random.default_rng(1)
    first, *others = EAGER[name]
    shapes = [[(first[0] + more, *first[1:]), *others] for more in range(8)]
    sets = [[rng.normal(size=shape) for shape in each] for each in shapes]
    op = get_op(name)

    def bits(arrays):
        results = op.on(compiled, *arrays)
        return [r.tobytes() for r in (results if isinstance(results, tuple) else (results,))]

    want = [bits(arrays) for arrays in sets]
    start = threading.Barrier(8)

    def work(number):
        start.wait(60)
        return all(bits(sets[(number + k) % 8]) == want[(number + k) % 8] for k in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


class Refusing:
    """A pool of threads that takes so many calls, and is then interrupted."""

    def __init__(self, pool, calls):
        self.pool, self.left = pool, calls

    def submit(self, *args):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.pool.submit(*args)


@pytest.mark.parametrize("started", [0, 1, 2])
def test_a_crew_that_is_interrupted_leaves_nobody_waiting(
    started, compiled, pinned, case, monkeypatch
):
    """Ctrl-C while threads are started, or when all are: those inside come out again."""
    chosen = case([5, 40, 3], {})
    trainer = Trainer(chosen.model("float32"), backend=pinned(compiled, 3))
    executable = trainer.backend.bind(trainer.step_program(16, shuffle=False), trainer.state)
    x, y = chosen.data(96, "float32")
    executable.feed(x=x.astype(np.float32), y=y)
    crew = executable._crews[3]
    pool = crew._workers()
    before = trainer.state.snapshot()

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(crew, "_workers", lambda: Refusing(pool, started))
        patch.setattr(crew, "_calls", [interrupted, *crew._calls[1:]])
        executable.run(3)
    after = trainer.state.snapshot()
    assert all(after[n].tobytes() == before[n].tobytes() for n in ("parameters", "counters"))
    assert executable.run(6) == 6
    assert trainer.state.number("step") == 6
    pool.shutdown(wait=True)


def test_workers_that_left_come_back(compiled, pinned, case):
    """After more than a worker's patience without work, and again at once."""
    chosen = case([5, 40, 3], {})
    trainer = Trainer(chosen.model("float32"), backend=pinned(compiled, 3))
    executable = trainer.backend.bind(trainer.step_program(16, shuffle=False), trainer.state)
    x, y = chosen.data(96, "float32")
    executable.feed(x=x.astype(np.float32), y=y)
    for pause in (0.0, 0.02, 0.0, 0.002, 0.05):
        trainer.state.set("row", 0)
        assert executable.run(6) == 6
        time.sleep(pause)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_deadline_ends_a_run_of_steps_with_a_whole_one(threads, compiled, pinned, case):
    chosen = case([5, 40, 3], {})
    trainer = Trainer(chosen.model("float32"), backend=pinned(compiled, threads))
    executable = trainer.backend.bind(trainer.step_program(16, shuffle=True), trainer.state)
    x, y = chosen.data(16, "float32")
    steps = 200_000
    executable.feed(x=x.astype(np.float32), y=y, order=np.tile(np.arange(16), steps))
    crew = executable._crews[threads]
    crew.prologue()
    assert 1 <= crew.run(steps, 0.02) < steps
    done = trainer.state.number("step")
    assert crew.run(3, 60.0) == 3
    assert trainer.state.number("step") == done + 3
