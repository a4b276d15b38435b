"""Two backends on the fake device whose kernels wait in a queue: one forgets to wait for them."""

import numpy as np

from nnkernels.bench.declare import backend
from nnkernels.testing.opaque import opaque_backend

LAST = 4
"""Pieces of work that decide the result: poison, then the same call over and over."""


@backend("waiting")
def waiting():
    return opaque_backend()


@backend("hasty")
def hasty():
    """Its results are right once they are fetched, but a sample ends when the work is queued."""
    made = opaque_backend()
    device = made.device

    def to_numpy(array):
        queue, device._queue = device._queue, []
        for work in queue[-LAST:]:
            work()
        return np.array(array._memory)

    device.synchronize = lambda: None
    device.to_numpy = to_numpy
    return made
