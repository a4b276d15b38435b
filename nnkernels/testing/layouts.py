"""The same values in other memory: strides, order, alignment, byte order.

A layout takes the backend and a NumPy array and gives an array of the backend's device. Layouts in
``VIEWS`` are made by slicing on the device; those in ``HOST_ONLY`` exist for NumPy arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.spec import Array
from nnkernels.testing.samples import Sample

Layout = Callable[[Backend, Array], Any]

FILLER = {"f": np.nan, "i": -(2**62), "b": True, "u": 0}
"""What stands in memory that an operator must neither read nor write."""


def packed(backend: Backend, array: Array) -> Any:
    """C-contiguous memory of its own."""
    return backend.asarray(np.array(array, order="C"))


def fortran(backend: Backend, array: Array) -> Any:
    """Column-major order."""
    return backend.asarray(np.array(array.T, order="C")).T


def strided(backend: Backend, array: Array) -> Any:
    """Every third element of a row, every second row, of a larger array."""
    base = spread(array)
    return backend.asarray(base)[spread_index(array.ndim)]


def spread(array: Array) -> Array:
    """A larger array that holds ``array`` at :func:`spread_index` and filler elsewhere."""
    shape = tuple(n * s for n, s in zip(array.shape, _steps(array.ndim), strict=True))
    base = np.full(shape, FILLER[array.dtype.kind], array.dtype)
    base[spread_index(array.ndim)] = array
    return base


def spread_index(ndim: int) -> tuple[Any, ...]:
    """Where :func:`spread` puts its array (an ellipsis first: a view even of 0-d arrays)."""
    return (Ellipsis, *(slice(None, None, step) for step in _steps(ndim)))


def _steps(ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - 2) + (2, 3)[-ndim:] if ndim else ()


def negative(backend: Backend, array: Array) -> Any:
    """All axes run backwards."""
    back: tuple[Any, ...] = (Ellipsis, *(slice(None, None, -1),) * array.ndim)
    return backend.asarray(np.array(array[back], order="C"))[back]


def unaligned(backend: Backend, array: Array) -> Any:
    """An address that is no multiple of the element size."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def big_endian(backend: Backend, array: Array) -> Any:
    """Bytes in big-endian order."""
    return array.astype(array.dtype.newbyteorder(">"))


def zero_stride(backend: Backend, array: Array) -> Any:
    """One row (or element) in memory, repeated by a zero stride; see :func:`repeated`."""
    return np.broadcast_to(np.array(array[:1]), array.shape) if array.ndim else np.array(array)


VIEWS: Mapping[str, Layout] = {"fortran": fortran, "strided": strided, "negative": negative}
HOST_ONLY: Mapping[str, Layout] = {
    "unaligned": unaligned,
    "big-endian": big_endian,
    "zero-stride": zero_stride,
}
NOT_WRITABLE = ("big-endian", "zero-stride")
"""Layouts that an updated argument cannot have."""


def repeated(sample: Sample) -> Sample:
    """The sample with its first row everywhere, as :func:`zero_stride` needs it."""
    inputs = tuple(
        a if at in sample.updated or a.ndim == 0 else np.array(np.broadcast_to(a[:1], a.shape))
        for at, a in enumerate(sample.inputs)
    )
    return replace(sample, inputs=inputs)


def on_host(backend: Backend) -> bool:
    """Whether the backend's arrays are NumPy arrays."""
    return isinstance(backend.asarray(np.zeros(1)), np.ndarray)
