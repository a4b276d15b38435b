"""Checks of the numbers and arrays that users give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.errors import (
    DeviceMismatchError,
    DTypeError,
    InputError,
    NonFiniteError,
    ShapeError,
    unknown,
)
from nnkernels.spec import Array


def check_whole(what: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number from ``low`` to ``high``; None is no upper limit."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limits = f"from {low}" + (f" to {high}" if high is not None else "")
        raise InputError(f"{what} must be a whole number {limits}, got {value!r}")
    return int(value)


def check_number(what: str, value: Any, interval: str) -> float:
    """A number inside ``interval``, as in ``"(0,inf)"``; NaN never is."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, bool
    )
    if not number or not sig.parse_interval(interval).contains(value, value, {}):
        raise InputError(f"{what} must be a number in {interval}, got {value!r}")
    return float(value)


def check_names(what: str, value: Any) -> tuple[str, ...]:
    """Names: one string, or several in a sequence."""
    if isinstance(value, str):
        return (value,)
    names = tuple(value) if isinstance(value, Iterable) else (value,)
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{what} must be a name or a list of names, got {name!r}")
    return names


def as_numeric(what: str, value: Any) -> Array:
    """A NumPy array of real numbers of any dtype; not a copy where that can be avoided."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InputError(f"{what} has masked elements; fill them first: x.filled(...)")
    if hasattr(value, "__cuda_array_interface__"):
        raise DeviceMismatchError(
            f"{what} lies on a GPU; give an array in host memory (backend.to_numpy(...) copies it "
            "there): it is moved to where the backend computes"
        )
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{what} cannot become an array (ragged?): {error}") from error
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{what} has dtype {array.dtype}; real numbers are needed")
    return array


def as_finite(what: str, array: Array, dtype: str) -> Array:
    """``array`` in ``dtype``, C-contiguous, aligned; NaN and infinity are refused by row."""
    with np.errstate(over="ignore"):  # too large for float32: refused below
        cast = np.require(array, dtype, ["C", "A"]).reshape(array.shape)
    bad = ~np.isfinite(cast)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        place = "".join(f", {axis} {i}" for axis, i in zip(("row", "column"), at, strict=False))
        raise NonFiniteError(
            f"{what} is {array[at]}{place}: not a finite {dtype}; remove or fill such rows"
        )
    return cast


def check_arrays(known: Mapping[str, Array], values: Mapping[str, Any]) -> dict[str, Array]:
    """``values`` as finite arrays, each in the shape and dtype that ``known`` has for its name."""
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise unknown("parameter", name, known)
        array = as_numeric(f"parameter {name!r}", value)
        if array.shape != known[name].shape:
            raise ShapeError(
                f"parameter {name!r} must have shape {known[name].shape}, got {array.shape}"
            )
        checked[name] = as_finite(f"parameter {name!r}", array, known[name].dtype.name)
    return checked
