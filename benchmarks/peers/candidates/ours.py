"""nnkernels: the training Program of an MLP on one of its backends."""

from __future__ import annotations

from typing import Any

import numpy as np

import nnkernels
from benchmarks.peers.problem import Problem
from nnkernels.bench.harness.programs import model_of, optimizer_of
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import State


class Ours:
    """What ``Trainer.fit`` binds and runs, without its bookkeeping between epochs."""

    def __init__(self, problem: Problem, threads: int, backend: str) -> None:
        network = problem.network
        self._batch, self._cycle = network.batch, problem.cycle
        chosen = nnkernels.get_backend(backend, threads=threads)
        model = model_of(network, problem.initial)
        shuffled = problem.order is not None
        step = Step(
            optimizer_of(network),
            labels=network.takes_labels,
            gather=len(problem.data.x) if shuffled else None,
        )
        program = train_program(model, network.batch, step)
        self._state = State(program.layout, chosen.device)
        for name, values in model.parameters.items():
            self._state.set(name, values)
        self.set_rate(network.learning_rate)
        kinds = ("weight", "bias")
        self._names = [n for kind in kinds for n in model.parameters if n.endswith(kind)]
        self._start = self._state.snapshot()
        self._executable = chosen.bind(program, self._state)
        order = {"order": problem.order.reshape(-1)} if shuffled else {}
        self._executable.feed(x=problem.data.x, y=problem.targets, **order)

    def run(self, steps: int) -> None:
        """Train in as few calls as there are passes over the batches."""
        while steps:
            done = int(self._state.number("row")) // self._batch
            if done == self._cycle:
                self._state.set("row", 0)
                done = 0
            asked = min(steps, self._cycle - done)
            if self._executable.run(asked) != asked:
                raise ArithmeticError("the loss is not finite")
            steps -= asked

    def outputs(self) -> list[Any]:
        """Weights, then biases."""
        return [self._state.get(name) for name in self._names]

    def reset(self) -> None:
        """Put back the State of the start."""
        self._state.restore(self._start)

    def set_rate(self, rate: float) -> None:
        """Fill the schedule, which has one entry."""
        self._state.set("schedule", np.full(1, rate))
