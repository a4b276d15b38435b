"""Products by ``cupy.matmul``: complete, but never in a CUDA graph, which CuPy's cuBLAS refuses.

Read in CuPy 14.2 (``cupy/_core/_routines_linalg.pyx``): for two-dimensional operands of one dtype
and a C-contiguous ``out`` that overlaps neither, a transposed view is handed to cuBLAS as such, not
copied, and nothing is allocated, except for a result of one element, which is a sum of products
(from CuPy's memory pool). Without an inner dimension ``out`` is filled with zeros. float32 is
computed in CUBLAS_COMPUTE_32F, true float32, unless the environment variable CUPY_TF32 is set.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from nnkernels.backends.cupy.launching import Product
from nnkernels.backends.cupy.products.epilogues import after
from nnkernels.backends.cupy.products.masks import note_bits
from nnkernels.backends.cupy.products.prepared import PreparedProduct
from nnkernels.errors import BackendError

TF32_VARIABLE = "CUPY_TF32"


def prepare(gpu: Any, product: Product) -> PreparedProduct:
    """A product by CuPy, and its epilogue by kernels of ours.

    Raises:
        BackendError: ``CUPY_TF32`` would make it inexact.
    """
    if product.out.dtype == "float32" and os.environ.get(TF32_VARIABLE, "0") != "0":
        raise BackendError(
            f"{TF32_VARIABLE} is set: CuPy would compute float32 products in TF32; unset it, and "
            "ask for get_backend('cupy', precision='tf32') where you want that"
        )
    note_bits(product, written=False)
    a = product.a.T if product.transpose_a else product.a
    b = product.b.T if product.transpose_b else product.b
    multiply = functools.partial(gpu.cp.matmul, a, b, out=product.out)
    asked = product.epilogue
    then = "" if asked is None else f", then {asked.kind} by our kernels"
    return PreparedProduct([multiply, *after(gpu, product)], f"cupy.matmul{then}")
