"""NVRTC for a device that runs PTX: the real one, and which PTX belongs to which machine code.

A simulated device cannot run machine code. So whatever is compiled to it is compiled to PTX too,
and kept under the hash of the machine code, in a folder that other processes see.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from nnkernels.errors import missing_extra
from nnkernels.files import write_atomically
from nnkernels.testing.simulated.errors import CUDADriverError
from nnkernels.testing.simulated.planted import Planted

_ARCHITECTURE = re.compile(r"(?:-arch|--gpu-architecture)=(sm|compute)_(\d+)")


def real_cupy() -> Any:
    """The installed CuPy, for its NVRTC.

    Raises:
        MissingExtraError: there is none.
    """
    try:
        import cupy
    except ImportError as error:
        raise missing_extra("the simulated device", "CuPy's NVRTC", "ladder") from error
    return cupy


@functools.cache
def compile_ptx(source: str, name: str, options: tuple[str, ...]) -> str:
    """The PTX that NVRTC makes.

    Raises:
        cupy.cuda.compiler.CompileException: it does not compile.
    """
    cupy = real_cupy()
    nvrtc = cupy.cuda.nvrtc
    program = nvrtc.createProgram(source, name, (), ())
    try:
        nvrtc.compileProgram(program, options)
        return str(nvrtc.getPTX(program), "ascii")
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise cupy.cuda.compiler.CompileException(log, source, name, options) from error
    finally:
        nvrtc.destroyProgram(program)


class PtxStore:
    """PTX by what it was compiled from, and by the machine code that it stands for.

    Args:
        folder: where it is kept.
        capability: compute capability that everything is compiled for, 75 for 7.5.
    """

    def __init__(self, folder: Path, capability: int) -> None:
        self._folder, self._capability = folder, capability

    def compiled(self, source: str, name: str, options: tuple[str, ...]) -> str:
        """The PTX of a source, whatever architecture ``options`` ask for.

        Raises:
            CompileException: it does not compile.
        """
        kept = [each for each in options if not _ARCHITECTURE.fullmatch(each)]
        kept.append(f"-arch=compute_{self._capability}")
        version = ".".join(map(str, real_cupy().cuda.nvrtc.getVersion()))
        key = hashlib.sha256("\0".join((version, source, *kept)).encode()).hexdigest()
        path = self._folder / f"{key}.ptx"
        if path.is_file():
            return path.read_text("ascii")
        text = compile_ptx(source, name, tuple(kept))
        self._write(path, text)
        return text

    def record(self, cubin: bytes, capability: int, text: str) -> None:
        """Note the PTX that stands for machine code."""
        self._write(self._path(cubin, capability), text)

    def of_file(self, path: Path, sm: int) -> str:
        """The PTX of a file of PTX, or of machine code that runs on a device.

        Raises:
            CUDADriverError: the file is not there, is damaged, or is for other devices.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CUDADriverError(301) from error
        if path.suffix == ".ptx":
            return data.decode("ascii")
        digest = hashlib.sha256(data).hexdigest()
        found = sorted(self._folder.glob(f"{digest}.sm_*.ptx"))
        if not found:
            raise CUDADriverError(200)
        if not any(_runs(int(each.name.split(".sm_")[1].split(".")[0]), sm) for each in found):
            raise CUDADriverError(209)
        return found[0].read_text("ascii")

    def _path(self, cubin: bytes, capability: int) -> Path:
        digest = hashlib.sha256(cubin).hexdigest()
        return self._folder / f"{digest}.sm_{capability}.ptx"

    def _write(self, path: Path, text: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, text.encode("ascii"))


def _runs(compiled: int, sm: int) -> bool:
    """Whether machine code for one compute capability runs on another: newer ones of a series."""
    return compiled // 10 == sm // 10 and compiled <= sm


class _Program(NamedTuple):
    source: str
    name: str
    options: tuple[str, ...] = ()


class Nvrtc:
    """As ``cupy.cuda.nvrtc``.

    Args:
        store: notes the PTX of what is compiled to machine code.
        planted: NVRTC may be missing.
    """

    def __init__(self, store: PtxStore, planted: Planted) -> None:
        self._store, self._planted = store, planted
        self._programs: dict[int, _Program] = {}

    @property
    def _real(self) -> Any:
        if self._planted.strikes("no nvrtc"):
            raise RuntimeError(
                "CuPy failed to load libnvrtc.so.13: OSError: libnvrtc.so.13: cannot open shared "
                "object file: No such file or directory"
            )
        return real_cupy().cuda.nvrtc

    @property
    def NVRTCError(self) -> type[RuntimeError]:
        """What is raised when something does not compile."""
        error: type[RuntimeError] = real_cupy().cuda.nvrtc.NVRTCError
        return error

    def getVersion(self) -> tuple[int, int]:
        """Major and minor."""
        version: tuple[int, int] = self._real.getVersion()
        return version

    def getSupportedArchs(self) -> tuple[int, ...]:
        """Compute capabilities without the point."""
        known: tuple[int, ...] = self._real.getSupportedArchs()
        return known

    def createProgram(self, src: str, name: str, headers: Any, include_names: Any) -> int:
        """A program, by its handle."""
        program = int(self._real.createProgram(src, name, headers, include_names))
        self._programs[program] = _Program(src, name)
        return program

    def compileProgram(self, prog: int, options: tuple[str, ...]) -> None:
        """Compile.

        Raises:
            NVRTCError: it does not compile.
        """
        self._real.compileProgram(prog, options)
        self._programs[prog] = self._programs[prog]._replace(options=tuple(options))

    def getPTX(self, prog: int) -> bytes:
        """The PTX."""
        text: bytes = self._real.getPTX(prog)
        return text

    def getCUBIN(self, prog: int) -> bytes:
        """The machine code without its last byte, a zero, as CuPy gives it."""
        cubin: bytes = self._real.getCUBIN(prog)
        program = self._programs[prog]
        target = next(filter(None, map(_ARCHITECTURE.fullmatch, program.options)))
        self._store.record(cubin + b"\0", int(target[2]), self._store.compiled(*program))
        return cubin

    def getProgramLog(self, prog: int) -> str:
        """What the compiler said."""
        log: str = self._real.getProgramLog(prog)
        return log

    def destroyProgram(self, prog: int) -> None:
        """Forget a program."""
        self._real.destroyProgram(prog)
        del self._programs[prog]
