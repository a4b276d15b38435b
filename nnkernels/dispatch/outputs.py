"""The door for outputs: new arrays, or given ones that fit and overlap nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkernels.dispatch.plan import Plan
from nnkernels.errors import DeviceMismatchError, OutputError, type_name


def allocate(plan: Plan) -> tuple[Any, ...]:
    """Uninitialised arrays for all outputs."""
    empty = plan.backend.device.empty
    return tuple([empty(shape, dtype) for shape, dtype in plan.outputs])


def separate(plan: Plan, arrays: Sequence[Any], out: Any) -> bool:
    """Whether ``out`` is plainly right: a writable array that fits and shares no memory."""
    shape, dtype = plan.outputs[0]
    if type(out) is not np.ndarray or out.shape != shape or out.dtype != dtype:
        return False
    if not out.flags.carray:  # writable, aligned, C-contiguous
        return False
    for array in arrays:  # noqa: SIM110  # a loop: this is the fast path
        if np.may_share_memory(out, array):
            return False
    return True


def check_out(plan: Plan, arrays: Sequence[Any], out: Any) -> tuple[Any, ...]:
    """The given ``out`` as a tuple, each array checked; None marks an output not wanted."""
    outs = out if isinstance(out, tuple) else (out,)
    if len(outs) != len(plan.outputs):
        count = len(plan.outputs)
        raise OutputError(f"{plan.op.name}: out must be {count} arrays, got {len(outs)}")
    for position, (array, (shape, dtype)) in enumerate(zip(outs, plan.outputs, strict=True)):
        if array is None and len(outs) > 1:
            continue
        if not plan.backend.device.owns(array):
            raise DeviceMismatchError(
                f"{plan.op.name}: out is a {type_name(array)}, not an array of device "
                f"{plan.backend.device.name}"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise OutputError(f"{plan.op.name}: out is a masked array; give out.data")
        if array.shape != shape or array.dtype != dtype:
            raise OutputError(
                f"{plan.op.name}: out must have shape {shape} and dtype {dtype}, got {array.shape} "
                f"{array.dtype}"
            )
        _check_memory(plan, array, arrays, "out", plan.signature.rowwise)
        _check_memory(plan, array, outs[:position], "out", False)
    return outs


def _check_memory(
    plan: Plan, target: Any, others: Sequence[Any], what: str, in_place: bool
) -> None:
    """Refuse a target that cannot be written, or that shares memory it must not share."""
    if isinstance(target, np.ndarray) and not target.flags.writeable:
        raise OutputError(f"{plan.op.name}: {what} is read-only; give a writable array")
    if _overlaps_itself(target):
        raise OutputError(f"{plan.op.name}: {what} has elements that share memory; give a copy")
    for other in others:
        if other is None or not _may_overlap(plan, target, other):
            continue
        if in_place and _same_memory(plan, target, other):
            continue
        # Only NumPy can tell whether interleaved views meet; others are taken to do so.
        if not isinstance(target, np.ndarray) or np.shares_memory(target, other):
            raise OutputError(
                f"{plan.op.name}: {what} overlaps another argument; give separate memory"
                + (", or exactly that argument" if in_place else "")
            )


def _may_overlap(plan: Plan, a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.may_share_memory(a, b)
    extent = plan.backend.device.extent
    (a_first, a_last), (b_first, b_last) = extent(a), extent(b)
    return max(a_first, b_first) < min(a_last, b_last)


def _overlaps_itself(array: Any) -> bool:
    """Whether two elements may share memory (strides from ``as_strided`` or ``broadcast_to``)."""
    if array.size < 2:
        return False
    reach = array.itemsize
    steps = zip(array.strides, array.shape, strict=True)
    for stride, length in sorted((abs(stride), length) for stride, length in steps if length > 1):
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False


def _same_memory(plan: Plan, a: Any, b: Any) -> bool:
    extent = plan.backend.device.extent
    return a is b or (
        extent(a) == extent(b) and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
    )


def check_updated(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    """Refuse updated arguments that are read-only or overlap another array of the call."""
    for index in plan.updated:
        target = arrays[index]
        others = [*arrays[:index], *arrays[index + 1 :], *outs]
        _check_memory(plan, target, others, plan.op.inputs[index], False)


def results(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> Any:
    """What a call returns: the outputs, then the updated arguments; a single one by itself."""
    results = (*outs, *[arrays[i] for i in plan.updated])
    return results[0] if len(results) == 1 else results
