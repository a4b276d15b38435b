"""One CUDA device as the backend sees it: its kernels, its products, its layers.

Nothing in this package imports CuPy: the namespace is a value, the real module or the simulated
one of :mod:`nnkernels.testing.simulated`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nnkernels.backends.cupy import products, sources
from nnkernels.backends.cupy.compiling.code_cache import CodeCache
from nnkernels.backends.cupy.compiling.loader import CubinLoader, PlainLoader
from nnkernels.backends.cupy.launching import (
    Launch,
    Product,
    Recording,
    check,
    packed_arguments,
)
from nnkernels.backends.cupy.layers import Layers
from nnkernels.backends.cupy.selfcheck import CHECKS

Call = Callable[[], None]


class Gpu:
    """A CUDA device.

    Args:
        cp: the namespace of CuPy.
        index: number of the device among those that CUDA shows.
        layers: the layers that are on, instead of what ``NNKERNELS_CUPY_LAYERS`` says.
    """

    def __init__(self, cp: Any, index: int = 0, layers: str | None = None) -> None:
        self.cp, self.index = cp, index
        self.device = cp.cuda.Device(index)
        checks = {name: functools.partial(run, self) for name, run in CHECKS.items()}
        compiler = {} if layers is not None else {"nvrtc": str(cp.cuda.nvrtc.getVersion())}
        self.layers = Layers({**self.identity(), **compiler}, checks, pinned=layers)
        self._plain = PlainLoader(cp, index)

    def identity(self) -> dict[str, str]:
        """What the results of a self-check depend on."""
        runtime = self.cp.cuda.runtime
        properties = runtime.getDeviceProperties(self.index)
        name = properties["name"]
        return {
            "device": name.decode() if isinstance(name, bytes) else str(name),
            "architecture": f"sm_{self.device.compute_capability}",
            "driver": str(runtime.driverGetVersion()),
            "runtime": str(runtime.runtimeGetVersion()),
            "cupy": self.cp.__version__,
            "kernels": sources.digest()[:12],
        }

    def current(self) -> AbstractContextManager[Any]:
        """Makes this the current device; costs nothing where it is."""
        if self.cp.cuda.runtime.getDevice() == self.index:
            return contextlib.nullcontext()
        device: AbstractContextManager[Any] = self.cp.cuda.Device(self.index)
        return device

    # --- kernels -------------------------------------------------------------------------------

    @functools.cached_property
    def _cubins(self) -> CubinLoader:
        folder = getattr(self.cp, "cubins", None)  # the simulated devices' own
        return CubinLoader(self.cp, self.index, CodeCache(folder))

    def function(self, module: str, storage: str, kernel: str) -> Callable[..., None]:
        """The compiled kernel: our own compilation where that layer is on, else CuPy's."""
        if self.layers.on("cubin"):
            try:
                return self._cubins.function(module, storage, kernel)
            except Exception as error:  # whatever a driver says of it, the layer below goes on
                self.layers.switch_off("cubin", f"{type(error).__name__}: {error}")
        return self._plain.function(module, storage, kernel)

    def cubin_call(self, launch: Launch) -> Call:
        """A launch of the kernel as we compile it, whether or not that layer is on."""
        check(launch)
        return _call(self._cubins.function(launch.module, launch.storage, launch.kernel), launch)

    def cubin_digest(self, module: str, storage: str) -> str:
        """SHA-256 of a module as we compile it."""
        return self._cubins.digest(module, storage)

    def prepare(self, item: Launch | Product, precision: str = "fp32") -> Call:
        """A launch or a product with all that can be done once done: checked, compiled, packed."""
        if isinstance(item, Product):
            return products.prepare(self, item, precision)
        check(item)
        return _call(self.function(item.module, item.storage, item.kernel), item)


def _call(function: Callable[..., None], launch: Launch) -> Call:
    grid, block = (*launch.grid, 1), (launch.block, 1, 1)
    return functools.partial(function, grid, block, packed_arguments(launch))


class Eager:
    """A queue that runs what it is given at once, on the current stream.

    Args:
        gpu: where.
        precision: arithmetic of float32 products.
    """

    def __init__(self, gpu: Gpu, precision: str = "fp32") -> None:
        self.gpu, self.precision = gpu, precision

    def launch(self, launch: Launch) -> None:
        """Check a launch and run it."""
        self.gpu.prepare(launch)()

    def product(self, product: Product) -> None:
        """Run a product."""
        self.gpu.prepare(product, self.precision)()


def prepared(gpu: Gpu, queue: Recording, precision: str) -> Call:
    """One function that repeats what was recorded."""
    calls = [gpu.prepare(item, precision) for item in queue.taken]

    def repeat() -> None:
        with gpu.current():
            for call in calls:
                call()

    return repeat
