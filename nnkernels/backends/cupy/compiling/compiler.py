"""One module compiled by NVRTC, without a GPU: machine code, or PTX for a GPU newer than NVRTC.

NVRTC is a value, ``cupy.cuda.nvrtc`` of the real or the simulated namespace.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from nnkernels.backends.cupy import sources
from nnkernels.errors import BackendError, InputError

_TARGET = re.compile(r"(sm|compute)_(\d{2,3})")


class Target(NamedTuple):
    """What to compile for.

    Attributes:
        capability: compute capability without its point: 90 is 9.0.
        virtual: PTX, which the driver compiles when it is loaded, instead of machine code.
    """

    capability: int
    virtual: bool = False

    def __str__(self) -> str:
        return f"{'compute' if self.virtual else 'sm'}_{self.capability}"

    @property
    def suffix(self) -> str:
        """The name's end of a file that holds it."""
        return "ptx" if self.virtual else "cubin"


def supported(nvrtc: Any) -> tuple[int, ...]:
    """Compute capabilities that this NVRTC knows, the oldest first."""
    return tuple(sorted(int(each) for each in nvrtc.getSupportedArchs()))


def parse_target(nvrtc: Any, name: str) -> Target:
    """The target called ``sm_90`` (machine code) or ``compute_90`` (PTX).

    Raises:
        InputError: it is no such name, or this NVRTC does not know the architecture.
    """
    match, known = _TARGET.fullmatch(name), supported(nvrtc)
    if match is None or int(match[2]) not in known:
        listed = ", ".join(f"sm_{each}" for each in known)
        raise InputError(
            f"architecture {name!r}: NVRTC {version(nvrtc)} compiles for {listed}; "
            "write compute_ instead of sm_ for PTX"
        )
    return Target(int(match[2]), match[1] == "compute")


def target_for(nvrtc: Any, capability: int) -> Target:
    """The best target for a GPU: its own machine code, else the newest PTX that it can run.

    Raises:
        BackendError: the GPU is older than all that this NVRTC compiles for.
    """
    older = [each for each in supported(nvrtc) if each <= capability]
    if not older:
        raise BackendError(
            f"NVRTC {version(nvrtc)} compiles for sm_{supported(nvrtc)[0]} and newer, this GPU is "
            f"sm_{capability}; install an older CUDA: pip install 'nnkernels[cuda12]'"
        )
    return Target(older[-1], virtual=older[-1] != capability)


def version(nvrtc: Any) -> str:
    """``13.0``."""
    return ".".join(str(part) for part in nvrtc.getVersion())


def flags(storage: str, target: Target) -> tuple[str, ...]:
    """NVRTC's options."""
    return (*sources.options(storage), f"-arch={target}")


def compile_module(nvrtc: Any, module: str, storage: str, target: Target) -> bytes:
    """The module's cubin, or its PTX; NVRTC gives the same bytes for the same input every time.

    Raises:
        BackendError: it does not compile; the message ends with NVRTC's log.
    """
    program = nvrtc.createProgram(sources.amalgamated(module), f"{module}.cu", (), ())
    try:
        nvrtc.compileProgram(program, flags(storage, target))
        return _code(nvrtc, program, target)
    except nvrtc.NVRTCError as error:
        raise BackendError(
            f"module {module!r} does not compile for {storage} arrays on {target}: {error}; if "
            f"another NVRTC than {version(nvrtc)} (pip install 'nnkernels[cuda12]' or "
            f"'nnkernels[cuda13]') does not help either, report it with this log:\n"
            f"{nvrtc.getProgramLog(program).strip()}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)


def _code(nvrtc: Any, program: Any, target: Target) -> bytes:
    if target.virtual:
        text: bytes = nvrtc.getPTX(program)
        return text
    # CuPy cuts the last byte off a cubin as if it were the end of a string; it is always a zero,
    # and nvdisasm and cuobjdump refuse the file without it.
    cubin: bytes = nvrtc.getCUBIN(program)
    return cubin + b"\0"
