"""NPBench's functions, and nnkernels' operators at the same inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import nnkernels
from benchmarks.peers.npbench import load
from nnkernels.program import Builder, State


class Function:
    """A function from a file of the checkout."""

    def __init__(self, inputs: Sequence[Any], threads: int, file: str, function: str) -> None:
        warnings.simplefilter("ignore")  # its Numba forms warn of what they cannot run in parallel
        threadpool_limits(threads)
        self._inputs, self._function = inputs, load(Path(file), function)
        self._result: Any = None

    def run(self, steps: int) -> None:
        """Call it so many times."""
        with np.errstate(all="ignore"):
            for _ in range(steps):
                self._result = self._function(*self._inputs)

    def outputs(self) -> list[Any]:
        """The last result."""
        return [self._result]


class Operators:
    """``linear``, ``relu`` and ``softmax`` as a Program, which takes the arrays as they are."""

    def __init__(self, inputs: Sequence[Any], threads: int, backend: str, benchmark: str) -> None:
        chosen = nnkernels.get_backend(backend, threads=threads)
        x, *layers = inputs
        builder = Builder(rows=len(x), dtype=x.dtype.name)
        slot = builder.input("x", x.shape)
        arrays = {"x": x}
        for place, array in enumerate(layers):
            arrays[f"p{place}"] = array
        for place in range(0, len(layers), 2):
            names = (f"p{place}", f"p{place + 1}")
            weights = [builder.input(n, arrays[n].shape, window=False) for n in names]
            slot = builder.call("linear", slot, *weights)
            if place + 2 < len(layers):
                slot = builder.call("relu", slot)
        program = builder.program(result=builder.call("softmax", slot))
        self._executable = chosen.bind(program, State(program.layout, chosen.device))
        self._executable.feed(**arrays)

    def run(self, steps: int) -> None:
        """Run the Program so many times."""
        self._executable.run(steps)

    def outputs(self) -> list[Any]:
        """The last result."""
        return [self._executable.fetch("result")]
