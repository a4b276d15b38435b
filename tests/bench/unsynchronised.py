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
    device.queue = None  # without a clock of its own only the rate tells
    return made


@backend("hasty_with_a_clock")
def hasty_with_a_clock():
    """Forgets to wait unless something travels, but its own clock knows when the work was done."""
    made = opaque_backend()
    device, download = made.device, made.device.queue.download

    def download_at_once(source, target):
        download(source, target)
        device.finish()

    device.synchronize = lambda: None
    device.queue.download = download_at_once
    return made


@backend("losing")
def losing():
    """Its results never travel back."""
    made = opaque_backend()
    made.device.queue.download = lambda source, target: None
    return made
