"""Matrix products with their epilogues: by cublasLt where that layer is on, else by CuPy.

:func:`prepare` makes everything that can be made once: the algorithm, the scratch, the launches of
what could not be done on the way. What it returns allocates nothing and can be put into a CUDA
graph, if cublasLt computes it.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from nnkernels.backends.cupy.launching import Product
from nnkernels.backends.cupy.products import lt, plain
from nnkernels.backends.cupy.products.checks import check
from nnkernels.backends.cupy.products.masks import ReluMask, mask_bytes
from nnkernels.backends.cupy.products.prepared import PreparedProduct
from nnkernels.backends.cupy.products.session import WORKSPACE_BYTES, Session
from nnkernels.errors import BackendError

__all__ = ["WORKSPACE_BYTES", "ReluMask", "mask_bytes", "prepare", "prepare_lt", "prepare_plain"]

_sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def prepare(
    gpu: Any, product: Product, precision: str = "fp32", workspace: Any = None
) -> PreparedProduct:
    """A product, ready to run as often as one likes.

    Args:
        gpu: the device; its layer ``lt`` is switched off if cublasLt fails.
        product: what to compute.
        precision: of float32 products: ``fp32``, or with cublasLt ``tf32``, ``bf16``, ``fp16``.
        workspace: scratch for cublasLt that all products of one list share, uint8, aligned to 256,
            :data:`WORKSPACE_BYTES` or fewer; by default each has what its algorithm asks for.

    Raises:
        BackendError: the arrays do not fit, or the precision needs cublasLt, which is off.
    """
    check(product)
    if gpu.layers.on("lt") and not _is_empty(product):
        try:
            return prepare_lt(gpu, product, precision, workspace)
        except BackendError as error:
            gpu.layers.switch_off("lt", str(error))
    if precision != "fp32" and product.out.dtype == "float32" and not _is_empty(product):
        raise BackendError(
            f"precision {precision!r} needs the layer 'lt', which is off; "
            "'nnkernels info' says why; use precision 'fp32'"
        )
    return prepare_plain(gpu, product)


def prepare_lt(
    gpu: Any, product: Product, precision: str = "fp32", workspace: Any = None
) -> PreparedProduct:
    """As :func:`prepare`, by cublasLt whatever the layers are; for products without empty arrays.

    Raises:
        BackendError: cublasLt fails, is not installed, or has no algorithm.
    """
    with gpu.current():
        with _lock:
            if gpu not in _sessions:
                _sessions[gpu] = Session(lt.cublaslt_of(gpu.cp))
            session = _sessions[gpu]
        return lt.prepare(gpu, session, product, precision, workspace)


def prepare_plain(gpu: Any, product: Product) -> PreparedProduct:
    """As :func:`prepare`, by CuPy whatever the layers are.

    Raises:
        BackendError: CuPy would compute it in another precision than fp32.
    """
    with gpu.current():
        return plain.prepare(gpu, product)


def _is_empty(product: Product) -> bool:
    return not (product.a.size and product.b.size)
