"""The CuPy backend: our own CUDA kernels on NVIDIA GPUs, and a step as one CUDA graph.

Needs a GPU with its driver and ``pip install 'nnkernels[cuda12]'`` (driver 525 or newer) or
``'nnkernels[cuda13]'`` (driver 580 or newer). ``cupy:1`` is the second device. It was built and
verified without a GPU; what that proves and what it cannot is written in ``docs/gpu.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from nnkernels.backend import Backend, Kernel
from nnkernels.backends.cupy.launching import Recipe, RecipeTable, Recording
from nnkernels.errors import BackendUnavailableError, InputError

ON_HOST = False
"""Its arrays live on the GPU."""

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""Arithmetic of float32 products; all but the first need the layer ``lt``."""


def load() -> Backend:
    """The backend ``cupy``, on the first device.

    Raises:
        BackendUnavailableError: it cannot work here; the message has the reason and the remedy.
    """
    from nnkernels.backends.cupy.probe import probe

    state = probe()
    if state.kind != "ok":
        raise BackendUnavailableError(f"backend 'cupy' is not available: {state.sentence}")
    import cupy

    return on(cupy)


def on(cp: Any, index: int = 0, *, layers: str | None = None) -> Backend:
    """The backend on one device of a namespace: CuPy, or the simulated one.

    Args:
        cp: the namespace.
        index: number of the device.
        layers: pins the layers as ``NNKERNELS_CUPY_LAYERS`` does.
    """
    from nnkernels.backends.cupy.device import CudaDevice
    from nnkernels.backends.cupy.gpu import Gpu
    from nnkernels.backends.cupy.notes import notes
    from nnkernels.backends.cupy.staging import stage
    from nnkernels.backends.cupy.steps import bind

    gpu = Gpu(cp, index, layers)
    device = CudaDevice(gpu)
    return Backend(
        "cupy" if index == 0 else f"cupy:{index}",
        device,
        kernels_of(gpu, "fp32"),
        bind,
        strict=True,
        strided=False,
        flushes_subnormals=True,
        precisions=PRECISIONS,
        kernels_in=functools.partial(kernels_of, gpu),
        select=functools.partial(_select, cp),
        staging=functools.partial(stage, device),
        notes=notes,
        base="cupy" if index == 0 else f"cupy:{index}",
    )


def _select(cp: Any, device: str) -> Backend:
    count = cp.cuda.runtime.getDeviceCount()
    if not device.isdecimal() or int(device) >= count:
        raise InputError(f"backend cupy: there is no device {device!r}; CUDA shows {count}, from 0")
    return on(cp, int(device))


def kernels_of(gpu: Any, precision: str) -> Mapping[str, Kernel]:
    """A kernel for every recipe, run at once on the current stream."""
    from nnkernels.backends.cupy.gpu import Eager

    queue = Eager(gpu, precision)
    return {
        name: Kernel(CudaKernel(queue, recipe), recipe.workspace)
        for name, recipe in recipes().items()
    }


@functools.cache
def recipes() -> RecipeTable:
    """How every operator becomes launches."""
    from nnkernels.backends.cupy.kernels import (
        activations,
        bookkeeping,
        dropout,
        linear,
        losses,
        movement,
        normalisation,
        penalties,
        softmax,
        updates,
    )

    table = RecipeTable()
    for family in (
        activations,
        bookkeeping,
        dropout,
        linear,
        losses,
        movement,
        normalisation,
        penalties,
        softmax,
        updates,
    ):
        table.update(family.recipes)
    return table


class CudaKernel:
    """A recipe as a backend's kernel function.

    Args:
        queue: runs launches at once.
        recipe: what to launch.
    """

    def __init__(self, queue: Any, recipe: Recipe) -> None:
        functools.update_wrapper(self, recipe.function)
        self.queue, self.recipe = queue, recipe

    def __call__(self, *inputs: Any, **keywords: Any) -> None:
        """Launch on these arrays."""
        with self.queue.gpu.current():
            self.recipe.function(self.queue, *inputs, **keywords)

    def prepare(self, *inputs: Any, **keywords: Any) -> Any:
        """A function that repeats the launches; see :func:`nnkernels.backend.frozen`."""
        from nnkernels.backends.cupy.gpu import prepared

        recording = Recording()
        self.recipe.function(recording, *inputs, **keywords)
        return prepared(self.queue.gpu, recording, self.queue.precision)
