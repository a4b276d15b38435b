"""The door for inputs: arrays of the backend's device, in native dtypes, with values in range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.backend import Backend
from nnkernels.dispatch.plan import Plan
from nnkernels.errors import (
    DeviceMismatchError,
    DTypeError,
    InputError,
    LabelError,
    NnkernelsError,
    type_name,
)
from nnkernels.spec import Array, Op

DLPACK_CPU = 1
"""Device type of host memory in the DLPack standard."""


def gather_arguments(
    op: Op[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Array arguments in the operator's order, wherever they were given, and the parameters."""
    if len(args) > len(op.inputs):
        raise InputError(f"{op.name}: takes arrays {op.inputs}, got {len(args)}")
    params = dict(kwargs)
    gathered = list(args)
    for name in op.inputs[len(args) :]:
        if name not in params:
            raise InputError(f"{op.name}: argument {name!r} is missing")
        gathered.append(params.pop(name))
    return tuple(gathered), params


def normalise(
    op: Op[Any, Any], backend: Backend, args: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[Array, ...]:
    """Arrays of the backend's device with native dtypes; lists and numbers become arrays."""
    arrays = [_as_array(op, n, backend, a) for n, a in zip(op.inputs, args, strict=True)]
    literal = [not (hasattr(a, "dtype") or hasattr(a, "__array__")) for a in args]
    kinds = _likely_kinds(op, arrays, literal, given)
    floating = next(
        (
            a.dtype.newbyteorder("=")
            for a, kind, is_literal in zip(arrays, kinds, literal, strict=True)
            if kind == "float" and not is_literal
        ),
        np.dtype("float64"),
    )
    return tuple(
        _convert(op, name, array, kind, floating, literal=is_literal)
        for name, array, kind, is_literal in zip(op.inputs, arrays, kinds, literal, strict=True)
    )


def _likely_kinds(
    op: Op[Any, Any], arrays: Sequence[Any], literal: Sequence[bool], given: Mapping[str, Any]
) -> list[sig.Kind]:
    """Kinds of the first alternative whose ranks and kinds fit, else of the first one."""
    alternatives = op.signatures({**op.params, **given})
    for signature in alternatives:
        triples = zip(signature.inputs, arrays, literal, strict=True)
        if all(_could_be(a, array, is_literal) for a, array, is_literal in triples):
            return [a.kind for a in signature.inputs]
    return [a.kind for a in alternatives[0].inputs]


def _could_be(argument: sig.Argument, array: Any, literal: bool) -> bool:
    if not argument.accepts_rank(len(array.shape)):
        return False
    if argument.kind == "float":
        return array.dtype.kind == "f" or literal
    return argument.kind != "int" or array.dtype.kind in "iu"


def _as_array(op: Op[Any, Any], name: str, backend: Backend, value: Any) -> Any:
    if type(value) is np.ndarray and backend.device.owns(value):
        return value
    found = value if _on_device(backend, value) else _borrowed(op, name, backend, value)
    if found is not None:
        return _aligned(op, name, backend, found)
    if not _host_like(value) or not backend.device.owns(np.empty(0)):
        if isinstance(value, (int, float)):
            return backend.device.asarray(np.asarray(value))
        remedy = (
            f"move it there with backend.asarray({name})"
            if _host_like(value)
            else f"call its own backend, or copy it to the host with that one's to_numpy({name})"
        )
        raise DeviceMismatchError(
            f"{op.name}: {name} is a {type_name(value)}, not an array of {backend.name}'s "
            f"device ({backend.device.name}); {remedy}"
        )
    return _plain(op, name, value)


def _on_device(backend: Backend, value: Any) -> bool:
    return backend.device.owns(value) and not isinstance(value, np.ndarray)


def _aligned(op: Op[Any, Any], name: str, backend: Backend, array: Any) -> Any:
    """The array, refused where no kernel of a GPU can read it, not even one that copies it."""
    if backend.device.extent(array)[0] % array.itemsize:
        raise InputError(
            f"{op.name}: {name} is not aligned to {array.itemsize} bytes, the size of "
            f"{array.dtype}; copy its bytes to a new array first"
        )
    return array


def _borrowed(op: Op[Any, Any], name: str, backend: Backend, value: Any) -> Any:
    try:
        return backend.device.borrow(value)
    except DeviceMismatchError as error:
        raise DeviceMismatchError(f"{op.name}: {name}: {error}") from error


def _host_like(value: Any) -> bool:
    if hasattr(value, "__cuda_array_interface__"):
        return False
    device = getattr(value, "__dlpack_device__", None)
    return device is None or device()[0] == DLPACK_CPU


def _plain(op: Op[Any, Any], name: str, value: Any) -> Array:
    """A base-class NumPy array of a list, number, matrix, DataFrame, CPU tensor, ..."""
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise InputError(f"{op.name}: {name} has masked elements; fill them: x.filled(...)")
        value = value.data
    try:
        array = np.asarray(value)
    except NnkernelsError as error:  # an array of another device that refuses a silent copy
        raise DeviceMismatchError(f"{op.name}: {name}: {error}") from error
    except Exception as error:  # __array__ is foreign code
        raise InputError(f"{op.name}: {name} cannot become an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DTypeError(
            f"{op.name}: {name} has dtype {array.dtype}; give numbers, for example "
            "numpy.asarray(x, dtype='float32')"
        )
    return array


def _convert(
    op: Op[Any, Any],
    name: str,
    array: Any,
    kind: sig.Kind,
    floating: np.dtype[Any],
    *,
    literal: bool,
) -> Any:
    dtype = array.dtype
    if kind == "float":
        if literal or (not dtype.isnative and dtype.newbyteorder("=") in sig.FLOAT_DTYPES):
            return array.astype(floating if literal else dtype.newbyteorder("="))
        if dtype not in sig.FLOAT_DTYPES:
            raise _bad_dtype(op, name, dtype, " or ".join(d.name for d in sig.FLOAT_DTYPES))
        if dtype != floating:
            raise DTypeError(
                f"{op.name}: {name} is {dtype}, other arguments are {floating}; nothing is cast "
                f"silently: {name}.astype('{floating}')"
            )
        return array
    want = sig.KIND_DTYPES[kind]
    if dtype == want:
        return array
    if kind == "scalar" and dtype.kind in "fiu":
        return array.astype(want)
    if kind in ("int", "counter") and dtype.kind in "iu":
        return _to_int64(op, name, array)
    if kind == "mask" and literal:
        return array.astype(want)
    raise _bad_dtype(op, name, dtype, want.name)


def _bad_dtype(op: Op[Any, Any], name: str, got: np.dtype[Any], want: str) -> DTypeError:
    first = want.partition(" ")[0]
    return DTypeError(f"{op.name}: {name} must be {want}, got {got}: {name}.astype('{first}')")


def _to_int64(op: Op[Any, Any], name: str, array: Any) -> Any:
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise LabelError(f"{op.name}: {name} holds {array.max()}, beyond int64")
    return array.astype(np.int64)


def check_values(plan: Plan, arrays: Sequence[Any]) -> None:
    """Refuse labels, scalars and counters outside their interval."""
    for index in plan.checked_values:
        argument = plan.signature.inputs[index]
        values = plan.backend.to_numpy(arrays[index])
        assert argument.interval is not None
        if values.size and not argument.interval.contains(values.min(), values.max(), plan.dims):
            raise _bad_value(plan, index, argument, values)


def _bad_value(
    plan: Plan, index: int, argument: sig.Argument, values: Array
) -> LabelError | InputError:
    assert argument.interval is not None
    low, high = argument.interval.bounds(plan.dims)
    name = plan.op.inputs[index]
    if values.ndim == 0:
        return InputError(f"{plan.op.name}: {name} must lie in {argument.interval}, got {values}")
    where = np.argwhere(~((values >= low) & (values < high)))
    at = tuple(int(i) for i in where[0]) if len(where) else ()
    return LabelError(
        f"{plan.op.name}: {name}{list(at)} is {values[at]}, must lie in [{low:g}, {high:g}); "
        f"{len(where)} of {values.size} are out of range"
    )
