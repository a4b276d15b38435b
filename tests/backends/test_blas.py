from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import nnkernels
from nnkernels.backend import Backend, Kernel
from nnkernels.backends._blas import THREADED_FLOPS, blas_threads, default_threads
from nnkernels.backends._host import HOST
from nnkernels.errors import InputError
from nnkernels.nn import MLP, Trainer
from nnkernels.nn.lowering import Step, train_program
from nnkernels.nn.optimizers import SGD
from nnkernels.program import Interpreter


def blas() -> list[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]


@pytest.fixture
def seen() -> list[list[int]]:
    return []


@pytest.fixture
def spying(seen: list[list[int]]) -> Backend:
    def relu(x, *, out):
        seen.append(blas())
        np.maximum(x, 0, out=out)

    return nnkernels.get_backend("numpy").replace(relu=Kernel(relu))


def test_a_limit_is_given_back() -> None:
    before = blas()
    with blas_threads(1):
        assert set(blas()) == {1}
    assert blas() == before


def test_overlapping_holders_in_two_threads_restore_the_setting() -> None:
    before, inside, leave = blas(), threading.Event(), threading.Event()

    def other() -> None:
        with blas_threads(1):
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with blas_threads(1):
        thread.start()
        assert inside.wait(30)
    assert set(blas()) == {1}
    leave.set()
    thread.join(30)
    assert blas() == before


def test_threads_hold_for_single_calls_and_bound_ones(spying, seen) -> None:
    x = np.ones((2, 2))
    one = spying.configure(threads=1)
    one.relu(x)
    nnkernels.bind("relu", x, backend=one)()
    assert seen == [[1] * len(blas())] * 2


def test_threads_hold_while_a_program_runs(spying, seen) -> None:
    trainer = Trainer(MLP([2, 3, 1], loss="mse"), backend=spying.configure(threads=1))
    trainer.fit(np.ones((4, 2)), np.ones(4), batch_size=4)
    assert {n for call in seen for n in call} == {1}


def test_a_program_of_small_products_takes_one_thread(spying, seen) -> None:
    trainer = Trainer(MLP([2, 3, 1], loss="mse"), backend=spying)
    trainer.fit(np.ones((4, 2)), np.ones(4), batch_size=4)
    assert {n for call in seen for n in call} == {1}


@pytest.mark.parametrize(("width", "threads"), [(64, 1), (8192, None)])
def test_the_rule(width: int, threads: int | None) -> None:
    program = train_program(MLP([width, 1000, 10]), 64, Step(SGD(), labels=True))
    assert 2 * 64 * width * 1000 * (threads is None) >= THREADED_FLOPS * (threads is None)
    assert default_threads(program) == threads


def test_a_backend_without_threads_says_so() -> None:
    with pytest.raises(InputError, match="no threads to set"):
        Backend("plain", HOST, {}, Interpreter).configure(threads=1)
