"""A device whose memory is NumPy's, with a simulated cublasLt on it."""

from __future__ import annotations

import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from nnkernels.backends.cupy import products
from nnkernels.testing.simulated.lt import CublasLt, Faults


class DeviceArray:
    """As much of a device array as products look at; the address is real."""

    def __init__(self, values, base=None):
        self.values, self._base = values, base
        self.shape, self.dtype, self.size = values.shape, values.dtype, values.size
        self.nbytes, self.ndim, self.strides = values.nbytes, values.ndim, values.strides
        self.data = SimpleNamespace(ptr=values.ctypes.data)
        self.flags = SimpleNamespace(c_contiguous=values.flags.c_contiguous)

    @property
    def T(self):
        return DeviceArray(self.values.T, self)

    def get(self):
        return self.values.copy()


def placed(values, offset=0):
    """A device array with these values, ``offset`` bytes behind a multiple of 256."""
    values = np.asarray(values)
    raw = np.zeros(values.nbytes + 512, np.uint8)
    start = -raw.ctypes.data % 256 + offset
    array = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    array[...] = values
    return DeviceArray(array, raw)


class Memory:
    """The process's own memory as the device's; work is done at once."""

    def __init__(self):
        self.queued = []

    def read(self, address, nbytes):
        return np.frombuffer(ctypes.string_at(address, nbytes), np.uint8).copy()

    def write(self, address, data):
        ctypes.memmove(address, np.ascontiguousarray(data).ctypes.data, data.nbytes)

    def enqueue(self, stream, name, work):
        self.queued.append((stream, name))
        work()


class Layers:
    def __init__(self, lt):
        self.lt, self.reasons = lt, []

    def on(self, name):
        return self.lt and not self.reasons

    def switch_off(self, name, reason):
        assert name == "lt"
        self.reasons.append(reason)


NO_FAULTS = Faults()


class Gpu:
    """A device with cublasLt in this state."""

    STREAM = 77

    def __init__(self, faults=NO_FAULTS, lt=True):
        self.memory = Memory()
        self.layers = Layers(lt)
        self.allocated = 0
        self.multiplied = []
        self.cp = SimpleNamespace(
            cublaslt=CublasLt(self.memory, faults),
            matmul=self.matmul,
            zeros=lambda shape, dtype: placed(np.zeros(shape, dtype)),
            empty=self.empty,
            asarray=lambda values: placed(np.asarray(values)),
            cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=self.STREAM)),
        )

    def empty(self, shape, dtype):
        self.allocated += 1
        return placed(np.empty(shape, dtype))

    def matmul(self, a, b, *, out):
        self.multiplied.append((a, b, out))
        np.matmul(a.values, b.values, out=out.values)

    def current(self):
        return contextlib.nullcontext()


def finished_in_numpy(gpu, product):
    """What kernels of ours do after a product."""
    asked, out = product.epilogue, product.out.values

    def finish():
        if asked.kind.startswith("bias") and asked.bias is not None:
            out[...] += asked.bias.values
        if asked.kind == "bias_relu":
            np.maximum(out, 0, out=out)
        if asked.kind == "drelu_bias_grad":
            output = getattr(asked.mask, "output", asked.mask)
            out[...] = np.where(output.values > 0, out, 0)
        if asked.bias_grad is not None:
            summed = product.b.values if asked.kind == "bias_grad" else out
            asked.bias_grad.values[...] = summed.sum(0)

    return [] if asked is None else [finish]


@pytest.fixture
def finishing(monkeypatch):
    """Products are tested here, our kernels elsewhere."""
    monkeypatch.setattr(products.lt, "after", finished_in_numpy)
    monkeypatch.setattr(products.plain, "after", finished_in_numpy)
