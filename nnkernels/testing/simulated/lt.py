"""A stand-in for the cublasLt library: the same functions, on simulated memory, in NumPy.

What it refuses when a descriptor is made or changed is what the real library refuses without a GPU
(``tests/ladder/test_lt_descriptors.py`` holds both to one table): an unknown attribute, or a value
of the wrong size. What the real one refuses later, in the heuristic and the product, it refuses
too: shapes that do not fit, arrays less aligned than was said, an algorithm that was found for
something else, too little workspace. Which epilogues a GPU has algorithms for it cannot know: here
all have one unless :class:`Faults` says otherwise.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nnkernels.backends.cupy.products.cublaslt import (
    Algorithm,
    ComputeType,
    DataType,
    Epilogue,
    HeuristicResult,
    Matmul,
    Preference,
    Status,
)
from nnkernels.spec import Array

VERSION = 130000
WORKSPACE_BYTES = 4096
LONG_SUM = 64
"""Sums of so many terms take an algorithm that needs workspace, if it is allowed."""


class Device(Protocol):
    """What the library needs of a simulated GPU."""

    def read(self, address: int, nbytes: int) -> Array:
        """Bytes of device memory, as uint8."""

    def write(self, address: int, data: Array) -> None:
        """Change bytes of device memory; ``data`` is uint8."""

    def enqueue(self, stream: int, name: str, work: Callable[[], None]) -> None:
        """Do ``work`` when the stream comes to it."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong on purpose.

    Attributes:
        missing: epilogues that no algorithm has.
        statuses: status that a function gives, by its name.
        wrong: whether products are a little wrong.
        drops_nan: whether the relu makes 0 of NaN, and its derivative keeps what is not finite.
    """

    missing: frozenset[Epilogue] = frozenset()
    statuses: Mapping[str, int] = field(default_factory=dict)
    wrong: bool = False
    drops_nan: bool = False


_SIZES: Mapping[str, Mapping[int, int]] = {
    "MatmulDesc": {
        Matmul.TRANSPOSE_A: 4,
        Matmul.TRANSPOSE_B: 4,
        Matmul.EPILOGUE: 4,
        Matmul.BIAS_POINTER: 8,
        Matmul.AUX_POINTER: 8,
        Matmul.AUX_LEADING_DIMENSION: 8,
    },
    "MatmulPreference": {
        Preference.MAX_WORKSPACE_BYTES: 8,
        Preference.MIN_ALIGNMENT_A: 4,
        Preference.MIN_ALIGNMENT_B: 4,
        Preference.MIN_ALIGNMENT_C: 4,
        Preference.MIN_ALIGNMENT_D: 4,
    },
}
"""Bytes of every attribute that is known here."""

_NUMBERS: Mapping[int, Any] = {
    ComputeType.F32: np.float32,
    ComputeType.F32_FAST_TF32: np.float32,
    ComputeType.F32_FAST_16BF: np.float32,
    ComputeType.F32_FAST_16F: np.float32,
    ComputeType.F64: np.float64,
}
_MATRICES: Mapping[int, Any] = {DataType.F32: np.float32, DataType.F64: np.float64}


@dataclass
class _Object:
    """A descriptor: what it was made with, and its attributes."""

    kind: str
    made_with: tuple[int, ...]
    attributes: dict[int, int] = field(default_factory=dict)


class CublasLt:
    """The library.

    Args:
        device: where the arrays are.
        faults: what goes wrong.

    Attributes:
        products: epilogues of the products that were queued.
    """

    def __init__(self, device: Device, faults: Faults = Faults()) -> None:
        self.device, self.faults = device, faults
        self.products: list[Epilogue] = []
        self._numbers = itertools.count(0x1000, 16)
        self._objects: dict[int, _Object] = {}
        self._found: dict[int, tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Callable[..., int]:
        """A function of the library, by its C name."""
        function = _FUNCTIONS.get(name.removeprefix("cublasLt"))
        if function is None or not name.startswith("cublasLt"):
            raise AttributeError(f"cublasLt has no function {name!r}")
        signature, run = function

        def call(*arguments: Any) -> int:
            _check_types(name, signature, arguments)
            planted = self.faults.statuses.get(name)
            return run(self, *arguments) if planted is None else planted

        return call

    # --- objects -------------------------------------------------------------------------------

    def _made(self, kind: str, pointer: Any, *values: Any) -> int:
        number = next(self._numbers)
        self._objects[number] = _Object(kind, tuple(int(each.value) for each in values))
        pointer._obj.value = number
        return Status.SUCCESS

    def _destroyed(self, kind: str, handle: Any) -> int:
        if self._known(kind, handle) is None:
            return Status.INVALID_VALUE
        del self._objects[handle.value]
        return Status.SUCCESS

    def _known(self, kind: str, handle: Any) -> _Object | None:
        found = self._objects.get(handle.value or 0)
        return found if found is not None and found.kind == kind else None

    def _set(self, kind: str, handle: Any, attribute: Any, value: Any, size: Any) -> int:
        known = self._known(kind, handle)
        if known is None or _SIZES[kind].get(attribute.value) != size.value:
            return Status.INVALID_VALUE
        known.attributes[attribute.value] = int.from_bytes(bytes(value._obj), "little")
        return Status.SUCCESS

    # --- products ------------------------------------------------------------------------------

    def _heuristic(self, *arguments: Any) -> int:
        handle, matmul, *layouts, preference, wanted, result, count = arguments
        settings = self._known("MatmulPreference", preference)
        if self._known("", handle) is None:
            return Status.NOT_INITIALIZED
        problem = self._problem(matmul, layouts)
        if problem is None or settings is None or wanted.value < 1:
            return Status.INVALID_VALUE
        if problem.epilogue in self.faults.missing:
            return Status.NOT_SUPPORTED
        allowed = settings.attributes.get(Preference.MAX_WORKSPACE_BYTES, 0)
        needed = WORKSPACE_BYTES if problem.k >= LONG_SUM and allowed >= WORKSPACE_BYTES else 0
        number = next(self._numbers)
        alignments = tuple(settings.attributes.get(each, 256) for each in _ALIGNMENTS)
        self._found[number] = (problem.key(), alignments, needed)
        result._obj.algorithm.data[0] = number
        result._obj.workspace_bytes, result._obj.state = needed, Status.SUCCESS
        count._obj.value = 1
        return Status.SUCCESS

    def _multiply(self, *arguments: Any) -> int:
        handle, matmul, one, a, a_layout, b, b_layout, zero, c, c_layout, d, d_layout = arguments[
            :12
        ]
        algorithm, workspace, size, stream = arguments[12:]
        if self._known("", handle) is None:
            return Status.NOT_INITIALIZED
        problem = self._problem(matmul, [a_layout, b_layout, c_layout, d_layout])
        found = self._found.get(algorithm._obj.data[0])
        if problem is None or found is None or c.value != d.value:
            return Status.INVALID_VALUE
        key, alignments, needed = found
        addresses = [each.value or 0 for each in (a, b, c, d)]
        if key != problem.key() or (one._obj.value, zero._obj.value) != (1, 0):
            return Status.INVALID_VALUE
        if not all(x and x % least == 0 for x, least in zip(addresses, alignments, strict=True)):
            return Status.INVALID_VALUE
        scratch = workspace.value or 0
        if size.value < needed or (needed and (not scratch or scratch % 16)):
            return Status.INVALID_VALUE
        self.products.append(problem.epilogue)

        def work() -> None:
            if needed:
                self.device.write(scratch, np.full(needed, 0xA5, np.uint8))
            problem.run(self.device, addresses[0], addresses[1], addresses[3], self.faults)

        self.device.enqueue(stream.value or 0, f"cublasLt {problem.epilogue.name}", work)
        return Status.SUCCESS

    def _problem(self, matmul: Any, layouts: Any) -> _Problem | None:
        """What the descriptors describe; None where they contradict themselves."""
        described = self._known("MatmulDesc", matmul)
        known = [self._known("MatrixLayout", each) for each in layouts]
        if described is None or any(each is None for each in known):
            return None
        return _Problem.read(described, [each.made_with for each in known if each is not None])


@dataclass(frozen=True)
class _Problem:
    """A product as the descriptors describe it, by columns."""

    compute: int
    kind: int
    epilogue: Epilogue
    transposed: tuple[bool, bool]
    shapes: tuple[tuple[int, int, int], ...]
    vector: int
    mask: int
    mask_width: int

    @classmethod
    def read(cls, matmul: _Object, layouts: list[tuple[int, ...]]) -> _Problem | None:
        get = matmul.attributes.get
        compute, scale = matmul.made_with
        epilogue = get(Matmul.EPILOGUE, Epilogue.DEFAULT)
        operations = get(Matmul.TRANSPOSE_A, 0), get(Matmul.TRANSPOSE_B, 0)
        kinds = {layout[0] for layout in layouts}
        if epilogue not in set(Epilogue) or not set(operations) <= {0, 1}:
            return None
        if kinds != {scale} or _NUMBERS.get(compute) is not _MATRICES.get(scale):
            return None
        made = cls(
            compute,
            scale,
            Epilogue(epilogue),
            (bool(operations[0]), bool(operations[1])),
            tuple((rows, columns, width) for _, rows, columns, width in layouts),
            get(Matmul.BIAS_POINTER, 0),
            get(Matmul.AUX_POINTER, 0),
            get(Matmul.AUX_LEADING_DIMENSION, 0),
        )
        return made if made.fits() else None

    def fits(self) -> bool:
        """Whether shapes, leading dimensions and the epilogue's pointers are possible."""
        (m, k), (inner, n) = self._operated(0), self._operated(1)
        out = self.shapes[3]
        if (k, self.shapes[2], out[:2]) != (inner, out, (m, n)) or not m * n * k:
            return False
        if any(width < rows for rows, _, width in self.shapes):
            return False
        if self.epilogue != Epilogue.DEFAULT and not self.vector:
            return False
        if self.epilogue not in (Epilogue.RELU_AUX_BIAS, Epilogue.DRELU_BGRAD):
            return True
        return bool(self.mask) and self.mask_width >= m and self.mask_width % 128 == 0

    def _operated(self, which: int) -> tuple[int, int]:
        rows, columns, _ = self.shapes[which]
        return (columns, rows) if self.transposed[which] else (rows, columns)

    @property
    def k(self) -> int:
        """Length of the sums."""
        return self._operated(0)[1]

    def key(self) -> tuple[Any, ...]:
        """What an algorithm is good for: all but the addresses."""
        alignments = (each & -each for each in (self.vector, self.mask))
        facts = self.compute, self.kind, self.epilogue, self.transposed, self.shapes
        return (*facts, self.mask_width, *(min(each, 16) for each in alignments))

    @np.errstate(all="ignore")  # a GPU warns of nothing
    def run(self, device: Device, a: int, b: int, out: int, faults: Faults) -> None:
        """Compute it."""
        left, right = self._matrix(device, 0, a), self._matrix(device, 1, b)
        result = _rounded(left, self.compute) @ _rounded(right, self.compute)
        if faults.wrong:
            result *= 1 + 2e-3
        result = self._finished(device, result, left, faults)
        rows, columns, width = self.shapes[3]
        for column in range(columns):  # what lies between columns stays as it is
            at = out + column * width * result.itemsize
            device.write(at, np.ascontiguousarray(result[:rows, column]).view(np.uint8))

    def _matrix(self, device: Device, which: int, address: int) -> Array:
        """An operand after its operation."""
        rows, columns, width = self.shapes[which]
        kind = np.dtype(_MATRICES[self.kind])
        count = (columns - 1) * width + rows
        flat = np.zeros(columns * width, kind)
        flat[:count] = device.read(address, count * kind.itemsize).view(kind)
        matrix = flat.reshape(columns, width)[:, :rows].T
        return matrix.T if self.transposed[which] else matrix

    def _finished(self, device: Device, result: Array, left: Array, faults: Faults) -> Array:
        """The result after the epilogue, whose other outputs are written."""
        if self.epilogue == Epilogue.BGRADA:
            self._write_vector(device, left.sum(1, dtype=result.dtype))
        elif self.epilogue == Epilogue.DRELU_BGRAD:
            positive = self._read_mask(device, result.shape)
            dropped = np.zeros_like(result)
            if faults.drops_nan:
                dropped = result * dropped
            result = np.where(positive, result, dropped)
            self._write_vector(device, result.sum(1, dtype=result.dtype))
        elif self.epilogue != Epilogue.DEFAULT:
            size = result.shape[0] * result.itemsize
            result = result + device.read(self.vector, size).view(result.dtype)[:, None]
            if self.epilogue == Epilogue.RELU_AUX_BIAS:
                self._write_mask(device, result > 0)
            if self.epilogue != Epilogue.BIAS:
                relu = np.fmax if faults.drops_nan else np.maximum
                result = relu(result, 0).astype(result.dtype)
        return result

    def _write_vector(self, device: Device, values: Array) -> None:
        device.write(self.vector, np.ascontiguousarray(values).view(np.uint8))

    def _write_mask(self, device: Device, positive: Array) -> None:
        bits = np.zeros((positive.shape[1], self.mask_width), bool)
        bits[:, : positive.shape[0]] = positive.T
        device.write(self.mask, np.packbits(bits, axis=1, bitorder="little").ravel())

    def _read_mask(self, device: Device, shape: tuple[int, ...]) -> Array:
        packed = device.read(self.mask, shape[1] * self.mask_width // 8)
        bits = np.unpackbits(packed.reshape(shape[1], -1), axis=1, bitorder="little")
        positive: Array = bits[:, : shape[0]].T.astype(bool)
        return positive


def _rounded(matrix: Array, compute: int) -> Array:
    """An operand as the arithmetic of ``compute`` sees it."""
    if compute == ComputeType.F32_FAST_16F:
        with np.errstate(over="ignore"):
            return matrix.astype(np.float16).astype(np.float32)
    kept = {ComputeType.F32_FAST_TF32: 10, ComputeType.F32_FAST_16BF: 7}.get(ComputeType(compute))
    if kept is None:
        return matrix
    cut = 23 - kept
    bits = np.ascontiguousarray(matrix).view(np.uint32).astype(np.uint64)
    bits += (1 << (cut - 1)) - 1 + ((bits >> cut) & 1)  # to the nearest, ties to even
    rounded: Array = (bits >> cut << cut).astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(matrix), rounded, matrix)


