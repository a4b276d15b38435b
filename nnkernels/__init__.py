"""A GPU-accelerated array backend for neural networks with swappable kernels."""

from nnkernels import errors, ops
from nnkernels.backend import Backend, Kernel
from nnkernels.dispatch import bind, get_backend, use
from nnkernels.explain import explain

__version__ = "0.1.0"

__all__ = ["Backend", "Kernel", "bind", "errors", "explain", "get_backend", "ops", "use"]
