"""A plug-in whose kernels run, and are wrong."""

import numpy as np

from nnkernels import plugins
from nnkernels.backend import Backend, KernelTable
from nnkernels.backends._host import HOST
from nnkernels.program import Interpreter

kernels = KernelTable()


@kernels.kernel
def relu(x, *, out):
    out[...] = x  # its input


@kernels.kernel
def tanh(x, *, out):
    out[...] = np.tanh(x.astype(np.float16))  # the wrong dtype inside


@kernels.kernel
def sigmoid(x, *, out):
    return 1 / (1 + np.exp(-x))  # never written


@kernels.kernel
def identity(x, *, out):
    out[: len(out) // 2] = x[: len(x) // 2]  # the wrong shape


def load():
    return Backend("wrong", HOST, kernels, Interpreter, fallback=plugins.load("reference"))
