"""Products by cublasLt, with as much of the epilogue as it has an algorithm for."""

from __future__ import annotations

from typing import Any, NamedTuple

from nnkernels.backends.cupy.launching import Product
from nnkernels.backends.cupy.products import cublaslt
from nnkernels.backends.cupy.products.cublaslt import Epilogue
from nnkernels.backends.cupy.products.epilogues import after
from nnkernels.backends.cupy.products.exactness import relu_is_exact
from nnkernels.backends.cupy.products.masks import ReluMask, note_bits
from nnkernels.backends.cupy.products.prepared import PreparedProduct
from nnkernels.backends.cupy.products.session import (
    WORKSPACE_BYTES,
    Plan,
    Pointers,
    Problem,
    Session,
)
from nnkernels.errors import BackendError


def cublaslt_of(cp: Any) -> cublaslt.Library:
    """cublasLt: the namespace's own, which the simulated one has, else the installed one.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    simulated = getattr(cp, "cublaslt", None)
    return cublaslt.load() if simulated is None else cublaslt.Library(simulated)


class _Choice(NamedTuple):
    """A plan, the arrays' addresses, and whether kernels of ours must do the epilogue."""

    plan: Plan
    pointers: Pointers
    unfinished: bool


def prepare(
    gpu: Any, session: Session, product: Product, precision: str, workspace: Any = None
) -> PreparedProduct:
    """A product with its epilogue, or without it where cublasLt has no algorithm for that.

    Args:
        gpu: the device.
        session: cublasLt on it.
        product: what to compute; no array is empty.
        precision: of float32 products.
        workspace: scratch that other products on the same stream may share, uint8, aligned to 256;
            by default as much is allocated, once, as the algorithm asks for.

    Raises:
        BackendError: cublasLt fails, or has no algorithm at all.
    """
    room = WORKSPACE_BYTES if workspace is None else int(workspace.nbytes)
    choice = _choose(gpu, session, product, precision, room)
    note_bits(product, written=choice.plan.epilogue == Epilogue.RELU_AUX_BIAS)
    needed = choice.plan.workspace_bytes
    if workspace is None and needed:
        workspace = gpu.cp.empty((needed,), "uint8")
    calls = [_Run(gpu.cp, choice, product, workspace)]
    if not choice.unfinished:
        return PreparedProduct(calls, _text(choice.plan, precision, product))
    return PreparedProduct([*calls, *after(gpu, product)], _text(choice.plan, precision, product))


class _Run:
    """Queues a plan on the current stream; keeps the arrays that it was made for alive."""

    def __init__(self, cp: Any, choice: _Choice, product: Product, workspace: Any) -> None:
        self._stream = cp.cuda.get_current_stream
        self._plan, self._pointers = choice.plan, choice.pointers
        self._arrays = product, workspace
        self._workspace = 0 if workspace is None else int(workspace.data.ptr)

    def __call__(self) -> None:
        self._plan.run(int(self._stream().ptr), self._pointers, self._workspace)


# --- which algorithm ---------------------------------------------------------------------------


def _choose(gpu: Any, session: Session, product: Product, precision: str, room: int) -> _Choice:
    problem = _problem(product, precision)
    for epilogue in _candidates(product):
        if epilogue in _WITH_RELU and not relu_is_exact(gpu, session, problem.dtype, precision):
            continue
        pointers = _pointers(product, epilogue)
        plan = session.plan(problem, epilogue, pointers, room)
        if plan is not None:
            unfinished = product.epilogue is not None and epilogue == Epilogue.DEFAULT
            return _Choice(plan, pointers, unfinished)
    raise BackendError(
        f"cublasLt has no algorithm for a {problem.dtype} product of {problem.m} x {problem.k} by "
        f"{problem.k} x {problem.n} in {precision}, aligned like its arrays"
    )


def _problem(product: Product, precision: str) -> Problem:
    m, n = product.out.shape
    k = product.a.shape[0 if product.transpose_a else 1]
    transposed = product.transpose_a, product.transpose_b
    return Problem(int(m), int(n), int(k), *transposed, product.out.dtype.name, precision)


def _candidates(product: Product) -> list[Epilogue]:
    """Epilogues of cublasLt that serve, the best first; the last is none."""
    if product.epilogue is None:
        return [Epilogue.DEFAULT]
    kind, mask = product.epilogue.kind, product.epilogue.mask
    with_bits = isinstance(mask, ReluMask) and (kind == "bias_relu" or mask.written)
    return [*_SERVING[kind, with_bits], Epilogue.DEFAULT]


_SERVING = {
    ("bias", False): (Epilogue.BIAS,),
    ("bias_relu", False): (Epilogue.RELU_BIAS,),
    ("bias_relu", True): (Epilogue.RELU_AUX_BIAS, Epilogue.RELU_BIAS),
    ("bias_grad", False): (Epilogue.BGRADA,),
    ("drelu_bias_grad", False): (),
    ("drelu_bias_grad", True): (Epilogue.DRELU_BGRAD,),
}
"""By kind, and whether a relu's bit mask can be written or read."""

_WITH_RELU = (Epilogue.RELU_BIAS, Epilogue.RELU_AUX_BIAS, Epilogue.DRELU_BGRAD)


def _pointers(product: Product, epilogue: Epilogue) -> Pointers:
    vector = mask = None
    if product.epilogue is not None and epilogue != Epilogue.DEFAULT:
        asked = product.epilogue
        vector = asked.bias if asked.bias is not None else asked.bias_grad
        mask = asked.mask.bits if isinstance(asked.mask, ReluMask) else None
    arrays = product.a, product.b, product.out, vector, mask
    return Pointers(*(0 if array is None else int(array.data.ptr) for array in arrays))


def _text(plan: Plan, precision: str, product: Product) -> str:
    how = f"cublasLt {precision}" if product.out.dtype == "float32" else "cublasLt"
    if plan.epilogue != Epilogue.DEFAULT:
        return f"{how} with {plan.epilogue.name}"
    if product.epilogue is None:
        return how
    return f"{how}, then {product.epilogue.kind} by our kernels (it has no exact algorithm)"
