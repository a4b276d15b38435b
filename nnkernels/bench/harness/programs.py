"""Programs of nnkernels on consecutive batches: what training steps and inference share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import nnkernels.nn
import nnkernels.program

from .networks import Network
from .queued import Queued, Timed
from .workload import Runner


def model_of(network: Network, initial: Sequence[tuple[Any, Any]]) -> Any:
    """The network as an nnkernels model, with weight and bias of every layer."""
    model = nnkernels.nn.MLP(
        list(network.layers),
        activation=network.activation,
        output_activation=network.output_activation,
        loss=network.loss,
    )
    for kind, values in (("weight", 0), ("bias", 1)):
        names = [name for name in model.parameters if name.endswith(kind)]
        pairs = zip(names, initial, strict=True)
        model.set_parameters({name: layer[values] for name, layer in pairs})
    return model


def optimizer_of(network: Network) -> Any:
    """The network's optimizer."""
    if network.optimizer == "adam":
        return nnkernels.nn.Adam(network.learning_rate)
    momentum = 0.9 if network.optimizer == "momentum" else 0.0
    return nnkernels.nn.SGD(network.learning_rate, momentum=momentum)


class ProgramRunner:
    """A Program on a State, bound on a backend, and run batch after batch."""

    note: str | None = None

    def __init__(
        self,
        network: Network,
        checked: int,
        backend: Any,
        model: Any,
        program: Any,
        travelling: Callable[[], Runner],
    ) -> None:
        self.checked = checked
        self._network, self._backend = network, backend
        self._state = nnkernels.program.State(program.layout, backend.device)
        for name, values in model.parameters.items():
            self._state.set(name, values)
        self._state.set("schedule", np.full(1, network.learning_rate))
        self._start = self._state.snapshot()
        self._executable = backend.bind(program, self._state)
        self._queue: Any = getattr(backend.device, "queue", None)
        timed = self._queue is not None and hasattr(self._executable, "timed")
        self.queued = Queued(self._time, travelling) if timed else None

    def reset(self) -> None:
        """Put back the State of the start."""
        self._state.restore(self._start)

    def run(self, loops: int) -> None:
        """Run ``loops`` steps, from the first batch again after the last."""
        while loops:
            steps = min(loops, self._steps_left())
            if self._executable.run(steps) != steps:
                raise self._diverged()
            loops -= steps
        self._backend.device.synchronize()

    def _steps_left(self) -> int:
        """Steps up to the end of the data, at which it starts over."""
        batch = self._network.batch
        batches, done = self._network.rows // batch, int(self._state.number("row")) // batch
        if done == batches:
            self._state.set("row", 0)
            done = 0
        return batches - done

    def _diverged(self) -> ArithmeticError:
        return ArithmeticError(f"{self._network.name}: the loss is not finite")

    def _time(self, loops: int, cold: bool) -> Timed:
        """Time ``loops`` steps, in as few queues as the data allow; cold, in one each."""
        seconds = queued = 0.0
        done, graph = 0, True
        while done < loops:
            if cold:
                self._queue.flush()
            found = self._executable.timed(min(1 if cold else loops - done, self._steps_left()))
            if not found.steps:
                raise self._diverged()
            done, graph = done + found.steps, graph and found.graph
            seconds, queued = seconds + found.seconds, queued + found.queued
        return Timed(seconds / done, queued / done, graph)
