"""Programs of nnkernels on consecutive batches: what training steps and inference share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import nnkernels.nn
import nnkernels.program

from .networks import Network


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


class ProgramRunner:
    """A Program on a State, bound on a backend, and run batch after batch."""

    note: str | None = None

    def __init__(self, network: Network, checked: int, backend: Any, model: Any, program: Any):
        self.checked = checked
        self._network, self._backend = network, backend
        self._state = nnkernels.program.State(program.layout, backend.device)
        for name, values in model.parameters.items():
            self._state.set(name, values)
        self._state.set("schedule", np.full(1, network.learning_rate))
        self._start = self._state.snapshot()
        self._executable = backend.bind(program, self._state)

    def reset(self) -> None:
        """Put back the State of the start."""
        self._state.restore(self._start)

    def run(self, loops: int) -> None:
        """Run ``loops`` steps, from the first batch again after the last."""
        state, executable, batch = self._state, self._executable, self._network.batch
        batches = self._network.rows // batch
        while loops:
            done = int(state.number("row")) // batch
            if done == batches:
                state.set("row", 0)
                done = 0
            steps = min(loops, batches - done)
            if executable.run(steps) != steps:
                raise ArithmeticError(f"{self._network.name}: the loss is not finite")
            loops -= steps
        self._backend.device.synchronize()
