"""Kernels as functions ``f(grid, block, arguments)``, compiled when they are first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.compiling import compiler
from nnkernels.backends.cupy.compiling.code_cache import CodeCache, Compiled, Key
from nnkernels.backends.cupy.compiling.compiler import Target

Function = Callable[..., None]


class Loader(Protocol):
    """Gives kernels."""

    def function(self, module: str, storage: str, kernel: str) -> Function:
        """The kernel of a module for arrays of ``storage``."""


class _Modules:
    """Modules by name and storage type, each made once whatever threads do, on one device."""

    def __init__(self, device: Any, make: Callable[[str, str], Any]) -> None:
        self._device, self._make = device, make
        self._lock = threading.RLock()
        self._modules: dict[tuple[str, str], Any] = {}
        self._functions: dict[tuple[str, str, str], Function] = {}

    def function(self, module: str, storage: str, kernel: str) -> Function:
        key = module, storage, kernel
        known = self._functions.get(key)
        if known is not None:
            return known
        with self._lock, self._device:
            if key[:2] not in self._modules:
                self._modules[key[:2]] = self._make(module, storage)
            return self._functions.setdefault(key, self._modules[key[:2]].get_function(kernel))


class PlainLoader:
    """Compiled and kept by CuPy; needs nothing of ours.

    Args:
        cp: the namespace.
        index: number of the device.
    """

    def __init__(self, cp: Any, index: int = 0) -> None:
        self._cp = cp
        self._modules = _Modules(cp.cuda.Device(index), self._module)

    def function(self, module: str, storage: str, kernel: str) -> Function:
        """See :class:`Loader`."""
        return self._modules.function(module, storage, kernel)

    def _module(self, module: str, storage: str) -> Any:
        code, options = sources.amalgamated(module), sources.options(storage)
        return self._cp.RawModule(code=code, options=options)


class CubinLoader:
    """Compiled by ourselves: the GPU runs, byte for byte, what was looked at without one.

    Args:
        cp: the namespace.
        index: number of the device.
        cache: where compiled modules are kept; by default in the user's cache folder.

    Attributes:
        target: what is compiled for.
    """

    def __init__(self, cp: Any, index: int = 0, cache: CodeCache | None = None) -> None:
        self._cp = cp
        self._cache = cache or CodeCache()
        device = cp.cuda.Device(index)
        self.target = compiler.target_for(cp.cuda.nvrtc, int(device.compute_capability))
        self._modules = _Modules(device, self._module)

    def function(self, module: str, storage: str, kernel: str) -> Function:
        """See :class:`Loader`."""
        return self._modules.function(module, storage, kernel)

    def digest(self, module: str, storage: str) -> str:
        """SHA-256 of the module's machine code, the same on every machine with this NVRTC."""
        return build(self._cp.cuda.nvrtc, self._cache, module, storage, self.target).digest

    def describe(self) -> str:
        """The target, and the compiler."""
        by = f"{self.target} by NVRTC {compiler.version(self._cp.cuda.nvrtc)}"
        return f"{by}, compiled to machine code by the driver" if self.target.virtual else by

    def _module(self, module: str, storage: str) -> Any:
        compiled = build(self._cp.cuda.nvrtc, self._cache, module, storage, self.target)
        return self._cp.RawModule(path=str(compiled.path))


def build(nvrtc: Any, cache: CodeCache, module: str, storage: str, target: Target) -> Compiled:
    """The module's file, compiled if it is not in ``cache``.

    Raises:
        BackendError: it does not compile.
    """
    inputs = (
        module,
        sources.amalgamated(module),
        *compiler.flags(storage, target),
        compiler.version(nvrtc),
    )
    key = Key(f"{module}-{storage}-{target}", inputs, target.suffix)
    return cache.get(key, lambda: compiler.compile_module(nvrtc, module, storage, target))
