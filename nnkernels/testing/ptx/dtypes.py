"""The types of PTX and the NumPy types that hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DType = np.dtype[Any]

DTYPES: dict[str, DType] = {
    "pred": np.dtype(np.bool_),
    **{f"b{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"u{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    "bf16": np.dtype(np.uint16),
}
"""NumPy type by the name of the PTX type; bfloat16 is held by its bits."""

TINY: dict[DType, Any] = {np.dtype(t): np.finfo(t).tiny for t in (np.float32, np.float64)}
"""The smallest normal number of a floating-point type."""


def is_float(name: str) -> bool:
    """Whether a PTX type is floating-point."""
    return name in ("f16", "f32", "f64", "bf16")


def unsigned(dtype: DType) -> DType:
    """The unsigned integer type of the same width."""
    return np.dtype(f"u{dtype.itemsize}")


def narrowed(values: Array, dtype: DType) -> Array:
    """``values`` seen as ``dtype``: the same bits, or the low bits where it is narrower."""
    if values.dtype == dtype:
        return values
    if values.dtype.itemsize == dtype.itemsize:
        return values.view(dtype)
    return values.view(dtype)[:: values.dtype.itemsize // dtype.itemsize]
