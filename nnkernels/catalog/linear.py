"""Matrix products, affine layers and sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkernels.spec import Array, Cost, Error, Params, get_op, op

__all__ = [
    "add",
    "add_backward",
    "bias_add",
    "bias_add_backward",
    "bias_grad",
    "linear",
    "linear_activation",
    "linear_backward",
    "matmul",
    "matmul_backward",
]


def _matmul_signature(params: Params) -> str:
    a = "(k,m)" if params["transpose_a"] else "(m,k)"
    b = "(n,k)" if params["transpose_b"] else "(k,n)"
    return f"{a},{b}->(m,n)"


def _matmul_backward_signature(params: Params) -> str:
    operands = _matmul_signature(params).partition("->")[0]
    return f"(m,n),{operands}->{operands}"


def _product_flops(dims: Mapping[str, Any]) -> float:
    return float(2 * dims["m"] * dims["n"] * dims["k"])


def _product_scale(a: Array, b: Array, inner: int) -> Array:
    """``sqrt(K) * (|A| @ |B|)``: the spread of a sum of K rounding errors."""
    scale: Array = np.sqrt(max(inner, 1)) * (np.abs(a) @ np.abs(b))
    return scale


def _oriented(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> tuple[Array, Array]:
    return (a.T if transpose_a else a), (b.T if transpose_b else b)


def _matmul_scale(
    outputs: tuple[Array, ...], a: Array, b: Array, *, transpose_a: bool, transpose_b: bool
) -> tuple[Array, ...]:
    left, right = _oriented(a, b, transpose_a, transpose_b)
    return (_product_scale(left, right, left.shape[1]),)


@op(
    _matmul_signature,
    error=Error(2, _matmul_scale),
    cost=Cost(_product_flops),
    saves=("a", "b"),
)
def matmul(
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: Array | None = None,
) -> Array:
    """Matrix product ``A B``, with either operand transposed on request.

    Shapes: ``a`` (m, k), or (k, m) with ``transpose_a``; ``b`` (k, n), or (n, k) with
    ``transpose_b``; result (m, n). A transposed operand is read in place, not copied. Products are
    computed in the arrays' own precision (never TF32 or half, unless the backend's ``precision``
    asks for it).

    Source: ``torch.mm``; Golub and Van Loan, Matrix Computations, section 1.1.
    """
    left, right = _oriented(a, b, transpose_a, transpose_b)
    product: Array = left @ right
    return product


def _matmul_backward_scale(
    outputs: tuple[Array, ...],
    grad: Array,
    a: Array,
    b: Array,
    *,
    transpose_a: bool,
    transpose_b: bool,
) -> tuple[Array, ...]:
    left, right = _oriented(a, b, transpose_a, transpose_b)
    grad_a = _product_scale(grad, right.T, grad.shape[1])
    grad_b = _product_scale(left.T, grad, grad.shape[0])
    return (grad_a.T if transpose_a else grad_a), (grad_b.T if transpose_b else grad_b)


@matmul.backward(
    signature=_matmul_backward_signature,
    error=Error(2, _matmul_backward_scale),
    cost=Cost(lambda d: 2 * _product_flops(d)),
    covers=("matmul",),
)
def matmul_backward(
    grad: Array,
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """Gradients of :func:`matmul`: ``dA = G Bᵀ`` and ``dB = Aᵀ G``, transposed like the operands.

    Shapes: ``grad`` (m, n); results like ``a`` and ``b``.
    """
    left, right = _oriented(a, b, transpose_a, transpose_b)
    grad_a, grad_b = grad @ right.T, left.T @ grad
    return (grad_a.T if transpose_a else grad_a), (grad_b.T if transpose_b else grad_b)


@matmul_backward.composed
def _matmul_backward(
    call: Any, grad: Any, a: Any, b: Any, *, transpose_a: bool, transpose_b: bool
) -> tuple[Any, Any]:
    if transpose_a:
        grad_a = call("matmul", b, grad, transpose_a=transpose_b, transpose_b=True)
    else:
        grad_a = call("matmul", grad, b, transpose_b=not transpose_b)
    if transpose_b:
        grad_b = call("matmul", grad, a, transpose_a=True, transpose_b=transpose_a)
    else:
        grad_b = call("matmul", a, grad, transpose_a=not transpose_a)
    return grad_a, grad_b


def _bias_add_scale(outputs: tuple[Array, ...], x: Array, b: Array) -> tuple[Array, ...]:
    return (np.abs(x) + np.abs(b),)


@op("(b,n),(n)->(b,n)", error=Error(1, _bias_add_scale), cost=Cost(1), saves=())
def bias_add(x: Array, b: Array, *, out: Array | None = None) -> Array:
    """Add the row vector ``b`` to every row: ``y[i, j] = x[i, j] + b[j]``.

    Shapes: ``x`` (b, n), ``b`` (n); result (b, n).
    """
    return x + b


@bias_add.backward(
    signature="(b,n)->(b,n),(n)",
    error=Error(2, lambda outputs, grad: (np.abs(outputs[0]), _column_scale(grad))),
    cost=Cost(1),
    covers=("identity", "bias_grad"),
)
def bias_add_backward(
    grad: Array, *, out: tuple[Array | None, Array | None] | None = None
) -> tuple[Array, Array]:
    """Gradients of :func:`bias_add`: ``grad`` itself for x, its column sums for b."""
    return grad.copy(), grad.sum(0)


@bias_add_backward.composed
def _bias_add_backward(call: Any, grad: Any) -> tuple[Any, Any]:
    return call("identity", grad), call("bias_grad", grad)


def _column_scale(grad: Array) -> Array:
    scale: Array = np.sqrt(max(len(grad), 1)) * np.abs(grad).sum(0)
    return scale


@op(
    "(b,n)->(n)",
    error=Error(2, lambda outputs, grad: (_column_scale(grad),)),
    cost=Cost(lambda d: d["b"] * d["n"]),
)
def bias_grad(grad: Array, *, out: Array | None = None) -> Array:
    """Gradient of a bias: the sum over the rows (the batch) of ``grad``.

    Shapes: ``grad`` (b, n); result (n), zeros when b = 0.
    """
    sums: Array = grad.sum(0)
    return sums


def _linear_scale(outputs: tuple[Array, ...], x: Array, w: Array, b: Array) -> tuple[Array, ...]:
    return (_product_scale(x, w, x.shape[1]) + np.abs(b),)


@op(
    "(b,k),(k,n),(n)->(b,n)",
    error=Error(2, _linear_scale),
    cost=Cost(lambda d: 2.0 * d["b"] * d["n"] * d["k"] + d["b"] * d["n"]),
    saves=("x", "w"),
    covers=("matmul", "bias_add"),
)
def linear(x: Array, w: Array, b: Array, *, out: Array | None = None) -> Array:
    """Fully connected layer ``y = x w + b``.

    Shapes: ``x`` (b, k), ``w`` (k, n), ``b`` (n); result (b, n). The weight is stored as the
    textbooks write it, inputs by outputs (``torch.nn.functional.linear`` stores the transpose).
    """
    y: Array = x @ w + b
    return y


@linear.composed
def _linear(call: Any, x: Any, w: Any, b: Any) -> Any:
    return call("bias_add", call("matmul", x, w), b)


def _linear_backward_scale(
    outputs: tuple[Array, ...], grad: Array, x: Array, w: Array
) -> tuple[Array, ...]:
    return (
        _product_scale(grad, w.T, grad.shape[1]),
        _product_scale(x.T, grad, grad.shape[0]),
        _column_scale(grad),
    )


@linear.backward(
    signature="(b,n),(b,k),(k,n)->grad_x(b,k),grad_w(k,n),grad_b(n)",
    error=Error(2, _linear_backward_scale),
    cost=Cost(lambda d: 4.0 * d["b"] * d["n"] * d["k"] + d["b"] * d["n"]),
    covers=("matmul", "bias_grad"),
)
def linear_backward(
    grad: Array,
    x: Array,
    w: Array,
    *,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`linear`: ``dx = G wᵀ``, ``dw = xᵀ G``, ``db`` = column sums of G.

    Shapes: ``grad`` (b, n), ``x`` (b, k), ``w`` (k, n); results (b, k), (k, n), (n). A None in
    ``out`` marks a gradient that is not wanted; it is not computed (the first layer's ``dx``).
    """
    return grad @ w.T, x.T @ grad, grad.sum(0)


