"""The figures printed in the textbooks, computed again on any backend."""

from nnkernels.reproduce.figures import Figure, Section, published
from nnkernels.reproduce.sections import reproduce

__all__ = ["Figure", "Section", "published", "reproduce"]
