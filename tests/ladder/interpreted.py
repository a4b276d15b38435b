"""Runs trials in the PTX interpreter, on what NVRTC made of the kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from ladder.arrays import DeviceArray
from ladder.cases import Kernel
from ladder.compiling import module_to_ptx
from ladder.trials import Trial, multiply, parameters_of

from nnkernels.backends.cupy.launching import Launch, Product
from nnkernels.testing.ptx import Fault, Memory, Module, Statistics, run

ARCHITECTURE = 75
"""The oldest one: what it can do, all can."""

ALIGNMENT = 16

BUDGET = 200_000
"""Instructions of some blocks beyond which a loop is taken for endless."""


@functools.cache
def module(name: str, storage: str) -> Module:
    """A module of the package, parsed."""
    return Module(module_to_ptx(name, storage, ARCHITECTURE).ptx)


Find = Callable[[str, str], Module]
"""Gives a parsed module by its name and the storage type."""


class Places:
    """Where the arrays of a trial lie in the interpreter's memory.

    Inputs hold their values there, results and scratch hold nothing: to read them is a fault.
    """

    def __init__(self, trial: Trial) -> None:
        self.memory = Memory()
        self.found: list[tuple[DeviceArray, int]] = []
        for array, holds_values in trial.arrays:
            self._place(array, holds_values)

    def _place(self, array: DeviceArray, holds_values: bool) -> None:
        offset = array.data.ptr % ALIGNMENT
        address = self.memory.allocate(array.nbytes + offset) + offset
        self.found.append((array, address))
        if holds_values:
            self.push(array)

    def address(self, array: DeviceArray) -> int:
        """Where an array is, or a part of one."""
        for whole, address in self.found:
            ahead = array.data.ptr - whole.data.ptr
            if 0 <= ahead <= whole.nbytes - array.nbytes:
                return address + ahead
        raise ValueError(f"an argument of shape {array.shape} is no array of the trial")

    def push(self, array: DeviceArray) -> None:
        """Copy an array's values to the memory."""
        self.memory.write(self.address(array), array.tobytes())

    def pull(self, array: DeviceArray) -> None:
        """Copy the memory's values to an array."""
        data = self.memory.read(self.address(array), array.nbytes)
        array[...] = np.frombuffer(data, array.dtype).reshape(array.shape)


class Interpreter:
    """Runs trials.

    Args:
        find: gives a parsed module by name and storage type.
        seed: of the order of the blocks, and of the noise on approximate instructions.
        counted: gets what the launches do, by module and name of the kernel, if given.
    """

    def __init__(
        self,
        find: Find = module,
        seed: int = 0,
        counted: dict[Kernel, Statistics] | None = None,
    ) -> None:
        self.find, self.seed, self.counted = find, seed, counted

    def run(self, trial: Trial) -> str:
        """Run all launches; a fault, or nothing."""
        places = Places(trial)
        try:
            for item in trial.launches:
                if isinstance(item, Product):
                    self._multiply(places, item)
                else:
                    self._launch(places, item)
        except Fault as fault:
            return str(fault)
        for array, _ in places.found:
            places.pull(array)
        return ""

    def _launch(self, places: Places, launch: Launch) -> None:
        kernel = self.find(launch.module, launch.storage)[launch.kernel]
        arguments: list[Any] = [
            (0 if value is None else places.address(value)) if parameter.pointer else value
            for parameter, value in parameters_of(launch)
        ]
        statistics = None
        if self.counted is not None:
            statistics = self.counted.setdefault((launch.module, launch.kernel), Statistics())
        run(
            kernel,
            places.memory,
            launch.grid,
            launch.block,
            arguments,
            order=self.seed or None,
            noise=self._noise(launch.storage),
            statistics=statistics,
            budget=BUDGET,
        )

    def _noise(self, storage: str) -> np.random.Generator | None:
        # Those in float64 are seeds of Newton's method, of fewer bits than their last place says.
        return np.random.default_rng(self.seed) if self.seed and storage != "float64" else None

    def _multiply(self, places: Places, product: Product) -> None:
        places.pull(product.a)
        places.pull(product.b)
        multiply(product)
        places.push(product.out)
