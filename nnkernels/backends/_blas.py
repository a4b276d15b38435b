"""BLAS threads: how many a Program or a call gets."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from nnkernels.backend import Backend
from nnkernels.program import Interpreter, Program, State
from nnkernels.program.builder import solved_dims
from nnkernels.program.format import Instruction
from nnkernels.spec import get_op

THREADED_FLOPS = 1e9
"""Flops of a Program's largest instruction from which a second BLAS thread is worth its cost.

Measured on two CPUs: steps whose largest product is below 0.2 Gflop (W1, W2, W4 of ``nnkernels
bench``) are slower with two threads, W3 (17 Gflop) is 1.8 times faster; beside a busy process small
products lose a factor of 10.
"""


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _Hold:
    """The one limit that holds, and how many Python threads rely on it.

    threadpoolctl alone would let the thread that leaves last restore what it found when it came,
    which is the limit of the thread that left first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limiter: Any = None

    def enter(self, count: int) -> None:
        with self._lock:
            if self._holders == 0:
                self._limiter = _controller().limit(limits=count, user_api="blas")
            self._holders += 1

    def leave(self) -> None:
        from threadpoolctl import OpenBLASController

        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                # Whichever thread is the last may restore, not only the one that came first.
                OpenBLASController.clear_controlling_thread(force=True)
                self._limiter.restore_original_limits()


_hold = _Hold()


@contextlib.contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Hold the BLAS libraries to ``count`` threads; nothing stays behind.

    The setting is one for the whole process: while several Python threads hold it, the number that
    the first of them asked for counts.
    """
    _hold.enter(count)
    try:
        yield
    finally:
        _hold.leave()


def default_threads(program: Program) -> int | None:
    """1 for a Program of small products, None (the library's own) for one with large ones."""
    largest = max((_flops(program, i) for i in program.instructions), default=0.0)
    return None if largest >= THREADED_FLOPS else 1


def _flops(program: Program, instruction: Instruction) -> float:
    first = next((o for o in instruction.outputs if o is not None), None)
    size = 0 if first is None else program.slots[first].elements
    return get_op(instruction.op).flops(solved_dims(program, instruction), size)


class BlasExecutable(Interpreter):
    """The interpreter with the backend's number of BLAS threads, or else a sensible one."""

    def __init__(self, backend: Backend, program: Program, state: State) -> None:
        super().__init__(backend, program, state)
        self.threads = backend.threads or default_threads(self.program)

    def run(self, steps: int, stop: Callable[[], bool] | None = None) -> int:
        """See :meth:`nnkernels.program.Interpreter.run`."""
        if self.threads is None:
            return super().run(steps, stop)
        with blas_threads(self.threads):
            return super().run(steps, stop)


@functools.cache
def gemm_address(dtype: str) -> int:
    """Address of Fortran's ``sgemm`` or ``dgemm`` in the BLAS that SciPy uses."""
    from scipy.linalg import cython_blas

    _controller.cache_clear()  # so that it finds, and holds, the library just loaded
    capsule: Any = cython_blas.__pyx_capi__["sgemm" if dtype == "float32" else "dgemm"]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address: int = pointer_of(capsule, name_of(capsule))
    return address


@functools.cache
def has_gemm() -> bool:
    """Whether SciPy brings a BLAS whose routines can be called by their addresses."""
    try:
        return bool(gemm_address("float32") and gemm_address("float64"))
    except (ImportError, AttributeError, KeyError):
        return False
