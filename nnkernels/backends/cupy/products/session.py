"""Products by cublasLt: one plan for every kind of product, found once, run as often as one likes.

cublasLt's matrices are stored by columns, ours by rows; read by columns, ours are transposed. So
``out = a b`` is computed as ``outᵀ = bᵀ aᵀ``: cublasLt's A is our ``b``, its B our ``a``, and its
rows, to which a bias is added, are our columns. Nothing is copied.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any, NamedTuple

from nnkernels.backends.cupy.products.cublaslt import (
    Algorithm,
    ComputeType,
    CublasError,
    DataType,
    Epilogue,
    HeuristicResult,
    Library,
    Matmul,
    Operation,
    Preference,
    Status,
)
from nnkernels.backends.cupy.products.masks import mask_width

WORKSPACE_BYTES = 32 << 20
"""Scratch that an algorithm may ask for: what NVIDIA recommends for Hopper, plenty for others."""

_MOST_ALIGNED = 256
_BIASED = (Epilogue.BIAS, Epilogue.RELU_BIAS, Epilogue.RELU_AUX_BIAS)
_WITH_VECTOR = (*_BIASED, Epilogue.DRELU_BGRAD, Epilogue.BGRADA)
_WITH_MASK = (Epilogue.RELU_AUX_BIAS, Epilogue.DRELU_BGRAD)

COMPUTE_TYPES = {
    ("float32", "fp32"): ComputeType.F32,
    ("float32", "tf32"): ComputeType.F32_FAST_TF32,
    ("float32", "bf16"): ComputeType.F32_FAST_16BF,
    ("float32", "fp16"): ComputeType.F32_FAST_16F,
    **{("float64", each): ComputeType.F64 for each in ("fp32", "tf32", "bf16", "fp16")},
}
"""Arithmetic by dtype and precision. Arrays stay float32; in the fast ones cublasLt rounds what it
multiplies and adds up in float32. A precision says nothing of float64."""

_DATA_TYPES = {
    "float32": (DataType.F32, ctypes.c_float),
    "float64": (DataType.F64, ctypes.c_double),
}


class Problem(NamedTuple):
    """A kind of product ``out[m, n] = op(a) op(b)`` of row-major matrices.

    Attributes:
        m, n, k: rows and columns of the result, and the length of the sums.
        transpose_a, transpose_b: whether ``a`` is stored as (k, m), ``b`` as (n, k).
        dtype: of all arrays.
        precision: of float32 products.
    """

    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    dtype: str
    precision: str


class Pointers(NamedTuple):
    """Addresses on the device; 0 for what an epilogue does not use.

    Attributes:
        a, b, out: the matrices.
        vector: the bias, or the bias gradient.
        mask: a relu's bit mask.
    """

    a: int
    b: int
    out: int
    vector: int = 0
    mask: int = 0

    def alignments(self) -> Pointers:
        """The largest power of two, up to 256, that divides each address."""
        return Pointers(*(min(each & -each, _MOST_ALIGNED) or _MOST_ALIGNED for each in self))


class _Descriptor:
    """An object of cublasLt's, destroyed with this one."""

    def __init__(self, library: Library, kind: str, *arguments: Any) -> None:
        self.handle = ctypes.c_void_p()
        self._library, self._kind = library, kind
        library.call(f"{kind}Create", ctypes.byref(self.handle), *arguments)
        # Not at exit: nothing is lost then, and the driver may be gone.
        weakref.finalize(self, library.call, f"{kind}Destroy", self.handle).atexit = False

    def set(self, attribute: int, value: Any) -> None:
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self._library.call(
            f"{self._kind}SetAttribute",
            self.handle,
            ctypes.c_int(attribute),
            ctypes.byref(value),
            size,
        )


