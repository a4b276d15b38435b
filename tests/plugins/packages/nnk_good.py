"""A plug-in as it should be: one kernel of its own, the rest from the reference."""

import contextlib

import numpy as np

from nnkernels import plugins
from nnkernels.backend import Backend, KernelTable
from nnkernels.backends._host import HOST
from nnkernels.program import Interpreter

kernels = KernelTable()


@kernels.kernel
def relu(x, *, out):
    np.maximum(x, 0, out=out)


def load():
    return Backend(
        "good",
        HOST,
        kernels,
        Interpreter,
        fallback=plugins.load("reference"),
        priority=100,
        limit=contextlib.nullcontext,
    )
