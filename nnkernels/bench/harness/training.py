"""Training steps as workloads: forward, loss, backward, update, on consecutive batches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

import nnkernels.nn.lowering

from .networks import IN_GATE, NETWORKS, Data, Network, draw_data, draw_weights
from .programs import ProgramRunner, model_of, optimizer_of
from .textbook import TEXTBOOK, TextbookNetwork
from .workload import GATE, MAIN, Agreement, Case, Cost, Preset, Runner

TOLERANCE = 2e-4
"""Largest error of a tensor's change in the checked steps, relative to the change, in float32.

Correct code stays below 3e-5 (W2, whose Adam divides small gradients by their own size). Where
steps are small against the weights (W3), :func:`_rounding` allows what the format itself loses.
"""


def cases(preset: Preset) -> list[Case]:
    """The training steps at the sizes of ``preset``."""
    return [case_of(network) for network in NETWORKS[preset]]


def case_of(network: Network) -> Case:
    """A network's training step."""
    gate = (GATE,) if network.name in IN_GATE else ()
    return Case(
        workload=network.name,
        size=network.size,
        params={
            "layers": "-".join(map(str, network.layers)),
            "batch": network.batch,
            "rows": network.rows,
            "activation": network.activation,
            "loss": network.loss,
            "optimizer": network.optimizer,
        },
        dtype="float32",
        tags=("train", "mlp_step", network.loss, network.optimizer, MAIN, *gate),
        cost=_cost(network),
        rate="item",
        make=functools.partial(TrainingProblem, network),
        baselines=(TEXTBOOK,),
    )


def _cost(network: Network) -> Cost:
    """Flops of the products: 2 forward and 4 backward a weight and sample, the first layer 2 less.

    Traffic: weights read forward and backward, gradients written and read, weights and moments
    read and written, the batch read.
    """
    first = network.layers[0] * network.layers[1]
    moments = {"sgd": 0, "momentum": 1, "adam": 2}[network.optimizer]
    numbers = network.weights * (6 + 2 * moments) + network.batch * network.layers[0]
    return Cost(network.batch * (6.0 * network.weights - 2.0 * first), 4.0 * numbers, network.batch)


class TrainingProblem:
    """A network's data and initial weights, and what they are after the checked steps."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.data: Data = draw_data(network)
        self.initial = draw_weights(network)

    @functools.cached_property
    def expected(self) -> tuple[list[Any], float]:
        """Weights and biases, and the mean loss, of the textbook's code in float64."""
        network = TextbookNetwork(self.network, self.initial, np.float64)
        losses = [network.step(*self.batch(i, np.float64)) for i in range(self.network.checked)]
        return [*network.weights, *network.biases], float(np.mean(losses))

    def batch(self, number: int, dtype: Any = np.float32) -> tuple[Any, Any]:
        """Features and target rows of batch ``number``, starting over at the end of the data."""
        size = self.network.batch
        start = number % (self.network.rows // size) * size
        rows = slice(start, start + size)
        return self.data.x[rows].astype(dtype, copy=False), self.data.y[rows].astype(
            dtype, copy=False
        )

    def runner(self, backend: Any) -> Runner:
        """The training step as nnkernels runs it on ``backend``."""
        return TrainingRunner(self, backend)

    def baseline(self, name: str) -> Runner:
        """The textbook's code."""
        if name != TEXTBOOK:
            raise KeyError(name)
        return TextbookRunner(self)

    def agreement(self, found: Sequence[Any]) -> Agreement:
        """Compare weights, biases and the mean loss with the reference."""
        expected, expected_loss = self.expected
        *tensors, loss = found
        initial = [w for w, _ in self.initial] + [b for _, b in self.initial]
        triples = zip(tensors, expected, initial, strict=True)
        errors = [_change_error(*t, self.network.checked) for t in triples]
        errors.append(abs(float(loss) - expected_loss) / abs(expected_loss))
        worst = float(np.max(errors))
        if not np.isfinite(worst):
            return Agreement(False, None, TOLERANCE, f"{self.network.name}: weights are not finite")
        ok = worst <= TOLERANCE
        where = "the loss" if np.argmax(errors) == len(tensors) else "the weights"
        reason = f"{self.network.name}: {where} differ from the float64 textbook by {worst:.2g}"
        return Agreement(ok, worst, TOLERANCE, None if ok else reason)


def _change_error(got: Any, expected: Any, initial: Any, steps: int) -> float:
    """Error of the change of a tensor, relative to the change, beyond the format's own rounding."""
    change = np.linalg.norm(expected - initial)
    error = np.linalg.norm(got.astype(np.float64) - expected)
    excess = max(float(error) - _rounding(expected, steps), 0.0)
    return excess / float(change) if change else excess


def _rounding(weights: Any, steps: int) -> float:
    """What ``steps`` roundings of a float32 tensor do to it: half a unit each, in the norm."""
    return float(0.5 * steps * np.finfo(np.float32).eps * np.linalg.norm(weights))


class TrainingRunner(ProgramRunner):
    """The training step's Program.

    Args:
        problem: the step.
        backend: where it runs.
        resident: whether the data are on the device; else every batch travels to it. What a step
            brings back, its counters, travels in either case.
    """

    def __init__(self, problem: TrainingProblem, backend: Any, resident: bool = True) -> None:
        network = problem.network
        model = model_of(network, problem.initial)
        program = nnkernels.nn.lowering.train_program(model, network.batch, _step(problem))
        travelling = functools.partial(TrainingRunner, problem, backend, resident=False)
        super().__init__(network, network.checked, backend, model, program, travelling)
        self._names = [
            n for kind in ("weight", "bias") for n in model.parameters if n.endswith(kind)
        ]
        y = problem.data.labels if network.takes_labels else problem.data.y
        place = backend.asarray if resident else np.asarray
        self._executable.feed(x=place(problem.data.x), y=place(y))

    def outputs(self) -> list[Any]:
        """Weights after the checked steps, and the mean of the losses that every step added up."""
        rows = self._network.batch * self.checked
        loss = np.float64(self._state.number("loss_sum")) / rows
        return [*(self._state.get(name) for name in self._names), np.asarray(loss)]


def _step(problem: TrainingProblem) -> Any:
    network = problem.network
    return nnkernels.nn.lowering.Step(optimizer_of(network), labels=network.takes_labels)


class TextbookRunner:
    """The textbook's code in float32."""

    note: str | None = None

    def __init__(self, problem: TrainingProblem) -> None:
        self._problem = problem
        self.checked = problem.network.checked
        self.reset()

    def reset(self) -> None:
        """Start again from the initial weights."""
        self._network = TextbookNetwork(self._problem.network, self._problem.initial)
        self._losses: list[float] = []
        self._next = 0

    def run(self, loops: int) -> None:
        """Train ``loops`` steps."""
        with np.errstate(all="ignore"):
            for _ in range(loops):
                loss = self._network.step(*self._problem.batch(self._next))
                self._next += 1
                if len(self._losses) < self.checked:
                    self._losses.append(loss)

    def outputs(self) -> list[Any]:
        """Weights after the checked steps, and the mean of their losses."""
        loss = np.asarray(np.mean(self._losses))
        return [*self._network.weights, *self._network.biases, loss]