@linear_backward.composed
def _linear_backward(call: Any, grad: Any, x: Any, w: Any) -> tuple[Any, Any, Any]:
    return (
        call("matmul", grad, w, transpose_b=True),
        call("matmul", x, grad, transpose_a=True),
        call("bias_grad", grad),
    )


def _linear_activation_scale(
    outputs: tuple[Array, ...], x: Array, w: Array, b: Array, *, activation: str
) -> tuple[Array, ...]:
    # An error of z passes on by at most the largest slope of a common activation (gelu: 1.13).
    z = _linear_scale(outputs, x, w, b)[0]
    return 1.13 * z + np.abs(outputs[0]), z


@op(
    "(b,k),(k,n),(n)->y(b,n),z(b,n)",
    error=Error(4, _linear_activation_scale),
    cost=Cost(lambda d: 2.0 * d["b"] * d["n"] * d["k"] + d["b"] * d["n"]),
    covers=("linear", "$activation"),
)
def linear_activation(
    x: Array,
    w: Array,
    b: Array,
    *,
    activation: str = "relu",
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """Fully connected layer with its activation: ``z = x w + b``, ``y = activation(z)``.

    Shapes: ``x`` (b, k), ``w`` (k, n), ``b`` (n); results ``y`` and ``z``, both (b, n).
    ``activation`` names an elementwise operator of the catalogue, used with its default
    parameters. A None in ``out`` in the place of ``z`` says that only ``y`` is wanted.
    """
    z = x @ w + b
    return get_op(activation).evaluate(z, **get_op(activation).params)[0], z


@linear_activation.composed
def _linear_activation(call: Any, x: Any, w: Any, b: Any, *, activation: str) -> tuple[Any, Any]:
    z = call("linear", x, w, b)
    return call(activation, z), z


def _add_scale(outputs: tuple[Array, ...], a: Array, b: Array) -> tuple[Array, ...]:
    return (np.abs(a) + np.abs(b),)


@op("(...),(...)->(...)", error=Error(1, _add_scale), cost=Cost(1))
def add(a: Array, b: Array, *, out: Array | None = None) -> Array:
    """Elementwise sum ``a + b`` of two arrays of one shape (skip connections)."""
    return a + b


@add.backward(
    signature="(...)->(...),(...)",
    error=Error(0),
    covers=("identity",),
)
def add_backward(
    grad: Array, *, out: tuple[Array | None, Array | None] | None = None
) -> tuple[Array, Array]:
    """Gradients of :func:`add`: ``grad`` for both."""
    return grad.copy(), grad.copy()


@add_backward.composed
def _add_backward(call: Any, grad: Any) -> tuple[Any, Any]:
    return call("identity", grad), call("identity", grad)
