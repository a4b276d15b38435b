"""From a public call to a kernel: check, allocate, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkernels import spec
from nnkernels.backend import Backend, frozen, packed
from nnkernels.dispatch.arguments import check_values, gather_arguments, normalise
from nnkernels.dispatch.choice import current, default_for, get_backend, serving
from nnkernels.dispatch.outputs import allocate, check_out, check_updated, results, separate
from nnkernels.dispatch.plan import Plan, key_of, limited, lookup, make_plan, remember
from nnkernels.errors import BackendError, DTypeError, NnkernelsError
from nnkernels.spec import Array, Op


class Dispatcher:
    """Fills the slot through which operators are called."""

    def call(
        self, op: Op[Any, Any], backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Check, allocate and run ``op``; returns its outputs, or the updated arguments."""
        out = kwargs.pop("out", None) if kwargs else None
        plan, arrays = _prepare(op, backend, args, kwargs)
        if plan.simple and (out is None or separate(plan, arrays, out)):
            return _run_simple(plan, arrays, out)
        outs = allocate(plan) if out is None else check_out(plan, arrays, out)
        _run(plan, arrays, outs)
        return results(plan, arrays, outs)

    def get_backend(self, name: str) -> Backend:
        """See :func:`get_backend`."""
        return get_backend(name)


def bind(
    op: str | Op[Any, Any],
    *args: Any,
    out: Any = None,
    backend: str | Backend | None = None,
    **params: Any,
) -> Callable[[], Any]:
    """Check a call once and return a function without arguments that repeats it on these arrays.

    The returned function runs the kernel and nothing else (no checks, no allocation), and returns
    the same output arrays every time. Values of labels and scalars are checked only now, and
    floating-point warnings are the caller's (``numpy.errstate``).
    """
    op = spec.get_op(op) if isinstance(op, str) else op
    chosen = None if backend is None else get_backend(backend)
    plan, arrays = _prepare(op, chosen, args, params)
    outs = allocate(plan) if out is None else check_out(plan, arrays, out)
    check_updated(plan, arrays, outs)
    result = results(plan, arrays, outs)
    if plan.function is None or not (plan.backend.strided or _all_packed(arrays, outs)):

        def checked() -> Any:
            _run(plan, arrays, outs)
            return result

        return checked
    assert plan.kernel is not None
    keywords = _keywords(plan, outs)
    repeat = limited(plan.backend, plan.kernel, frozen(plan.kernel.function, arrays, keywords))

    def call() -> Any:
        repeat()
        return result

    return call


def _prepare(
    op: Op[Any, Any], backend: Backend | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Plan, tuple[Array, ...]]:
    host = True
    for a in args:
        if type(a) is not np.ndarray:
            host = False
    if backend is None:
        backend = serving() if host else current.get() or default_for(args)
    if host:
        plan = lookup(key_of(op, backend, args, kwargs))
        if plan is not None:
            if plan.checked_values:
                check_values(plan, args)
            return plan, args
    args, params = gather_arguments(op, args, kwargs)
    arrays = normalise(op, backend, args, params)
    for name in op.updates:
        if arrays[op.inputs.index(name)] is not args[op.inputs.index(name)]:
            raise DTypeError(
                f"{op.name}: {name} is updated in place: give an array of a float dtype"
            )
    key = key_of(op, backend, arrays, params)
    if not all(type(a) is np.ndarray for a in arrays):
        key = (*key, "device arrays")  # never to be taken for a host call, whose checks it skipped
    plan = lookup(key) or remember(key, make_plan(op, backend, arrays, params))
    check_values(plan, arrays)
    return plan, arrays


def _run_simple(plan: Plan, arrays: Sequence[Any], out: Any) -> Any:
    """The fast path: one output, nothing updated, no scratch, a kernel that takes any strides."""
    assert plan.function is not None
    if out is None:
        out = plan.backend.device.empty(*plan.outputs[0])
    try:
        plan.function(*arrays, out=out, **plan.params)
    except (NnkernelsError, MemoryError):
        raise
    except Exception as error:
        raise _failure(plan, error) from error
    return out


def _failure(plan: Plan, error: Exception) -> BackendError:
    origin = plan.kernel.origin if plan.kernel else "its composition"
    return BackendError(
        f"{plan.op.name} on {plan.backend.name} failed in {origin}: {type(error).__name__}: {error}"
    )


def _run(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    if plan.updated:
        check_updated(plan, arrays, outs)
    try:
        if plan.function is None:
            _run_composed(plan, arrays, outs)
        elif plan.backend.strided or _all_packed(arrays, outs):
            plan.function(*arrays, **_keywords(plan, outs))
        else:
            _run_contiguous(plan, arrays, outs)
    except (NnkernelsError, MemoryError):
        raise
    except Exception as error:
        raise _failure(plan, error) from error


def _keywords(plan: Plan, outs: tuple[Any, ...]) -> dict[str, Any]:
    keywords = dict(plan.params)
    if outs:
        keywords["out"] = outs[0] if len(outs) == 1 else outs
    if plan.work:
        empty = plan.backend.device.empty
        keywords["work"] = tuple(empty(shape, dtype) for shape, dtype in plan.work)
    return keywords


def _all_packed(arrays: Sequence[Any], outs: Sequence[Any]) -> bool:
    return all(packed(a) for a in (*arrays, *outs) if a is not None)


def _run_contiguous(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    """Run a kernel that wants packed arrays on copies, and copy back what it wrote."""
    inputs = [a if packed(a) else a.copy(order="C") for a in arrays]
    targets = tuple(
        o if o is None or packed(o) else plan.backend.device.empty(o.shape, o.dtype) for o in outs
    )
    assert plan.function is not None
    plan.function(*inputs, **_keywords(plan, targets))
    written = [*zip(outs, targets, strict=True), *((arrays[i], inputs[i]) for i in plan.updated)]
    for target, source in written:
        if target is not None and target is not source:
            target[...] = source


def _run_composed(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    def call(name: str, *inputs: Any, **params: Any) -> Any:
        return spec.get_op(name).on(plan.backend, *inputs, **params)

    assert plan.op.composition is not None
    results = plan.op.composition(call, *arrays, **plan.params)
    results = results if isinstance(results, tuple) else (results,)
    for target, result in zip(outs, results, strict=True):
        if target is not None:
            target[...] = result


spec.slot.runtime = Dispatcher()
