"""A CUDA device whose arrays are poisoned and guarded: what writes beside its array is found."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.backends.cupy.device import CudaDevice, room
from nnkernels.backends.cupy.gpu import Gpu
from nnkernels.errors import BackendError
from nnkernels.spec import Array

GUARD_BYTES = 512
FILL = 0xFF
"""A float of these bytes is NaN, an integer -1."""

KEPT = 128
"""Arrays that are kept for a look at their guards before it is taken."""


class GuardedDevice(CudaDevice):
    """Gives arrays filled with NaN between guards, which :meth:`check` looks at."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu)
        self._kept: list[Any] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of NaN (or -1) between two guards."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self.gpu.current(), room(self.gpu, f"a guarded array of {nbytes} bytes"):
            memory = self.cp.empty((nbytes + 2 * GUARD_BYTES,), np.uint8)
            memory.fill(FILL)
        if len(self._kept) >= KEPT:
            self.check()
        self._kept.append(memory)
        array: Array = memory[GUARD_BYTES : GUARD_BYTES + nbytes].view(dtype).reshape(shape)
        return array

    def check(self) -> None:
        """Look at all guards since the last look.

        Raises:
            BackendError: a kernel wrote beside its array.
        """
        kept, self._kept = self._kept, []
        for memory in kept:
            for part in (memory[:GUARD_BYTES], memory[-GUARD_BYTES:]):
                if not bool((part.get() == FILL).all()):
                    raise BackendError(
                        f"a kernel wrote beside an array of {memory.size - 2 * GUARD_BYTES} bytes"
                    )
