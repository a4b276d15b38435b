"""The part of cublasLt's C interface that products need: numbers, structures, statuses, loading.

Every function is looked up on one object, the loaded library or a simulated one, and every
argument is passed as the C type that it has. Source of names and numbers: ``cublasLt.h`` and
``cublas_api.h`` of CUDA 13.
"""

from __future__ import annotations

import ctypes
import enum
from typing import Any

from nnkernels.errors import BackendError, BackendUnavailableError

_REMEDY = "pip install 'nnkernels[cuda13]', or 'nnkernels[cuda12]' for drivers before 580"


class ComputeType(enum.IntEnum):
    """``cublasComputeType_t``: the arithmetic of a product."""

    F32 = 68
    F32_FAST_16F = 74
    F32_FAST_16BF = 75
    F32_FAST_TF32 = 77
    F64 = 70


class DataType(enum.IntEnum):
    """``cudaDataType_t``: the elements of a matrix."""

    F32 = 0
    F64 = 1


class Operation(enum.IntEnum):
    """``cublasOperation_t``."""

    NONE = 0
    TRANSPOSE = 1


class Epilogue(enum.IntEnum):
    """``cublasLtEpilogue_t``: what is done to a product before it is written."""

    DEFAULT = 1
    BIAS = 4
    RELU_BIAS = 6
    RELU_AUX_BIAS = 134
    DRELU_BGRAD = 152
    BGRADA = 256


class Matmul(enum.IntEnum):
    """``cublasLtMatmulDescAttributes_t``."""

    TRANSPOSE_A = 3
    TRANSPOSE_B = 4
    EPILOGUE = 7
    BIAS_POINTER = 8
    AUX_POINTER = 11
    AUX_LEADING_DIMENSION = 12


class Preference(enum.IntEnum):
    """``cublasLtMatmulPreferenceAttributes_t``."""

    MAX_WORKSPACE_BYTES = 1
    MIN_ALIGNMENT_A = 5
    MIN_ALIGNMENT_B = 6
    MIN_ALIGNMENT_C = 7
    MIN_ALIGNMENT_D = 8


class Status(enum.IntEnum):
    """``cublasStatus_t``."""

    SUCCESS = 0
    NOT_INITIALIZED = 1
    ALLOC_FAILED = 3
    INVALID_VALUE = 7
    ARCH_MISMATCH = 8
    MAPPING_ERROR = 11
    EXECUTION_FAILED = 13
    INTERNAL_ERROR = 14
    NOT_SUPPORTED = 15
    LICENSE_ERROR = 16


class Algorithm(ctypes.Structure):
    """``cublasLtMatmulAlgo_t``."""

    _fields_ = [("data", ctypes.c_uint64 * 8)]


class HeuristicResult(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = [
        ("algorithm", Algorithm),
        ("workspace_bytes", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


class CublasError(BackendError):
    """A function of cublasLt gave a status other than success.

    Attributes:
        status: its number.
    """

    def __init__(self, function: str, status: int) -> None:
        known = status in {each.value for each in Status}
        name = f"CUBLAS_STATUS_{Status(status).name}" if known else "unknown"
        super().__init__(f"{function} gave status {status} ({name})")
        self.status = status


class Library:
    """cublasLt, each of its statuses checked.

    Args:
        functions: the loaded library, or an object with the same functions.
    """

    def __init__(self, functions: Any) -> None:
        self._functions = functions

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``cublasLt<name>``.

        Raises:
            CublasError: its status is not success.
        """
        status = getattr(self._functions, f"cublasLt{name}")(*arguments)
        if status != Status.SUCCESS:
            raise CublasError(f"cublasLt{name}", status)

    @property
    def version(self) -> str:
        """``13.1.0``."""
        number = int(self._functions.cublasLtGetVersion())
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def load() -> Library:
    """The installed library.

    Raises:
        BackendUnavailableError: there is none, or it does not load.
    """
    try:
        return Library(ctypes.CDLL(_path()))
    except OSError as error:
        raise BackendUnavailableError(f"cublasLt does not load: {error}; {_REMEDY}") from error


def _path() -> str:
    """Where the library is: as NVIDIA's wheels or the toolkit are found, else by the linker.

    Raises:
        BackendUnavailableError: nowhere.
    """
    import ctypes.util

    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError:  # a plain CuPy without NVIDIA's wheels: only the linker can know
        found = ctypes.util.find_library("cublasLt")
    else:
        try:
            return str(load_nvidia_dynamic_lib("cublasLt").abs_path)
        except DynamicLibNotFoundError:
            found = None
    if found is None:
        raise BackendUnavailableError(f"cublasLt is not installed: {_REMEDY}")
    return found
