"""PyTorch on the CPU: eager, or with its compiler over the forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.peers.problem import Problem
from nnkernels.bench.harness.networks import Network

_ACTIVATIONS = {"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


class PyTorch:
    """The training loop of PyTorch's tutorials, with the fused optimizers."""

    def __init__(self, problem: Problem, threads: int, compiled: bool) -> None:
        torch.set_num_threads(threads)
        self._problem = problem
        self._layers = [torch.nn.Linear(*weight.shape) for weight, _ in problem.initial]
        self._model = _model(problem.network, self._layers)
        self._x = torch.from_numpy(problem.data.x)
        self._y = torch.from_numpy(problem.targets)
        self._order = None if problem.order is None else torch.from_numpy(problem.order)
        loss = _loss(problem.network)

        def forward(x: Any, y: Any) -> Any:
            return loss(self._model(x), y)

        self._forward = torch.compile(forward) if compiled else forward
        self.reset()

    def reset(self) -> None:
        """Initial weights and a new optimizer."""
        with torch.no_grad():
            for layer, (weight, bias) in zip(self._layers, self._problem.initial, strict=True):
                layer.weight.copy_(torch.from_numpy(weight.T))
                layer.bias.copy_(torch.from_numpy(bias))
        self._optimizer = _optimizer(self._problem.network, self._model)
        self._next = 0

    def set_rate(self, rate: float) -> None:
        """Of every parameter group."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def run(self, steps: int) -> None:
        """Train step by step; every loss is computed, the last one is read."""
        loss: Any = None
        for number in range(self._next, self._next + steps):
            x, y = self._take(number)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._forward(x, y)
            loss.backward()
            self._optimizer.step()
        loss.detach().item()
        self._next += steps

    def _take(self, number: int) -> tuple[Any, Any]:
        if self._order is None:
            rows = self._problem.rows(number)
            return self._x[rows], self._y[rows]
        rows = self._order[number % len(self._order)]
        return self._x.index_select(0, rows), self._y.index_select(0, rows)

    def outputs(self) -> list[Any]:
        """Weights, then biases."""
        weights = [layer.weight.detach().numpy().T for layer in self._layers]
        return [*weights, *(layer.bias.detach().numpy() for layer in self._layers)]


def _model(network: Network, layers: list[Any]) -> Any:
    parts = []
    for layer in layers:
        parts += [layer, _ACTIVATIONS[network.activation]()]
    if network.output_activation is None:
        parts.pop()
    return torch.nn.Sequential(*parts)


def _loss(network: Network) -> Callable[[Any, Any], Any]:
    if network.loss == "softmax_cross_entropy":
        return functional.cross_entropy
    if network.loss == "mse":
        return functional.mse_loss
    return lambda a, y: functional.mse_loss(a, y, reduction="sum") / network.batch


def _optimizer(network: Network, model: Any) -> Any:
    rate = network.learning_rate
    if network.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    momentum = 0.9 if network.optimizer == "momentum" else 0.0
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, fused=True)
