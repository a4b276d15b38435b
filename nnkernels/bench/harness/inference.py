"""Inference as workloads: predictions of the measured networks, batch after batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

import nnkernels.nn.lowering

from .networks import NETWORKS, Network, draw_data, draw_weights
from .programs import ProgramRunner, model_of
from .textbook import TEXTBOOK, TextbookNetwork
from .workload import Agreement, Case, Cost, Preset, Runner

TOLERANCE = 2e-5
"""Largest error of a batch's predictions in the norm, relative to it, in float32.

Correct code stays below 2e-7; a plain loop over the 4096 terms of W3's sums is allowed too.
"""

CHECKED = 2
"""Batches that are compared with the reference."""


def cases(preset: Preset) -> list[Case]:
    """Inference of every network at the sizes of ``preset``."""
    return [_case(network) for network in NETWORKS[preset]]


def _case(network: Network) -> Case:
    return Case(
        workload="predict",
        size=network.size,
        params={
            "network": network.name,
            "layers": "-".join(map(str, network.layers)),
            "batch": network.batch,
            "rows": network.rows,
        },
        dtype="float32",
        tags=("inference",),
        cost=_cost(network),
        rate="item",
        make=functools.partial(PredictionProblem, network),
        baselines=(TEXTBOOK,),
    )


def _cost(network: Network) -> Cost:
    """2 flops a weight and sample; weights and the batch are read, predictions written."""
    ends = network.layers[0] + network.layers[-1]
    numbers = network.weights + sum(network.layers[1:]) + network.batch * ends
    return Cost(2.0 * network.batch * network.weights, 4.0 * numbers, network.batch)


class PredictionProblem:
    """A network's data and weights, and what it predicts."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.x = draw_data(network).x
        self.initial = draw_weights(network)

    @functools.cached_property
    def expected(self) -> Any:
        """Predictions of the checked batches by the textbook's code in float64."""
        network = TextbookNetwork(self.network, self.initial, np.float64)
        return np.stack([network.predict(self.batch(i, np.float64)) for i in range(CHECKED)])

    def batch(self, number: int, dtype: Any = np.float32) -> Any:
        """Features of batch ``number``, starting over at the end of the data."""
        size = self.network.batch
        start = number % (self.network.rows // size) * size
        return self.x[start : start + size].astype(dtype, copy=False)

    def runner(self, backend: Any) -> Runner:
        """The prediction as nnkernels computes it on ``backend``."""
        return PredictionRunner(self, backend)

    def baseline(self, name: str) -> Runner:
        """The textbook's code."""
        if name != TEXTBOOK:
            raise KeyError(name)
        return TextbookRunner(self)

    def agreement(self, found: Sequence[Any]) -> Agreement:
        """Compare the predictions of every checked batch with the reference."""
        (got,) = found
        errors = np.linalg.norm((got - self.expected).reshape(CHECKED, -1), axis=1)
        worst = float(np.max(errors / np.linalg.norm(self.expected.reshape(CHECKED, -1), axis=1)))
        name = self.network.name
        if not np.isfinite(worst):
            return Agreement(False, None, TOLERANCE, f"{name}: predictions are not finite")
        ok = worst <= TOLERANCE
        reason = f"{name}: predictions differ from the float64 textbook by {worst:.2g}"
        return Agreement(ok, worst, TOLERANCE, None if ok else reason)


class PredictionRunner(ProgramRunner):
    """The prediction Program; its results are the rows of one array.

    Args:
        problem: the prediction.
        backend: where it runs.
        resident: whether data and results stay on the device; else every batch travels to it, and
            after a run the predictions that were made travel back.
    """

    def __init__(self, problem: PredictionProblem, backend: Any, resident: bool = True) -> None:
        network = problem.network
        model = model_of(network, problem.initial)
        program = nnkernels.nn.lowering.predict_program(model, network.batch, link=model.loss.link)
        travelling = functools.partial(PredictionRunner, problem, backend, resident=False)
        super().__init__(network, CHECKED, backend, model, program, travelling)
        self._resident = resident
        self._result = backend.device.empty((network.rows, network.layers[-1]), np.float32)
        x = backend.asarray(problem.x) if resident else problem.x
        self._executable.feed(x=x, prediction=self._result)

    def reset(self) -> None:
        """Go back to the first batch; nothing is predicted yet."""
        super().reset()
        self._result[...] = np.nan

    def run(self, loops: int) -> None:
        """Predict ``loops`` batches."""
        super().run(loops)
        if not self._resident:
            self._backend.to_numpy(self._result[: loops * self._network.batch])

    def outputs(self) -> list[Any]:
        """Predictions of the checked batches, stacked."""
        rows = self._backend.to_numpy(self._result[: CHECKED * self._network.batch])
        return [np.asarray(rows).reshape(CHECKED, self._network.batch, -1)]


class TextbookRunner:
    """The textbook's code in float32."""

    note: str | None = None
    checked = CHECKED

    def __init__(self, problem: PredictionProblem) -> None:
        self._problem = problem
        self._network = TextbookNetwork(problem.network, problem.initial)
        self.reset()

    def reset(self) -> None:
        """Go back to the first batch; nothing is predicted yet."""
        self._found: list[Any] = []
        self._next = 0

    def run(self, loops: int) -> None:
        """Predict ``loops`` batches."""
        with np.errstate(all="ignore"):
            for _ in range(loops):
                predicted = self._network.predict(self._problem.batch(self._next))
                self._next += 1
                if len(self._found) < CHECKED:
                    self._found.append(predicted)

    def outputs(self) -> list[Any]:
        """Predictions of the checked batches, stacked."""
        return [np.stack(self._found)]
