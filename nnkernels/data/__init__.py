"""Datasets: drawn ones, downloaded ones, and files, as plain NumPy arrays.

``load`` is the only door. A dataset with a name is one module in ``nnkernels/data/sources`` with a
function ``load(*, dtype, ...) -> Dataset``; adding one touches no other file.
"""

from nnkernels.data.dataset import Dataset
from nnkernels.data.loading import load, names

__all__ = ["Dataset", "load", "names"]
