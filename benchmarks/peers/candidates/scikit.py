"""scikit-learn's multilayer perceptrons, through ``partial_fit``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from benchmarks.peers.candidates import Unable
from benchmarks.peers.problem import Problem
from nnkernels.bench.harness.networks import Network

GATHERED = 64
"""Batches of a call where they are gathered: few enough to stay in a cache, many for its checks."""

_ACTIVATIONS = {"sigmoid": "logistic", "relu": "relu", "tanh": "tanh"}


class Scikit:
    """An estimator that gets many batches a call, which spreads the cost of checking its inputs."""

    def __init__(self, problem: Problem, threads: int) -> None:
        network = problem.network
        if network.output_activation is not None:
            raise Unable("it has no squared error behind a sigmoid output")
        threadpool_limits(threads)
        warnings.simplefilter("ignore", ConvergenceWarning)
        self._problem, self._next = problem, 0
        labels = network.takes_labels
        self._y = problem.data.labels if labels else problem.data.y.ravel()
        self._estimator = _estimator(network)
        classes = {"classes": np.arange(network.layers[-1])} if labels else {}
        rows = slice(0, network.batch)
        self._estimator.partial_fit(problem.data.x[rows], self._y[rows], **classes)
        self._start()

    def _start(self) -> None:
        """Replace the random weights, and drop the optimizer that has seen the first batch."""
        initial = self._problem.initial
        self._estimator.coefs_ = [weight.copy() for weight, _ in initial]
        self._estimator.intercepts_ = [bias.copy() for _, bias in initial]
        del self._estimator._optimizer

    def run(self, steps: int) -> None:
        """Train on as many batches a call as come in one piece."""
        while steps:
            place = self._next % self._problem.cycle
            count = min(steps, self._problem.cycle - place)
            if self._problem.order is not None:
                count = min(count, GATHERED)
            rows = self._rows(place, count)
            self._estimator.partial_fit(self._problem.data.x[rows], self._y[rows])
            self._next += count
            steps -= count

    def _rows(self, place: int, count: int) -> Any:
        if self._problem.order is not None:
            return self._problem.order[place : place + count].reshape(-1)
        batch = self._problem.network.batch
        return slice(place * batch, (place + count) * batch)

    def outputs(self) -> list[Any]:
        """Weights, then biases."""
        return [*self._estimator.coefs_, *self._estimator.intercepts_]


def _estimator(network: Network) -> Any:
    adam = network.optimizer == "adam"
    make = MLPRegressor if network.loss == "mse" else MLPClassifier
    return make(
        hidden_layer_sizes=network.layers[1:-1],
        activation=_ACTIVATIONS[network.activation],
        solver="adam" if adam else "sgd",
        batch_size=network.batch,
        learning_rate_init=network.learning_rate,
        momentum=0.9 if network.optimizer == "momentum" else 0.0,
        nesterovs_momentum=False,
        alpha=0.0,
        shuffle=False,
        epsilon=_epsilon(network),
    )


def _epsilon(network: Network) -> float:
    """Adam's epsilon of 1e-8 in this library's terms, exact in the first step.

    It adds epsilon before the bias correction, and its squared error is half of the usual one, with
    half the gradient.
    """
    scale = 0.5 if network.loss == "mse" else 1.0
    return float(scale * 1e-8 * np.sqrt(1 - 0.999))
