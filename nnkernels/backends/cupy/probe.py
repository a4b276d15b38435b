"""Why there is no GPU here: one state, one sentence, its remedy.

Nothing here raises or prints: no stream is made before the device is known to be there, for the
destructor of one that could not be made prints noise. Read in CuPy 14.2 and run without a driver:
CUDA's status 35, "driver is insufficient", means an old driver or none, only the driver's version
tells; from 14.1 on CuPy refuses to compile anything at all without CUDA's headers; ``CUPY_TF32``
lets ``cupy.matmul`` compute float32 in TF32 without a word, or fail if it is no number.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, Literal, NamedTuple

Kind = Literal[
    "not-installed",
    "conflict",
    "broken",
    "old-cupy",
    "tf32",
    "no-driver",
    "old-driver",
    "driver-mismatch",
    "driver-error",
    "no-device",
    "no-such-device",
    "no-nvrtc",
    "no-headers",
    "gpu-too-old",
    "no-cublas",
    "ok",
]

PACKAGES = ("cupy", *(f"cupy-cuda{version}x" for version in (11, 12, 13, 14)))
"""Distributions that bring the module ``cupy``."""

OLDEST_CUPY = 14
OLDEST_GPU = 70
"""Compute capability 7.0: the oldest that the kernels are compiled and checked for."""

DRIVERS = {12: 525, 13: 580}
"""The oldest driver of each CUDA that there is an extra for."""

_INSTALL = " or ".join(
    f"pip install 'nnkernels[cuda{cuda}]' (driver {driver} or newer)"
    for cuda, driver in sorted(DRIVERS.items(), reverse=True)
)
_NO_DEVICE, _MISMATCH = 100, 803


class State(NamedTuple):
    """The state of CUDA on this machine.

    Attributes:
        kind: one word.
        sentence: what it is, and what to do about it.
    """

    kind: Kind
    sentence: str


class _Found(Exception):
    """The state is known."""

    def __init__(self, kind: Kind, sentence: str) -> None:
        super().__init__(sentence)
        self.state = State(kind, sentence)


def probe(cp: Any = None, index: int = 0) -> State:
    """The state of CUDA here.

    Args:
        cp: the namespace of CuPy; imported by default.
        index: number of the device that is wanted.
    """
    try:
        namespace = _installed() if cp is None else cp
        for check in _CHECKS:
            check(namespace, index)
        return State("ok", _describe(namespace, index))
    except _Found as found:
        return found.state
    except Exception as error:  # whatever CuPy raises where it is not whole
        return State("broken", f"CuPy does not work: {_told(error)}; reinstall it: {_INSTALL}")


def _installed() -> Any:
    found = [name for name in PACKAGES if is_installed(name)]
    if len(found) > 1:
        listed = " ".join(found)
        raise _Found(
            "conflict",
            f"{len(found)} packages of CuPy are installed and overwrite each other: pip uninstall "
            f"{listed}, then {_INSTALL}",
        )
    if not found and importlib.util.find_spec("cupy") is None:
        raise _Found("not-installed", f"CuPy is not installed: {_INSTALL}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("cupy")
    except Exception as error:  # a damaged installation raises anything
        name = found[0] if found else "cupy"
        raise _Found(
            "broken",
            f"{name} cannot be imported: {_told(error)}; pip uninstall it, then {_INSTALL}",
        ) from error


def is_installed(name: str) -> bool:
    """Whether a distribution is installed."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


# --- checks, the cheap and certain ones first --------------------------------------------------


def _check_version(cp: Any, index: int) -> None:
    if int(cp.__version__.split(".")[0]) < OLDEST_CUPY:
        raise _Found(
            "old-cupy",
            f"CuPy {cp.__version__} is older than {OLDEST_CUPY}: pip uninstall it, then {_INSTALL}",
        )


def _check_environment(cp: Any, index: int) -> None:
    for name in ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE"):
        value = os.environ.get(name)
        if value is not None and value.strip() != "0":
            raise _Found(
                "tf32",
                f"{name}={value!r} can make float32 products inexact, in TF32, unseen: unset it, "
                "and ask for get_backend('cupy', precision='tf32') where you want that",
            )


