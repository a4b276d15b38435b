"""Rates of the device, by events: copying, multiplying, training steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.backend import Backend, frozen
from nnkernels.backends.cupy.device import gpu_of
from nnkernels.backends.cupy.launching import Product
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import Step, train_program
from nnkernels.program import State

REPEATS = 9


def seconds(cp: Any, work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median seconds of ``work`` on the current stream, after one run that does not count."""
    work()
    taken: list[float] = []
    for _ in range(repeats):
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        taken.append(cp.cuda.get_elapsed_time(start, stop) / 1e3)
    return statistics.median(taken)


def copy_bandwidth(backend: Backend, nbytes: int) -> float:
    """Bytes read and written per second by the kernel that copies an array."""
    cp = gpu_of(backend).cp
    source = backend.asarray(np.zeros(nbytes // 4, np.float32))
    target = backend.asarray(np.zeros(nbytes // 4, np.float32))
    copy = frozen(backend.kernels["identity"].function, [source], {"out": target})
    return 2 * nbytes / seconds(cp, copy)


def product_rate(backend: Backend, size: int, precision: str) -> float:
    """Flops per second of a product of square float32 matrices."""
    gpu = gpu_of(backend)
    a, b, out = (backend.asarray(np.ones((size, size), np.float32)) for _ in range(3))
    multiply = gpu.prepare(Product(a, b, out), precision)
    return 2.0 * size**3 / seconds(gpu.cp, multiply)


def step_seconds(backend: Backend, layers: tuple[int, ...], batch: int, steps: int) -> float:
    """Seconds of one training step with Adam, over ``steps`` steps of one run."""
    model = MLP(list(layers), activation="relu", loss="softmax_cross_entropy")
    program = train_program(model, batch, Step(Adam(1e-3), labels=True))
    state = State(program.layout, backend.device)
    for name, values in model.parameters.items():
        state.set(name, values)
    draw = np.random.default_rng(1)
    executable = backend.bind(program, state)
    executable.feed(
        x=backend.asarray(draw.random((batch * steps, layers[0]), np.float32)),
        y=backend.asarray(draw.integers(0, layers[-1], batch * steps)),
    )

    def run() -> None:
        state.set("row", 0)
        executable.run(steps)

    return seconds(gpu_of(backend).cp, run, 5) / steps
