"""What checking finds out about a kind of call, and the memory of it.

The result for one combination of operator, backend, shapes, dtypes and parameters is kept as a
:class:`Plan`, so that only the first such call pays for it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnkernels import signature as sig
from nnkernels.backend import Backend, Kernel
from nnkernels.errors import DTypeError, InputError, ShapeError
from nnkernels.spec import Op

MAX_PLANS = 4096

plans: dict[Any, Plan] = {}


class Plan(NamedTuple):
    """What checking found out about calls of one operator with given shapes and dtypes."""

    op: Op[Any, Any]
    backend: Backend
    kernel: Kernel | None
    params: Mapping[str, Any]
    signature: sig.Signature
    dims: sig.Dims
    outputs: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    work: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    checked_values: tuple[int, ...]
    updated: tuple[int, ...]
    function: Callable[..., None] | None
    """The kernel's function, without NumPy's floating-point warnings."""
    simple: bool
    """Whether the function needs nothing but the arrays, one ``out`` and the parameters."""


def key_of(
    op: Op[Any, Any], backend: Backend, arrays: Sequence[Any], params: Mapping[str, Any]
) -> Any:
    """What calls must share to share a plan."""
    shapes = tuple([(a.shape, a.dtype) for a in arrays])
    if not params:
        return op, backend, shapes
    # With their types: True and 1.0 equal 1, and yet are refused where a whole number is asked for.
    return op, backend, shapes, tuple([(k, v, type(v)) for k, v in params.items()])


def lookup(key: Any) -> Plan | None:
    """The plan kept under ``key``, if any."""
    try:
        return plans.get(key)
    except TypeError:  # an unhashable parameter, refused by name when the plan is made
        return None


def remember(key: Any, plan: Plan) -> Plan:
    """Keep ``plan``; all are forgotten when they become too many."""
    if len(plans) >= MAX_PLANS:
        plans.clear()
    plans[key] = plan
    return plan


def make_plan(
    op: Op[Any, Any], backend: Backend, arrays: Sequence[Any], given: Mapping[str, Any]
) -> Plan:
    """Check parameters, dtypes and shapes, and choose the kernel."""
    params = op.full_params(given)
    shapes = [tuple(a.shape) for a in arrays]
    signature, dims = _match(op, [a.dtype for a in arrays], shapes, params)
    resolution = backend.resolve(op.name, params)
    floating = _floating(op, signature, arrays, params)
    kernel = resolution.kernel
    workspace = sig.parse_arguments(kernel.workspace) if kernel else ()
    function = None
    if kernel is not None:
        # As a decorator errstate costs 0.3 us a call, in a with statement 0.7.
        function = np.errstate(all="ignore")(limited(backend, kernel, kernel.function))
    simple = len(signature.outputs) == 1 and not (op.updates or workspace)
    return Plan(
        op,
        backend,
        kernel,
        params,
        signature,
        dims,
        _arrays_of(op, signature.outputs, dims, floating),
        _arrays_of(op, workspace, dims, floating),
        tuple(i for i, a in enumerate(signature.inputs) if a.interval and a.kind != "float"),
        tuple(op.inputs.index(name) for name in op.updates),
        function,
        simple and function is not None and backend.strided,
    )


def limited(backend: Backend, kernel: Kernel, function: Callable[..., None]) -> Callable[..., None]:
    """``function``, which runs ``kernel``, under the backend's number of threads.

    Only where one was asked for, and where the kernel may call a library that has threads.
    """
    if backend.threads is None or backend.limit is None or not kernel.blas:
        return function
    limit, threads = backend.limit, backend.threads

    @functools.wraps(function)
    def held(*arrays: Any, **keywords: Any) -> None:
        with limit(threads):
            function(*arrays, **keywords)

    return held


def _arrays_of(
    op: Op[Any, Any], arguments: Sequence[sig.Argument], dims: sig.Dims, floating: np.dtype[Any]
) -> tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]:
    specs = tuple((sig.shape_of(a, dims), a.dtype(floating)) for a in arguments)
    for shape, dtype in specs:
        if sig.size(shape) * dtype.itemsize > sys.maxsize:
            raise InputError(f"{op.name}: an array of shape {shape} is beyond any memory")
    return specs


def _floating(
    op: Op[Any, Any], signature: sig.Signature, arrays: Sequence[Any], params: Mapping[str, Any]
) -> np.dtype[Any]:
    for argument, array in zip(signature.inputs, arrays, strict=True):
        if argument.kind == "float":
            given: np.dtype[Any] = array.dtype
            return given
    name = params.get("dtype", "float32")
    for dtype in sig.FLOAT_DTYPES:
        if dtype.name == name:
            return dtype
    raise DTypeError(f"{op.name}: dtype must be float32 or float64, got {name!r}")


def _match(
    op: Op[Any, Any],
    dtypes: Sequence[np.dtype[Any]],
    shapes: Sequence[tuple[int, ...]],
    params: Mapping[str, Any],
) -> tuple[sig.Signature, sig.Dims]:
    failures: list[tuple[sig.Signature, sig.Mismatch]] = []
    for signature in op.signatures(params):
        kinds = [a.kind for a in signature.inputs]
        checked = [(k, d.kind) for k, d in zip(kinds, dtypes, strict=True) if k in ("float", "int")]
        if any((kind == "float") != (got == "f") for kind, got in checked):
            continue
        try:
            return signature, signature.solve(shapes, params)
        except sig.Mismatch as error:
            failures.append((signature, error))
    if not failures:
        raise DTypeError(f"{op.name}: dtypes {[str(d) for d in dtypes]} fit none of {op.signature}")
    signature, first = failures[0]
    raise ShapeError(
        f"{op.name}: {op.inputs[first.index]} has shape {shapes[first.index]}, expected "
        f"{first.expected} (signature {_signature_text(op, signature)})"
    )


def _signature_text(op: Op[Any, Any], signature: sig.Signature) -> str:
    inputs = ", ".join(f"{n}{a}" for n, a in zip(op.inputs, signature.inputs, strict=True))
    return f"{inputs} -> {', '.join(str(a) for a in signature.outputs)}"
