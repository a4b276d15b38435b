"""Where a data set lies: in the device's memory, or in the host's if it does not fit there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from nnkernels.backends.cupy.device import CudaDevice
from nnkernels.errors import DeviceMemoryError
from nnkernels.spec import Array


class StreamingWarning(UserWarning):
    """A data set stays in host memory; results are the same, steps may wait for their batches."""


def stage(device: CudaDevice, arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Named arrays on the device, or all of them as given where there is no room for them.

    Warns (:class:`StreamingWarning`) of the latter, with the size of the data and of the room.
    """
    free = device.gpu.device.mem_info[0]
    try:
        return {name: device.asarray(array) for name, array in arrays.items()}
    except DeviceMemoryError:
        nbytes = sum(array.nbytes for array in arrays.values())
    warnings.warn(
        f"a data set of {_size(nbytes)} does not fit on {device.name}, where {_size(free)} are "
        "free: its batches are streamed from host memory through pinned buffers. Results are the "
        "same; it is slower where the host collects and copies a batch in more time than a step "
        "takes, as every epoch moves the whole data set over the bus again",
        StreamingWarning,
        stacklevel=5,
    )
    return dict(arrays)


def _size(nbytes: int) -> str:
    """Bytes in words: GiB, or MiB below one."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"