def _check_driver(cp: Any, index: int) -> None:
    driver, needed = cp.cuda.runtime.driverGetVersion(), cp.cuda.runtime.runtimeGetVersion()
    if driver == 0:
        raise _Found(
            "no-driver",
            "there is no NVIDIA driver (libcuda.so.1 was not found): install one; a container is "
            "started with its GPUs by docker run --gpus all",
        )
    cuda = needed // 1000
    if driver // 1000 < cuda:
        known = driver // 1000
        other = f", or pip uninstall cupy-cuda{cuda}x and pip install 'nnkernels[cuda{known}]'"
        raise _Found(
            "old-driver",
            f"the driver knows CUDA {_version(driver)}, CuPy needs {cuda}: update the driver"
            f"{_at_least(cuda)}{other if known in DRIVERS else ''}",
        )


def _at_least(cuda: int) -> str:
    return f" to {DRIVERS[cuda]} or newer" if cuda in DRIVERS else ""


def _check_devices(cp: Any, index: int) -> None:
    runtime = cp.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == _MISMATCH:
            raise _Found(
                "driver-mismatch",
                "the driver's kernel module and its library are of different versions: reboot, or "
                "reinstall the driver",
            ) from error
        if error.status != _NO_DEVICE:
            raise _Found(
                "driver-error",
                f"the driver fails: {_told(error)}; see whether nvidia-smi works, and reboot",
            ) from error
        count = 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r} may hide it: unset it)"
    if count == 0:
        raise _Found(
            "no-device", f"the driver sees no GPU{hidden}; see whether nvidia-smi lists one"
        )
    if not 0 <= index < count:
        raise _Found(
            "no-such-device",
            f"there is no device {index}: CUDA shows {count}, counted from 0{hidden}",
        )


def _check_nvrtc(cp: Any, index: int) -> None:
    with _missing(cp, "no-nvrtc", "NVRTC, which compiles the kernels,"):
        cp.cuda.nvrtc.getVersion()


def _check_headers(cp: Any, index: int) -> None:
    try:
        options = cp._core.core.assemble_cupy_compiler_options
    except AttributeError:  # it is CuPy's own; where it moved, the first compilation will tell
        return
    with _missing(cp, "no-headers", "the headers of CUDA, without which CuPy compiles nothing,"):
        options(())


def _check_age(cp: Any, index: int) -> None:
    capability = int(cp.cuda.Device(index).compute_capability)
    oldest = max(OLDEST_GPU, min(map(int, cp.cuda.nvrtc.getSupportedArchs())))
    if capability >= oldest:
        return
    cuda = _cuda(cp)
    remedy = "use another GPU"
    if capability >= OLDEST_GPU and cuda > min(DRIVERS):
        remedy = f"pip uninstall cupy-cuda{cuda}x and pip install 'nnkernels[cuda{min(DRIVERS)}]'"
    raise _Found(
        "gpu-too-old",
        f"the GPU is sm_{capability}, the kernels are compiled for sm_{oldest} and newer: {remedy}",
    )


def _check_cublas(cp: Any, index: int) -> None:
    with _missing(cp, "no-cublas", "cuBLAS"):
        _ = cp.cuda.cublas


@contextlib.contextmanager
def _missing(cp: Any, kind: Kind, what: str) -> Iterator[None]:
    """Whatever is raised within says that ``what`` is missing."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        raise _Found(
            kind,
            f"{what} is missing or does not load: pip install 'nnkernels[cuda{_cuda(cp)}]' "
            f"({_told(error)})",
        ) from error


_CHECKS: tuple[Callable[[Any, int], None], ...] = (
    _check_version,
    _check_driver,
    _check_devices,
    _check_nvrtc,
    _check_headers,
    _check_age,
    _check_cublas,
    _check_environment,
)


# --- words -------------------------------------------------------------------------------------


def _describe(cp: Any, index: int) -> str:
    name = cp.cuda.runtime.getDeviceProperties(index)["name"]
    text = name.decode() if isinstance(name, bytes) else str(name)
    nvrtc = ".".join(map(str, cp.cuda.nvrtc.getVersion()))
    driver = _version(cp.cuda.runtime.driverGetVersion())
    capability = cp.cuda.Device(index).compute_capability
    return f"{text} (sm_{capability}), driver for CUDA {driver}, NVRTC {nvrtc}"


def _cuda(cp: Any) -> int:
    """The CUDA that CuPy was built for."""
    return int(cp.cuda.runtime.runtimeGetVersion()) // 1000


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
