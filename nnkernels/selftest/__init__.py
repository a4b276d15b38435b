"""Proving the CuPy backend on a GPU: ``nnkernels selftest`` and ``pytest -m gpu``."""

from nnkernels.selftest.report import Item, Report, Section
from nnkernels.selftest.suite import SECTIONS, Options, run

__all__ = ["SECTIONS", "Item", "Options", "Report", "Section", "run"]
