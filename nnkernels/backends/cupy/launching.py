"""Launches as data, the check that every one passes, and how operators become launches.

A recipe turns one operator into launches on a :class:`Queue`: one that runs them at once (a call),
or one that records them (a Program's step). CuPy checks nothing of what it hands to a kernel: an
array of another dtype, a missing argument or a Python float where four bytes are read give wrong
numbers; so every launch is checked here against the kernel's own declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from nnkernels import spec
from nnkernels.backends.cupy import sources
from nnkernels.errors import BackendError

BLOCK = 256
"""Threads of a block where nothing asks for another number."""

MAX_BLOCKS = 1024
"""Blocks of a grid-stride loop: enough to fill the largest GPU (132 processors of 8 blocks)."""

MAX_GRID = (2**31 - 1, 65535)
"""Largest grid in x and y."""

_DTYPES = {"float32": "float32", "float64": "float64", "float16": "float16", "uint16": "bfloat16"}


class Launch(NamedTuple):
    """One kernel on its arguments.

    Attributes:
        module, kernel, storage: which kernel; see :mod:`nnkernels.backends.cupy.sources`.
        grid: blocks in x and y.
        block: threads of a block.
        arguments: device arrays, None for a null pointer, and numbers.
    """

    module: str
    kernel: str
    storage: str
    grid: tuple[int, int]
    block: int
    arguments: tuple[Any, ...]


class Epilogue(NamedTuple):
    """What is done to a product before it is written.

    Attributes:
        kind: ``bias`` adds a row vector, ``bias_relu`` then takes max(., 0); ``bias_grad`` writes
            the column sums of the operand ``b`` too, ``drelu_bias_grad`` zeroes where the stored
            output ``mask`` is not positive and writes the column sums.
        bias: of shape (n), read.
        mask: the stored output of a relu, of the product's shape.
        bias_grad: of shape (n), written.
    """

    kind: Literal["bias", "bias_relu", "bias_grad", "drelu_bias_grad"]
    bias: Any = None
    mask: Any = None
    bias_grad: Any = None


class Product(NamedTuple):
    """``out = op(a) op(b)`` of row-major matrices."""

    a: Any
    b: Any
    out: Any
    transpose_a: bool = False
    transpose_b: bool = False
    epilogue: Epilogue | None = None


class Queue(Protocol):
    """Where launches go."""

    def launch(self, launch: Launch) -> None:
        """Take one launch."""

    def product(self, product: Product) -> None:
        """Take one matrix product."""


class Recording:
    """A queue that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[Launch | Product] = []

    def launch(self, launch: Launch) -> None:
        """Check and keep a launch."""
        check(launch)
        self.taken.append(launch)

    def product(self, product: Product) -> None:
        """Keep a product."""
        self.taken.append(product)


class Recipe(NamedTuple):
    """How an operator becomes launches, and the scratch that it asks for."""

    function: Callable[..., None]
    workspace: str


class RecipeTable(dict[str, Recipe]):
    """Recipes by operator name, filled with ``@table.recipe``."""

    def recipe(
        self, function: Callable[..., None] | None = None, *, workspace: str = ""
    ) -> Callable[..., Any]:
        """Register a function under its own name, which must be a declared operator's."""

        def add(function: Callable[..., None]) -> Callable[..., None]:
            name = spec.get_op(function.__name__).name
            if name in self:
                raise BackendError(f"two recipes for operator {name!r}")
            self[name] = Recipe(function, workspace)
            return function

        return add if function is None else add(function)


# --- checking ----------------------------------------------------------------------------------


def check(launch: Launch) -> None:
    """Refuse a launch that does not fit the kernel's declaration.

    Raises:
        BackendError: the number of arguments, a dtype, an array that is not C-contiguous or not
            aligned, a number outside its type, or a grid or block that cannot be.
    """
    signature = sources.signatures(launch.module).get(launch.kernel)
    if signature is None:
        raise BackendError(f"module {launch.module!r} has no kernel {launch.kernel!r}")
    where = f"{launch.module}.{launch.kernel} ({launch.storage})"
    if len(launch.arguments) != len(signature.parameters):
        names = ", ".join(p.name for p in signature.parameters)
        given = len(launch.arguments)
        raise BackendError(f"{where}: got {given} arguments, the kernel takes ({names})")
    if not 0 < launch.block <= signature.bound:
        raise BackendError(f"{where}: block of {launch.block}, compiled for {signature.bound}")
    if not all(0 < n <= most for n, most in zip(launch.grid, MAX_GRID, strict=True)):
        raise BackendError(f"{where}: a grid of {launch.grid} cannot be launched")
    for parameter, argument in zip(signature.parameters, launch.arguments, strict=True):
        dtype = sources.element_type(parameter, launch.storage)
        reason = (_bad_array if parameter.pointer else _bad_number)(dtype, argument)
        if reason:
            raise BackendError(f"{where}: {parameter.name} {reason}")
        if vectorised(launch.kernel) and parameter.pointer and parameter.type == "T":
            _check_aligned(where, parameter.name, argument)


