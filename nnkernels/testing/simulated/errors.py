"""The errors that CUDA and CuPy raise, by the names and numbers of the real ones."""

from __future__ import annotations

RUNTIME = {
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    101: ("cudaErrorInvalidDevice", "invalid device ordinal"),
    400: ("cudaErrorInvalidResourceHandle", "invalid resource handle"),
    600: ("cudaErrorNotReady", "device not ready"),
    719: ("cudaErrorLaunchFailure", "unspecified launch failure"),
    900: (
        "cudaErrorStreamCaptureUnsupported",
        "operation not permitted when stream is capturing",
    ),
    901: (
        "cudaErrorStreamCaptureInvalidated",
        "operation failed due to a previous error during capture",
    ),
    905: (
        "cudaErrorStreamCaptureIsolation",
        "dependency created on uncaptured work in another stream",
    ),
    906: (
        "cudaErrorStreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
}
"""Names and texts of ``cudaError_t`` by number."""

DRIVER = {
    1: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    200: ("CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"),
    209: (
        "CUDA_ERROR_NO_BINARY_FOR_GPU",
        "no kernel image is available for execution on the device",
    ),
    218: ("CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"),
    301: ("CUDA_ERROR_FILE_NOT_FOUND", "file not found"),
    500: ("CUDA_ERROR_NOT_FOUND", "named symbol not found"),
}
"""Names and texts of ``CUresult`` by number."""


class CUDARuntimeError(RuntimeError):
    """As ``cupy.cuda.runtime.CUDARuntimeError``; ``status`` is CUDA's number."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(": ".join(RUNTIME[status]))


class CUDADriverError(RuntimeError):
    """As ``cupy.cuda.driver.CUDADriverError``; ``status`` is CUDA's number."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(": ".join(DRIVER[status]))


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``: ``size`` bytes asked for, ``total`` in use."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        bound = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{bound})."
        )
