"""Compiles kernel modules with NVRTC, and reads what it says of them."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ladder.needs import cuda_tool

from nnkernels.backends.cupy import sources

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""From Turing to Blackwell: what CUDA 13 compiles for and somebody may own."""

_RESOURCES = re.compile(
    r"Compiling entry function '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers",
    re.DOTALL,
)
_ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\n\)(.*?)\n\}\n", re.DOTALL)
_PARAMETER = re.compile(r"\.param \.(\w+) ")
_SECTION = re.compile(r"^\.text\.(\w+):$(.*?)(?=^//-{10}|\Z)", re.DOTALL | re.MULTILINE)


class CompileError(Exception):
    """NVRTC refuses a source; the message is its log."""


class Resources(NamedTuple):
    """What a kernel takes of a multiprocessor, as ptxas says: bytes but for the registers."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


class Entry(NamedTuple):
    """A kernel in PTX: the types of its parameters, and its body."""

    parameters: tuple[str, ...]
    body: str


class Compiled(NamedTuple):
    """What NVRTC makes of a module for one architecture."""

    ptx: str
    cubin: bytes
    log: str

    @property
    def resources(self) -> Mapping[str, Resources]:
        """By kernel."""
        return {
            name: Resources(int(r), *map(int, b)) for name, *b, r in _RESOURCES.findall(self.log)
        }

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The kernels' PTX by name."""
        return {
            name: Entry(tuple(_PARAMETER.findall(parameters)), body)
            for name, parameters, body in _ENTRY.findall(self.ptx)
        }


def compile_text(text: str, name: str, storage: str, architecture: int) -> Compiled:
    """A source for one storage type and architecture.

    Raises:
        CompileError: it does not compile.
    """
    return _compile(text, name, storage, f"sm_{architecture}")


def compile_to_ptx(text: str, name: str, storage: str, architecture: int) -> Compiled:
    """A source for one storage type without machine code, which takes most of the time.

    Raises:
        CompileError: it does not compile.
    """
    return _compile(text, name, storage, f"compute_{architecture}")


def _compile(text: str, name: str, storage: str, target: str) -> Compiled:
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(text, f"{name}.cu", [], [])
    options = (f"-arch={target}", "--ptxas-options=-v", *sources.options(storage))
    try:
        nvrtc.compileProgram(program, options)
        machine_code = target.startswith("sm_")
        cubin = nvrtc.getCUBIN(program) + b"\0" if machine_code else b""  # CuPy drops the last byte
        return Compiled(_text(nvrtc.getPTX(program)), cubin, _text(nvrtc.getProgramLog(program)))
    except nvrtc.NVRTCError as error:
        log = _text(nvrtc.getProgramLog(program))
        raise CompileError(f"{name} ({storage}, {target}): {error}\n{log}") from error
    finally:
        nvrtc.destroyProgram(program)


def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode().rstrip("\0")


@functools.cache
def compile_module(module: str, storage: str, architecture: int) -> Compiled:
    """A module of the package."""
    return compile_text(sources.amalgamated(module), module, storage, architecture)


@functools.cache
def module_to_ptx(module: str, storage: str, architecture: int) -> Compiled:
    """A module of the package, without machine code."""
    return compile_to_ptx(sources.amalgamated(module), module, storage, architecture)


def disassemble(cubin: bytes) -> Mapping[str, str]:
    """SASS by kernel."""
    tool = cuda_tool("nvdisasm")
    assert tool is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.cubin"
        path.write_bytes(cubin)
        done = subprocess.run(
            [tool, "-c", str(path)], capture_output=True, text=True, check=True, timeout=120
        )
    return dict(_SECTION.findall(done.stdout))