def vectorised(kernel: str) -> bool:
    """Whether a kernel reads and writes 16 bytes at once."""
    return kernel.endswith("_vec")


def _check_aligned(where: str, name: str, array: Any) -> None:
    if array is not None and array.shape and array.data.ptr % sources.VECTOR_BYTES:
        raise BackendError(f"{where}: {name} is not aligned to {sources.VECTOR_BYTES} bytes")


def _bad_array(dtype: np.dtype[Any], array: Any) -> str:
    if array is None:
        return ""
    if not hasattr(array, "data") or not hasattr(array.data, "ptr"):
        return f"must be a device array, got {type(array).__name__}"
    if array.dtype != dtype and not (dtype == np.uint8 and array.dtype == np.bool_):
        return f"must be {dtype}, got {array.dtype}"
    if not array.flags.c_contiguous:
        return f"must be C-contiguous; its shape is {array.shape}, its strides {array.strides}"
    if array.data.ptr % dtype.itemsize:
        return f"is not aligned to {dtype.itemsize} bytes"
    return ""


def _bad_number(dtype: np.dtype[Any], number: Any) -> str:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return f"must be a number, got {type(number).__name__}"
    if dtype.kind == "f":
        return ""
    limits = np.iinfo(dtype)
    if not isinstance(number, int) or not limits.min <= number <= limits.max:
        return f"must be {dtype}, got {number!r}"
    return ""


def packed_arguments(launch: Launch) -> tuple[Any, ...]:
    """The arguments as CuPy must get them: arrays, and numbers in the kernel's own types."""
    parameters = sources.signatures(launch.module)[launch.kernel].parameters
    with np.errstate(over="ignore"):  # a bound beyond float32 is infinity, which bounds nothing
        return tuple(
            _packed(sources.element_type(parameter, launch.storage), parameter.pointer, argument)
            for parameter, argument in zip(parameters, launch.arguments, strict=True)
        )


def _packed(dtype: np.dtype[Any], pointer: bool, argument: Any) -> Any:
    if pointer:
        return np.uint64(0) if argument is None else argument
    return dtype.type(argument)


# --- geometry ----------------------------------------------------------------------------------


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def storage_of(array: Any) -> str:
    """The storage type of a floating array; uint16 holds the bits of bfloat16."""
    return _DTYPES[array.dtype.name]


def vector_length(storage: str) -> int:
    """Elements that a thread of a vector kernel takes at once."""
    return sources.VECTOR_BYTES // sources.ITEMSIZES[storage]


def can_vectorise(length: int, *arrays: Any) -> bool:
    """Whether all floating arrays (not single numbers) can be read by 16 bytes, ``length`` long."""
    floating = [a for a in arrays if a is not None and a.shape and a.dtype.name in _DTYPES]
    if not floating:
        return False
    lanes = vector_length(storage_of(floating[0]))
    return length % lanes == 0 and all(a.data.ptr % sources.VECTOR_BYTES == 0 for a in floating)


def stride_grid(count: int) -> tuple[int, int]:
    """Blocks of :data:`BLOCK` threads for a grid-stride loop over ``count`` items."""
    return (max(1, min(ceil_div(count, BLOCK), MAX_BLOCKS)), 1)


def elementwise(
    queue: Queue,
    module: str,
    kernel: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    params: Sequence[float] = (),
    *trailing: Any,
) -> None:
    """One launch over all elements: 16 bytes at a time where length and addresses allow.

    The kernel takes inputs, outputs, params, the number of elements, then ``trailing`` arguments.
    """
    first = outputs[0] if outputs else inputs[0]
    if not first.size:
        return
    storage, count = storage_of(first), int(first.size)
    if can_vectorise(count, *inputs, *outputs):
        kernel, items = f"{kernel}_vec", count // vector_length(storage)
    else:
        items = count
    arguments = (*inputs, *outputs, *params, count, *trailing)
    queue.launch(Launch(module, kernel, storage, stride_grid(items), BLOCK, arguments))
