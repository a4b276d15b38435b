"""Datasets: drawn ones, downloaded ones, and files, as plain NumPy arrays.

``load`` is the door to datasets, ``read_table`` to tables that are not split. A dataset with a name
is one module in ``nnkernels/data/sources`` with a function ``load(*, dtype, ...) -> Dataset``;
adding one touches no other file.
"""

from nnkernels.data.dataset import Dataset
from nnkernels.data.loading import load, names, read_table

__all__ = ["Dataset", "load", "names", "read_table"]