# --- the functions by name, with the types of their arguments ------------------------------------

_ALIGNMENTS = (
    Preference.MIN_ALIGNMENT_A,
    Preference.MIN_ALIGNMENT_B,
    Preference.MIN_ALIGNMENT_C,
    Preference.MIN_ALIGNMENT_D,
)
_POINTER = ctypes.c_void_p
_SCALAR = (ctypes.c_float, ctypes.c_double)
_SIZE = ctypes.c_size_t


@dataclass(frozen=True)
class _Reference:
    """The address of a variable of one of these types; of any if there are none."""

    to: tuple[Any, ...] = ()


_NEW = _Reference((ctypes.c_void_p,))
_SETTING = (_POINTER, ctypes.c_int, _Reference(), _SIZE)

_FUNCTIONS: Mapping[str, tuple[tuple[Any, ...], Callable[..., int]]] = {
    "GetVersion": ((), lambda self: VERSION),
    "Create": ((_NEW,), lambda self, new: self._made("", new)),
    "Destroy": ((_POINTER,), lambda self, old: self._destroyed("", old)),
    "MatmulDescCreate": (
        (_NEW, ctypes.c_int, ctypes.c_int),
        lambda self, *given: self._made("MatmulDesc", *given),
    ),
    "MatmulDescDestroy": ((_POINTER,), lambda self, old: self._destroyed("MatmulDesc", old)),
    "MatmulDescSetAttribute": (
        _SETTING,
        lambda self, *given: self._set("MatmulDesc", *given),
    ),
    "MatrixLayoutCreate": (
        (_NEW, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
        lambda self, *given: self._made("MatrixLayout", *given),
    ),
    "MatrixLayoutDestroy": ((_POINTER,), lambda self, old: self._destroyed("MatrixLayout", old)),
    "MatmulPreferenceCreate": ((_NEW,), lambda self, new: self._made("MatmulPreference", new)),
    "MatmulPreferenceDestroy": (
        (_POINTER,),
        lambda self, old: self._destroyed("MatmulPreference", old),
    ),
    "MatmulPreferenceSetAttribute": (
        _SETTING,
        lambda self, *given: self._set("MatmulPreference", *given),
    ),
    "MatmulAlgoGetHeuristic": (
        (
            *[_POINTER] * 7,
            ctypes.c_int,
            _Reference((HeuristicResult,)),
            _Reference((ctypes.c_int,)),
        ),
        CublasLt._heuristic,
    ),
    "Matmul": (
        (
            _POINTER,
            _POINTER,
            _Reference(_SCALAR),
            *[_POINTER] * 4,
            _Reference(_SCALAR),
            *[_POINTER] * 4,
            _Reference((Algorithm,)),
            _POINTER,
            _SIZE,
            _POINTER,
        ),
        CublasLt._multiply,
    ),
}


def _check_types(name: str, signature: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
    """Refuse what C would misread: a wrong count, or a type of another size.

    Raises:
        TypeError: naming the argument.
    """
    if len(arguments) != len(signature):
        raise TypeError(f"{name} takes {len(signature)} arguments, got {len(arguments)}")
    for number, (wanted, given) in enumerate(zip(signature, arguments, strict=True), 1):
        if isinstance(wanted, _Reference):
            variable = getattr(given, "_obj", None)
            fits = variable is not None and isinstance(variable, wanted.to or (object,))
        else:
            fits = isinstance(given, wanted)
        if not fits:
            raise TypeError(f"{name}: argument {number} is a {type(given).__name__}")
