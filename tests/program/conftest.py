"""What the tests of Programs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import nnkernels
from nnkernels.program import Builder, Program, State, differentiate
from nnkernels.spec import get_op


@pytest.fixture(scope="session")
def numpy_backend() -> nnkernels.Backend:
    return nnkernels.get_backend("numpy")


def _evaluate(program: Program, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """All slots by name, computed by the references with separate memory for everything."""
    values = {i: np.full(s.shape, s.value) for i, s in enumerate(program.slots) if s.value}
    values |= {i: arrays[s.name] for i, s in enumerate(program.slots) if s.name in arrays}
    for instruction in program.instructions:
        op = get_op(instruction.op)
        results = op.evaluate(*(values[i] for i in instruction.inputs), **instruction.params)
        updated = [instruction.inputs[op.inputs.index(name)] for name in op.updates]
        for slot, result in zip((*instruction.outputs, *updated), results, strict=True):
            if slot is not None:
                values[slot] = result
    return {program.slots[i].name: v for i, v in values.items()}


@pytest.fixture(scope="session")
def evaluate() -> Callable[[Program, Mapping[str, Any]], dict[str, Any]]:
    return _evaluate


class Graph:
    """A scalar function of parameters, lowered with its gradients and bound to a backend."""

    def __init__(
        self, make: Callable[[Builder], int], backend: Any, dtype: str = "float64"
    ) -> None:
        builder = Builder(1, dtype)
        loss = make(builder)
        differentiate(builder, loss)
        self.program = builder.program(loss=loss)
        self.state = State(self.program.layout, backend.device)
        rng = np.random.default_rng(5)
        self.names = [e.name for e in self.program.layout.entries if e.buffer == "parameters"]
        for name in self.names:
            self.state.set(name, rng.normal(size=self.state.view(name).shape))
        self.run = backend.bind(self.program, self.state)

    def loss(self) -> float:
        self.run.run(1)
        return float(self.run.fetch("loss"))

    def gradients(self) -> dict[str, Any]:
        self.run.run(1)
        return {n: self.state.get(f"{n}.gradient") for n in self.names}

    def numerical(self, name: str, step: float = 1e-6) -> Any:
        """Central differences."""
        value = self.state.view(name)
        slope = np.empty_like(value)
        for at in np.ndindex(value.shape):
            old = value[at].copy()
            value[at] = old + step
            above = self.loss()
            value[at] = old - step
            slope[at] = (above - self.loss()) / (2 * step)
            value[at] = old
        return slope


@pytest.fixture(scope="session")
def graph() -> type[Graph]:
    return Graph
