"""Matrix products, affine layers and sums.

Products go to the queue; what surrounds them is fused: a bias with the activation behind it, a
derivative with the column sums of its result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnkernels.backends.cupy.kernels.activations import GELU, copy, zeros
from nnkernels.backends.cupy.kernels.geometry import WARP, tile
from nnkernels.backends.cupy.launching import (
    BLOCK,
    Launch,
    Product,
    Queue,
    RecipeTable,
    can_vectorise,
    ceil_div,
    elementwise,
    storage_of,
    vector_length,
)
from nnkernels.spec import get_op

recipes = RecipeTable()

SLICES = 128
"""Most slices of the rows whose column sums are taken apart from one another."""

PARTIAL = f"partial({SLICES},n)"
"""Scratch for the column sums of the slices."""

ROUNDS = 8
"""A slice is this many times the rows that a block reads at once: fewer are not worth a launch."""

WITH_SUMS = frozenset(("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus"))
"""Activations that :func:`activation_backward_bias_grad` knows."""

WITH_BIAS = WITH_SUMS | {"identity", "step"}
"""Activations that :func:`bias_activation` knows."""

VECTOR_LANES = 8
"""Lanes side by side, of 16 bytes each: 128 bytes are what memory moves at best."""


def _launch(queue: Queue, kernel: str, like: Any, grid: tuple[int, int], *arguments: Any) -> None:
    queue.launch(Launch("linear", kernel, storage_of(like), grid, BLOCK, arguments))


# --- sums ---------------------------------------------------------------------------------------


@recipes.recipe
def add(queue: Queue, a: Any, b: Any, *, out: Any) -> None:
    """``a + b``."""
    elementwise(queue, "linear", "add", (a, b), (out,))


@recipes.recipe
def add_backward(queue: Queue, grad: Any, *, out: tuple[Any, Any]) -> None:
    """``grad``, copied to where it is wanted."""
    for target in out:
        if target is not None:
            copy(queue, grad, target)


@recipes.recipe
def bias_add(queue: Queue, x: Any, b: Any, *, out: Any) -> None:
    """``x + b``."""
    bias_activation(queue, "identity", x, b, out)


@recipes.recipe(workspace=PARTIAL)
def bias_add_backward(queue: Queue, grad: Any, *, out: tuple[Any, Any], work: tuple[Any]) -> None:
    """``grad``, copied, and its column sums."""
    grad_x, grad_b = out
    if grad_b is not None:
        bias_grad(queue, grad, out=grad_b, work=work)
    if grad_x is not None:
        copy(queue, grad, grad_x)


@recipes.recipe(workspace=PARTIAL)
def bias_grad(queue: Queue, grad: Any, *, out: Any, work: tuple[Any]) -> None:
    """Column sums: in one launch, or for many rows by slices and then over these."""
    _sum_columns(queue, "bias_grad", (grad,), (out,), (), work[0])


def activation_backward_bias_grad(
    queue: Queue,
    activation: str,
    grad: Any,
    saved: Any,
    out: Any,
    sums: Any,
    partial: Any,
    **params: Any,
) -> None:
    """``out``, the derivative of one of :data:`WITH_SUMS`, and its column sums.

    Shapes: ``grad``, ``saved`` (what the activation saves) and ``out``, which may be ``grad``
    (b, n); ``sums`` (n); ``partial`` (:data:`SLICES`, n), scratch of the arithmetic type.
    """
    function, numbers = _function(activation, params)
    kernel = f"{function}_backward_bias_grad"
    _sum_columns(queue, kernel, (grad, saved, out), (sums,), numbers, partial)


def _function(activation: str, params: Mapping[str, Any]) -> tuple[str, tuple[float, ...]]:
    """What the kernels call an activation, and the numbers that they take."""
    given = {**get_op(activation).params, **params}
    name = GELU[given["approximate"]] if activation == "gelu" else activation
    return name, tuple(value for value in given.values() if isinstance(value, float))


def _sum_columns(
    queue: Queue,
    kernel: str,
    matrices: tuple[Any, ...],
    sums: tuple[Any],
    params: tuple[float, ...],
    partial: Any,
) -> None:
    """Launch a kernel that sums over rows, and if it leaves sums of slices their addition."""
    (rows, columns), like = matrices[0].shape, matrices[0]
    if not columns:
        return
    items, lanes = columns, WARP
    if can_vectorise(columns, *matrices, *sums, partial):
        kernel, lanes = f"{kernel}_vec", VECTOR_LANES
        items = columns // vector_length(storage_of(like))
    shift, blocks = _strips(items, lanes)
    slices = min(max(1, ceil_div(rows, ROUNDS * (BLOCK >> shift))), SLICES)
    scratch = partial if slices > 1 else None
    arguments = (*matrices, *sums, scratch, *params, rows, columns, shift)
    _launch(queue, kernel, like, (blocks, slices), *arguments)
    if slices > 1:
        shift, blocks = _strips(columns, WARP)
        arguments = (partial, *sums, slices, columns, shift)
        _launch(queue, "column_totals", like, (blocks, 1), *arguments)


def _strips(items: int, lanes: int) -> tuple[int, int]:
    """The shift of a strip of up to ``lanes`` items, as few as hold them all, and their number."""
    shift = min(items - 1, lanes - 1).bit_length()
    return shift, ceil_div(items, 1 << shift)


# --- products -----------------------------------------------------------------------------------


def _multiply(
    queue: Queue, a: Any, b: Any, out: Any, *, transpose_a: bool = False, transpose_b: bool = False
) -> None:
    """A product; one without inner terms is 0."""
    if not out.size:
        return
    if a.size:
        queue.product(Product(a, b, out, transpose_a, transpose_b))
    else:
        zeros(queue, out)


@recipes.recipe
def matmul(queue: Queue, a: Any, b: Any, *, transpose_a: bool, transpose_b: bool, out: Any) -> None:
    """One product."""
    _multiply(queue, a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)


@recipes.recipe
def matmul_backward(
    queue: Queue,
    grad: Any,
    a: Any,
    b: Any,
    *,
    transpose_a: bool,
    transpose_b: bool,
    out: tuple[Any, Any],
) -> None:
    """A product for each gradient that is wanted; that of a transposed operand is transposed."""
    grad_a, grad_b = out
    if grad_a is not None and transpose_a:
        _multiply(queue, b, grad, grad_a, transpose_a=transpose_b, transpose_b=True)
    elif grad_a is not None:
        _multiply(queue, grad, b, grad_a, transpose_b=not transpose_b)
    if grad_b is not None and transpose_b:
        _multiply(queue, grad, a, grad_b, transpose_a=True, transpose_b=transpose_a)
    elif grad_b is not None:
        _multiply(queue, a, grad, grad_b, transpose_a=not transpose_a)


# --- affine layers ------------------------------------------------------------------------------


def bias_activation(
    queue: Queue, activation: str, x: Any, b: Any, y: Any, z: Any = None, **params: Any
) -> None:
    """``y = f(x + b)`` for one of :data:`WITH_BIAS`, and ``z = x + b`` where it is wanted.

    Shapes: ``x``, ``y`` and ``z`` (b, n), of which any may be the same; ``b`` (n).
    """
    if not y.size:
        return
    function, numbers = _function(activation, params)
    kernel = "bias_add" if function == "identity" else f"bias_{function}"
    (rows, columns), items = x.shape, x.shape[1]
    if can_vectorise(columns, x, b, y, z):
        kernel, items = f"{kernel}_vec", columns // vector_length(storage_of(x))
    shift, grid = tile(rows, items)
    arguments = (x, b, y, z, *numbers, rows, columns, shift)
    _launch(queue, kernel, x, grid, *arguments)


@recipes.recipe
def linear(queue: Queue, x: Any, w: Any, b: Any, *, out: Any) -> None:
    """A product, and its bias in place."""
    _multiply(queue, x, w, out)
    bias_activation(queue, "identity", out, b, out)


@recipes.recipe(workspace=PARTIAL)
def linear_backward(
    queue: Queue,
    grad: Any,
    x: Any,
    w: Any,
    *,
    out: tuple[Any, Any, Any],
    work: tuple[Any],
) -> None:
    """A product for each gradient that is wanted, and column sums."""
    grad_x, grad_w, grad_b = out
    if grad_x is not None:
        _multiply(queue, grad, w, grad_x, transpose_b=True)
    if grad_w is not None:
        _multiply(queue, x, grad, grad_w, transpose_a=True)
    if grad_b is not None:
        bias_grad(queue, grad, out=grad_b, work=work)


@recipes.recipe
def linear_activation(
    queue: Queue, x: Any, w: Any, b: Any, *, activation: str, out: tuple[Any, Any]
) -> None:
    """A product, then bias and activation in one launch, in place where ``z`` is not wanted."""
    y, z = out
    product = y if z is None else z
    _multiply(queue, x, w, product)
    if y is None:
        bias_activation(queue, "identity", z, b, z)
    else:
        bias_activation(queue, activation, product, b, y, z)
