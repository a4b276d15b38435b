"""An interpreter for PTX, the assembly that NVRTC emits: CUDA kernels checked without a GPU.

It executes thousands of threads at a time in NumPy, with the arithmetic of PTX (flushing, single
rounding, saturation), and raises a :class:`Fault` at what a kernel may not do: leaving an
allocation, reading what nothing wrote, races, divergent barriers, wrong member masks.

    module = Module(ptx)
    memory = Memory()
    x = memory.allocate(4 * n)
    memory.write(x, values)
    run(module["relu"], memory, grid, block, (x, x, n))
"""

from nnkernels.testing.ptx.execution import run
from nnkernels.testing.ptx.faults import Fault, Kind
from nnkernels.testing.ptx.memory import Extent, Memory
from nnkernels.testing.ptx.parsing import Kernel, Module
from nnkernels.testing.ptx.statistics import SharedTraffic, Statistics, Traffic

__all__ = [
    "Extent",
    "Fault",
    "Kernel",
    "Kind",
    "Memory",
    "Module",
    "SharedTraffic",
    "Statistics",
    "Traffic",
    "run",
]
