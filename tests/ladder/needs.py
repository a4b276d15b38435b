"""What a rung needs: where it is missing the rung is skipped, or fails if the ladder is asked for.

The environment of the extra ``ladder`` has all but nvcc, and cuBLAS, which comes with ``cuda13``.
``NNKERNELS_LADDER=1`` says that this is it, so that no rung goes missing unseen.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

REMEDY = "install nnkernels[ladder]"


def require(present: object, what: str) -> None:
    """Skip, or fail where ``NNKERNELS_LADDER=1``, unless ``present``."""
    if not present:
        missing(what)


def missing(what: str, remedy: str = REMEDY) -> NoReturn:
    """Skip, or fail where ``NNKERNELS_LADDER=1``."""
    if os.environ.get("NNKERNELS_LADDER") == "1":
        pytest.fail(f"NNKERNELS_LADDER=1, but there is no {what}: {remedy}")
    pytest.skip(f"no {what}: {remedy}")


@functools.cache
def nvrtc_present() -> bool:
    """Whether NVRTC can be called, through CuPy."""
    if importlib.util.find_spec("cupy") is None:
        return False
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except (RuntimeError, OSError):
        return False
    return True


@functools.cache
def cuda_tool(name: str) -> str | None:
    """The path of ``nvdisasm`` or ``cuobjdump``, which NVIDIA's wheels put beside libraries."""
    try:
        spec = importlib.util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        spec = None
    for folder in spec.submodule_search_locations or () if spec else ():
        tool = Path(folder) / "bin" / name
        if tool.is_file():
            return str(tool)
    return shutil.which(name)


def require_nvrtc() -> None:
    """NVRTC, or skip."""
    require(nvrtc_present(), "NVRTC")


def require_disassembler() -> None:
    """nvdisasm, or skip."""
    require(cuda_tool("nvdisasm"), "nvdisasm")


def require_host_compiler() -> None:
    """g++ with AddressSanitizer, or skip."""
    require(shutil.which("g++"), "g++")