class Plan:
    """How one kind of product is computed; made by :meth:`Session.plan`.

    Attributes:
        epilogue: what is done on the way.
        workspace_bytes: scratch that :meth:`run` must be given.
    """

    def __init__(
        self, library: Library, handle: ctypes.c_void_p, problem: Problem, epilogue: Epilogue
    ) -> None:
        self.epilogue = epilogue
        self.workspace_bytes = 0
        self._library, self._handle = library, handle
        self._lock = threading.Lock()
        self._algorithm = Algorithm()
        data_type, scalar = _DATA_TYPES[problem.dtype]
        self._one, self._zero = scalar(1), scalar(0)
        compute_type = COMPUTE_TYPES[problem.dtype, problem.precision]
        self._matmul = self._made("MatmulDesc", ctypes.c_int(compute_type), ctypes.c_int(data_type))
        self._a = self._layout(data_type, problem.n, problem.k, problem.transpose_b)
        self._b = self._layout(data_type, problem.k, problem.m, problem.transpose_a)
        self._out = self._layout(data_type, problem.n, problem.m, False)
        self._matmul.set(Matmul.TRANSPOSE_A, _operation(problem.transpose_b))
        self._matmul.set(Matmul.TRANSPOSE_B, _operation(problem.transpose_a))
        self._matmul.set(Matmul.EPILOGUE, ctypes.c_uint32(epilogue))
        if epilogue in _WITH_MASK:
            width = ctypes.c_int64(mask_width(problem.n))
            self._matmul.set(Matmul.AUX_LEADING_DIMENSION, width)

    def _made(self, kind: str, *arguments: Any) -> _Descriptor:
        return _Descriptor(self._library, kind, *arguments)

    def _layout(
        self, data_type: DataType, rows: int, columns: int, transposed: bool
    ) -> _Descriptor:
        """The layout, by columns, of a matrix that is (rows, columns) after its operation."""
        if transposed:
            rows, columns = columns, rows
        return self._made(
            "MatrixLayout",
            ctypes.c_int(data_type),
            ctypes.c_uint64(rows),
            ctypes.c_uint64(columns),
            ctypes.c_int64(rows),
        )

    def find_algorithm(self, pointers: Pointers, workspace_bytes: int) -> bool:
        """Ask the heuristic, for arrays that are aligned like ``pointers``; whether there is one.

        Raises:
            CublasError: cublasLt failed, rather than having no algorithm.
        """
        preference = self._made("MatmulPreference")
        preference.set(Preference.MAX_WORKSPACE_BYTES, ctypes.c_uint64(workspace_bytes))
        aligned = pointers.alignments()
        for attribute, alignment in (
            (Preference.MIN_ALIGNMENT_A, aligned.b),
            (Preference.MIN_ALIGNMENT_B, aligned.a),
            (Preference.MIN_ALIGNMENT_C, aligned.out),
            (Preference.MIN_ALIGNMENT_D, aligned.out),
        ):
            preference.set(attribute, ctypes.c_uint32(alignment))
        self._point(pointers)
        result, count = HeuristicResult(), ctypes.c_int(0)
        layouts = (each.handle for each in (self._a, self._b, self._out, self._out))
        try:
            self._library.call(
                "MatmulAlgoGetHeuristic",
                self._handle,
                self._matmul.handle,
                *layouts,
                preference.handle,
                ctypes.c_int(1),
                ctypes.byref(result),
                ctypes.byref(count),
            )
        except CublasError as error:
            if self.epilogue != Epilogue.DEFAULT and error.status in _NO_ALGORITHM:
                return False
            raise
        self._algorithm, self.workspace_bytes = result.algorithm, int(result.workspace_bytes)
        return count.value > 0 and result.state == Status.SUCCESS

    def _point(self, pointers: Pointers) -> None:
        """Tell the descriptor where the epilogue's arrays are."""
        if self.epilogue in _WITH_VECTOR:
            self._matmul.set(Matmul.BIAS_POINTER, ctypes.c_void_p(pointers.vector))
        if self.epilogue in _WITH_MASK:
            self._matmul.set(Matmul.AUX_POINTER, ctypes.c_void_p(pointers.mask))

    def run(self, stream: int, pointers: Pointers, workspace: int = 0) -> None:
        """Queue the product on a stream.

        Args:
            stream: address of the CUDA stream.
            pointers: the arrays, aligned like those that the plan was made for.
            workspace: address of :attr:`workspace_bytes` bytes, aligned to 256.

        Raises:
            CublasError: it could not be queued.
        """
        with self._lock:  # the descriptor holds the pointers of one call at a time
            self._point(pointers)
            out = ctypes.c_void_p(pointers.out)
            self._library.call(
                "Matmul",
                self._handle,
                self._matmul.handle,
                ctypes.byref(self._one),
                ctypes.c_void_p(pointers.b),
                self._a.handle,
                ctypes.c_void_p(pointers.a),
                self._b.handle,
                ctypes.byref(self._zero),
                out,
                self._out.handle,
                out,
                self._out.handle,
                ctypes.byref(self._algorithm),
                ctypes.c_void_p(workspace),
                ctypes.c_size_t(self.workspace_bytes),
                ctypes.c_void_p(stream),
            )


_NO_ALGORITHM = (Status.NOT_SUPPORTED, Status.INVALID_VALUE)


def _operation(transpose: bool) -> ctypes.c_int32:
    return ctypes.c_int32(Operation.TRANSPOSE if transpose else Operation.NONE)


class Session:
    """cublasLt on the current device, with the plans that were made.

    Args:
        library: the library, or a simulated one.

    Attributes:
        exact_relu: whether the epilogues with a relu are exact, by dtype and precision, as far as
            it is known; see :mod:`~nnkernels.backends.cupy.products.exactness`.

    Raises:
        CublasError: no device, or no room.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        library.call("Create", ctypes.byref(self._handle))
        self._lock = threading.Lock()
        self._plans: dict[tuple[Any, ...], Plan | None] = {}
        self.exact_relu: dict[tuple[str, str], bool] = {}

    def plan(
        self,
        problem: Problem,
        epilogue: Epilogue,
        pointers: Pointers,
        workspace_bytes: int = WORKSPACE_BYTES,
    ) -> Plan | None:
        """The plan for a kind of product on arrays aligned like ``pointers``.

        None where cublasLt has no algorithm for this epilogue here.

        Raises:
            CublasError: cublasLt failed, or has no algorithm even without an epilogue.
        """
        key = problem, epilogue, pointers.alignments(), workspace_bytes
        with self._lock:
            if key not in self._plans:
                plan = Plan(self._library, self._handle, problem, epilogue)
                found = plan.find_algorithm(pointers, workspace_bytes)
                self._plans[key] = plan if found else None
            return self._plans[key]
