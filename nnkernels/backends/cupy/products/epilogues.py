"""What a product's epilogue asks for, by kernels of ours after the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels.backends.cupy.kernels import linear
from nnkernels.backends.cupy.launching import Product, Recording
from nnkernels.backends.cupy.products.masks import stored_output

Call = Callable[[], None]

_ACTIVATIONS = {"bias": "identity", "bias_relu": "relu"}


def after(gpu: Any, product: Product) -> list[Call]:
    """Calls that finish ``product`` once ``out`` holds the plain product, with their scratch."""
    asked, out, queue = product.epilogue, product.out, Recording()
    if asked is None:
        return []
    if asked.kind in _ACTIVATIONS:
        linear.bias_activation(queue, _ACTIVATIONS[asked.kind], out, asked.bias, out, None)
    else:
        partial = gpu.cp.empty((linear.SLICES, out.shape[1]), out.dtype)
        if asked.kind == "bias_grad":
            linear.bias_grad(queue, product.b, out=asked.bias_grad, work=(partial,))
        else:
            y = stored_output(asked.mask)
            linear.activation_backward_bias_grad(
                queue, "relu", out, y, out, asked.bias_grad, partial
            )
    return [gpu.prepare(launch) for launch in queue.taken]
