"""Whether cublasLt's relu treats what is not finite as the catalogue does; its manual is silent."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.backends.cupy.products.cublaslt import Epilogue
from nnkernels.backends.cupy.products.masks import mask_bytes
from nnkernels.backends.cupy.products.session import Pointers, Problem, Session

SIZE = 32
"""Rows and columns of the matrices that are tried."""


def relu_is_exact(gpu: Any, session: Session, dtype: str, precision: str) -> bool:
    """Whether its relu keeps NaN, and the derivative is 0 where the output was not positive.

    Tried once for a dtype and precision, on small matrices; waits for the current stream.
    """
    key = dtype, precision
    if key not in session.exact_relu:
        session.exact_relu[key] = _try(gpu, session, dtype, precision)
    return session.exact_relu[key]


def _try(gpu: Any, session: Session, dtype: str, precision: str) -> bool:
    problem = Problem(SIZE, SIZE, SIZE, False, False, dtype, precision)
    x = np.eye(SIZE, dtype=dtype)
    x[0, 0] = np.nan
    bits = gpu.cp.zeros((mask_bytes(SIZE, SIZE),), "uint8")
    for epilogue in (Epilogue.RELU_BIAS, Epilogue.RELU_AUX_BIAS):
        y = _product(gpu, session, problem, epilogue, x, bits)
        if y is None:
            return epilogue == Epilogue.RELU_AUX_BIAS  # nothing writes bits, and nothing reads them
        if not (np.isnan(y[0]).all() and np.array_equal(y[1:], np.eye(SIZE)[1:])):
            return False
    gradient = _product(gpu, session, problem, Epilogue.DRELU_BGRAD, np.full_like(x, np.nan), bits)
    positive = np.eye(SIZE) == x  # the diagonal, but for its first entry, NaN
    return gradient is None or np.array_equal(np.isnan(gradient), positive & (x > 0))


def _product(
    gpu: Any, session: Session, problem: Problem, epilogue: Epilogue, x: Any, bits: Any
) -> Any:
    """``x`` times the identity, with an epilogue; None where there is no algorithm."""
    cp = gpu.cp
    a, b = cp.asarray(x), cp.asarray(np.eye(SIZE, dtype=problem.dtype))
    out, vector = cp.zeros((SIZE, SIZE), problem.dtype), cp.zeros((SIZE,), problem.dtype)
    pointers = Pointers(*(int(each.data.ptr) for each in (a, b, out, vector, bits)))
    plan = session.plan(problem, epilogue, pointers, workspace_bytes=0)
    if plan is None:
        return None
    plan.run(int(cp.cuda.get_current_stream().ptr), pointers)
    return out.get()
