"""The opcodes that the interpreter executes, by family; importing it fills the registry."""

from nnkernels.testing.ptx.opcodes import (
    atomics,
    carries,
    comparison,
    conversion,
    floating,
    integer,
    movement,
    warp,
)

__all__ = [
    "atomics",
    "carries",
    "comparison",
    "conversion",
    "floating",
    "integer",
    "movement",
    "warp",
]
