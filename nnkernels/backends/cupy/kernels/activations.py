"""Activations by elements, and their derivatives: one launch each."""

from __future__ import annotations

from typing import Any

from nnkernels.backends.cupy.launching import (
    BLOCK,
    Launch,
    Queue,
    RecipeTable,
    elementwise,
    storage_of,
    stride_grid,
)

recipes = RecipeTable()


def zeros(queue: Queue, out: Any) -> None:
    """Fill ``out`` with zeros."""
    if out.size:
        size = int(out.size)
        queue.launch(
            Launch("activations", "zeros", storage_of(out), stride_grid(size), BLOCK, (out, size))
        )


def copy(queue: Queue, x: Any, out: Any) -> None:
    """Copy ``x`` to ``out``, unless it is there already."""
    if out.data.ptr != x.data.ptr:
        elementwise(queue, "activations", "identity", (x,), (out,))


@recipes.recipe
def identity(queue: Queue, x: Any, *, out: Any) -> None:
    """A copy."""
    copy(queue, x, out)


@recipes.recipe
def identity_backward(queue: Queue, grad: Any, *, out: Any) -> None:
    """A copy."""
    copy(queue, grad, out)


@recipes.recipe
def step(queue: Queue, x: Any, *, out: Any) -> None:
    """1 where positive."""
    elementwise(queue, "activations", "step", (x,), (out,))


@recipes.recipe
def step_backward(queue: Queue, grad: Any, *, out: Any) -> None:
    """Zeros; ``grad`` is not read."""
    zeros(queue, out)


@recipes.recipe
def sigmoid(queue: Queue, x: Any, *, out: Any) -> None:
    """``1 / (1 + exp(-x))``."""
    elementwise(queue, "activations", "sigmoid", (x,), (out,))


@recipes.recipe
def sigmoid_backward(queue: Queue, grad: Any, y: Any, *, out: Any) -> None:
    """``grad y (1 - y)``."""
    elementwise(queue, "activations", "sigmoid_backward", (grad, y), (out,))


@recipes.recipe
def tanh(queue: Queue, x: Any, *, out: Any) -> None:
    """Hyperbolic tangent; the name ``tanh`` is CUDA's own."""
    elementwise(queue, "activations", "hyperbolic_tangent", (x,), (out,))


@recipes.recipe
def tanh_backward(queue: Queue, grad: Any, y: Any, *, out: Any) -> None:
    """``grad (1 - y²)``."""
    elementwise(queue, "activations", "tanh_backward", (grad, y), (out,))


@recipes.recipe
def relu(queue: Queue, x: Any, *, out: Any) -> None:
    """``max(x, 0)``."""
    elementwise(queue, "activations", "relu", (x,), (out,))


@recipes.recipe
def relu_backward(queue: Queue, grad: Any, y: Any, *, out: Any) -> None:
    """``grad`` where ``y`` is positive."""
    elementwise(queue, "activations", "relu_backward", (grad, y), (out,))


@recipes.recipe
def leaky_relu(queue: Queue, x: Any, *, slope: float, out: Any) -> None:
    """``x`` or ``slope x``."""
    elementwise(queue, "activations", "leaky_relu", (x,), (out,), (slope,))


@recipes.recipe
def leaky_relu_backward(queue: Queue, grad: Any, y: Any, *, slope: float, out: Any) -> None:
    """``grad`` or ``slope grad``."""
    elementwise(queue, "activations", "leaky_relu_backward", (grad, y), (out,), (slope,))


@recipes.recipe
def elu(queue: Queue, x: Any, *, alpha: float, out: Any) -> None:
    """``x`` or ``alpha (exp(x) - 1)``."""
    elementwise(queue, "activations", "elu", (x,), (out,), (alpha,))


@recipes.recipe
def elu_backward(queue: Queue, grad: Any, x: Any, *, alpha: float, out: Any) -> None:
    """``grad`` times 1 or ``alpha exp(x)``."""
    elementwise(queue, "activations", "elu_backward", (grad, x), (out,), (alpha,))


GELU = {"none": "gelu", "tanh": "gelu_tanh"}
"""Kernel by the form of gelu."""


@recipes.recipe
def gelu(queue: Queue, x: Any, *, approximate: str, out: Any) -> None:
    """``x`` times the normal distribution function, or the tanh form."""
    elementwise(queue, "activations", GELU[approximate], (x,), (out,))


@recipes.recipe
def gelu_backward(queue: Queue, grad: Any, x: Any, *, approximate: str, out: Any) -> None:
    """``grad`` times the derivative of either form."""
    elementwise(queue, "activations", f"{GELU[approximate]}_backward", (grad, x), (out,))


@recipes.recipe
def silu(queue: Queue, x: Any, *, out: Any) -> None:
    """``x sigmoid(x)``."""
    elementwise(queue, "activations", "silu", (x,), (out,))


@recipes.recipe
def silu_backward(queue: Queue, grad: Any, x: Any, *, out: Any) -> None:
    """``grad`` times the derivative of ``x sigmoid(x)``."""
    elementwise(queue, "activations", "silu_backward", (grad, x), (out,))


@recipes.recipe
def softplus(queue: Queue, x: Any, *, beta: float, out: Any) -> None:
    """``log(1 + exp(beta x)) / beta``."""
    elementwise(queue, "activations", "softplus", (x,), (out,), (beta,))


@recipes.recipe
def softplus_backward(queue: Queue, grad: Any, x: Any, *, beta: float, out: Any) -> None:
    """``grad sigmoid(beta x)``."""
    elementwise(queue, "activations", "softplus_backward", (grad, x), (out,), (beta,))
