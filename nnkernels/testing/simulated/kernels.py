"""What looks like CuPy's modules and kernels, run by the PTX interpreter."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from nnkernels.testing import ptx
from nnkernels.testing.ptx.dtypes import DTYPES
from nnkernels.testing.simulated.arrays import ndarray, state_of
from nnkernels.testing.simulated.compiling import PtxStore
from nnkernels.testing.simulated.errors import CUDADriverError, CUDARuntimeError
from nnkernels.testing.simulated.machine import Machine
from nnkernels.testing.simulated.memory import Layout

MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
"""Largest grid and block in x, y and z."""

CUPY_OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to the options of a source that it compiles."""


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> ptx.Module:
    """A module; one text is often loaded by several namespaces."""
    return ptx.Module(text)


class RawModule:
    """As ``cupy.RawModule``; what it is compiled from is looked at when a kernel is asked for.

    Args:
        code: a source, or
        path: of a file with machine code or PTX.
        options: of NVRTC, for a source.
        backend: ``nvrtc``.
    """

    machine: Machine
    store: PtxStore

    def __init__(
        self,
        *,
        code: str | None = None,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if backend != "nvrtc" or not isinstance(options, tuple):
            raise TypeError("the simulated device compiles by NVRTC, with a tuple of options")
        self.code, self.file_path, self.options = code, path, options

    def get_function(self, name: str) -> RawKernel:
        """A kernel.

        Raises:
            CompileException: the source does not compile.
            CUDADriverError: the file cannot be used, or there is no such kernel.
        """
        self.machine.check()
        module = _parsed(self._text())
        if name not in module:
            raise CUDADriverError(500)
        return RawKernel(self.machine, module[name], compiled=self.code is None)

    def _text(self) -> str:
        planted = self.machine.planted
        if self.code is not None:
            if planted.strikes("no nvrtc"):
                raise RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: no such file")
            return self.store.compiled(self.code, "", (*self.options, *CUPY_OPTIONS))
        if planted.strikes("cubin loading"):
            raise CUDADriverError(200)
        return self.store.of_file(Path(str(self.file_path)), self.machine.sm)


class _Launch(NamedTuple):
    """All that a launch holds on to: numbers and addresses.

    Attributes:
        changeable: the floating arrays among the arguments.
        wrong: whether it writes a wrong number, as planted.
    """

    kernel: ptx.Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: list[Any]
    shared_bytes: int
    changeable: list[Layout]
    wrong: bool


class RawKernel:
    """A kernel as a function of grid, block and arguments.

    Args:
        machine: the simulated devices.
        kernel: what the interpreter runs.
        compiled: whether it came from a file instead of a source.
    """

    def __init__(self, machine: Machine, kernel: ptx.Kernel, *, compiled: bool) -> None:
        self._machine, self._kernel, self._compiled = machine, kernel, compiled
        self.name = kernel.name

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        """Queue a launch; like CuPy it takes a 0 in grid and block as 1.

        Raises:
            CUDADriverError: no such grid or block can be launched.
            CUDARuntimeError: the stream is another device's.
            Fault: the arguments do not fit the kernel, or lie on another device.
        """
        if not (isinstance(grid, tuple) and isinstance(block, tuple)):
            raise TypeError("grid and block must be tuples")
        machine = self._machine
        state = state_of(machine, stream)
        if state.device != machine.device:
            raise CUDARuntimeError(400)
        blocks, threads = _three(grid, MAX_GRID), _three(block, MAX_BLOCK)
        if math.prod(threads) > self._kernel.maxntid:
            raise CUDADriverError(1)
        packed, changeable = self._packed(args), _changeable(args)
        wrong = self._compiled and machine.planted.strikes("cubin results")
        launch = _Launch(self._kernel, blocks, threads, packed, shared_mem, changeable, wrong)
        run = functools.partial(_run, machine, launch)
        machine.submit(state, "launch", self.name, run, keep=args)

    def _packed(self, args: tuple[Any, ...]) -> list[Any]:
        """The arguments as the kernel's parameters.

        CuPy hands over the address of each; the driver reads as many bytes as the kernel declares.
        Where these are not as many as there are, the real device reads what it should not.
        """
        declared = self._kernel.params
        if len(args) != len(declared):
            self._refuse(f"got {len(args)}, the kernel takes {len(declared)}")
        packed = []
        for number, (given, parameter) in enumerate(zip(args, declared, strict=True)):
            data = self._bytes_of(number, given)
            if len(data) != parameter.size:
                self._refuse(
                    f"number {number} ({type(given).__name__}) has {len(data)} bytes, the kernel "
                    f"reads {parameter.size}"
                )
            packed.append(np.frombuffer(data, DTYPES[parameter.type])[0])
        return packed

    def _bytes_of(self, number: int, given: Any) -> bytes:
        if isinstance(given, ndarray):
            if given.size and given.device.id != self._machine.device:
                self._refuse(f"number {number} lies on device {given.device.id}")
            return np.uint64(given.data.ptr).tobytes()
        if given is None:
            return np.uint64(0).tobytes()
        if isinstance(given, np.ndarray) and given.size != 1:
            raise TypeError(
                f"You are trying to pass a numpy.ndarray of shape {given.shape} as a kernel "
                "parameter. Only numpy.ndarrays of size one can be passed by value."
            )
        if not isinstance(given, bool | int | float | np.generic | np.ndarray):
            raise TypeError(f"Unsupported type {type(given)}")
        return np.asarray(given).tobytes()

    def _refuse(self, what: str) -> NoReturn:
        raise ptx.Fault(ptx.Kind.ARGUMENTS, what, kernel=self.name)


def _run(machine: Machine, launch: _Launch) -> None:
    """Run a kernel; where that is planted, one number that it writes is wrong."""
    wrong = launch.wrong or machine.corrupting
    views = [machine.memory.view(layout) for layout in launch.changeable] if wrong else []
    before = [view.copy() for view in views]
    ptx.run(
        launch.kernel,
        machine.memory.space,
        launch.grid,
        launch.block,
        launch.arguments,
        shared_bytes=launch.shared_bytes,
        order=machine.seed,
        noise=machine.noise,
        statistics=machine.statistics[launch.kernel.name] if machine.counted else None,
    )
    for view, old in zip(views, before, strict=True):
        if not np.array_equal(view, old, equal_nan=True):
            view.flat[0] += 1


def _three(sizes: tuple[int, ...], most: tuple[int, ...]) -> tuple[int, ...]:
    """Three sizes.

    Raises:
        CUDADriverError: one is too large.
    """
    filled = tuple(max(1, int(n)) for n in (*sizes, 1, 1)[:3])
    if any(n > limit for n, limit in zip(filled, most, strict=True)):
        raise CUDADriverError(1)
    return filled


def _changeable(args: tuple[Any, ...]) -> list[Layout]:
    """The floating arrays that a planted failure may change."""
    arrays = [a for a in args if isinstance(a, ndarray) and a.size and a.dtype.kind == "f"]
    return [a.layout for a in arrays]
