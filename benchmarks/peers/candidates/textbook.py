"""NumPy code as the textbooks write it, in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.peers.problem import Problem
from nnkernels.bench.harness.textbook import TextbookNetwork


class Textbook:
    """The textbook's network, a batch at a time."""

    def __init__(self, problem: Problem, threads: int) -> None:
        threadpool_limits(threads)
        self._problem, self._next = problem, 0
        self._network = TextbookNetwork(problem.network, problem.initial)

    def run(self, steps: int) -> None:
        """Take each batch and train on it."""
        data = self._problem.data
        with np.errstate(all="ignore"):
            for number in range(self._next, self._next + steps):
                rows = self._problem.rows(number)
                self._network.step(data.x[rows], data.y[rows])
        self._next += steps

    def outputs(self) -> list[Any]:
        """Weights, then biases."""
        return [*self._network.weights, *self._network.biases]
