"""From a public call to a kernel: choose the backend, check, allocate, run."""

from nnkernels.dispatch.call import bind
from nnkernels.dispatch.choice import get_backend, use

__all__ = ["bind", "get_backend", "use"]
