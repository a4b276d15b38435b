"""Arrays without memory, on which a step can be lowered without a device: to say what would run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from nnkernels.program import Slot


class Outline:
    """Shape, dtype and a made-up address of a C-contiguous array.

    Args:
        address: of its first element.
        shape, dtype: as NumPy's.
    """

    flags = SimpleNamespace(c_contiguous=True)

    def __init__(self, address: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.data = SimpleNamespace(ptr=address)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.ndim, self.size = len(shape), math.prod(shape)
        self.itemsize = self.dtype.itemsize
        self.nbytes = self.size * self.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Outline:
        """Some of the elements of a vector."""
        first, last, _ = part.indices(self.shape[0])
        return Outline(self.data.ptr + first * self.itemsize, (last - first,), self.dtype)

    def __setitem__(self, part: Any, value: Any) -> None:
        """Nothing: there are no values."""

    def view(self, dtype: Any) -> Outline:
        """The same bytes of a vector as another dtype."""
        return Outline(self.data.ptr, (self.nbytes // np.dtype(dtype).itemsize,), dtype)

    def reshape(self, shape: tuple[int, ...]) -> Outline:
        """The same elements in another shape."""
        return Outline(self.data.ptr, shape, self.dtype)


class OutlineDevice:
    """Gives outlines of as much memory as one likes."""

    def __init__(self) -> None:
        self._addresses = itertools.count(2**40, 2**40)  # a terabyte apart

    def buffer(self, nbytes: int) -> Any:
        """The outline of ``nbytes`` bytes."""
        return Outline(next(self._addresses), (nbytes,), np.uint8)


def outlines(slots: Mapping[str, Slot]) -> dict[str, Any]:
    """Outlines of input arrays by name, as small as they may be."""
    device = OutlineDevice()
    return {
        name: device.buffer(slot.nbytes).view(slot.dtype).reshape(slot.shape)
        for name, slot in slots.items()
    }
