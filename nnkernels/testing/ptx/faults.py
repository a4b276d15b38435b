"""What a kernel may not do, and how it is reported."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The kinds of fault; the value is how the message names it."""

    OUT_OF_BOUNDS = "out of bounds"
    USE_AFTER_FREE = "use after free"
    MISALIGNED = "misaligned access"
    UNINITIALISED = "read of memory that nothing wrote"
    UNINITIALISED_REGISTER = "read of a register that nothing wrote"
    SHARED_RACE = "race in shared memory"
    GLOBAL_RACE = "race in global memory"
    READ_ONLY = "read-only load of memory that the same launch writes"
    BARRIER_DIVERGENCE = "barrier that not all threads reach"
    DIFFERENT_BARRIERS = "threads of a block wait at different barriers"
    SHUFFLE_MASK = "mask of a warp instruction"
    UNKNOWN_OPCODE = "unknown opcode"
    MALFORMED = "malformed text"
    ARGUMENTS = "arguments"
    LAUNCH = "launch configuration"
    ENDLESS = "endless loop"
    TRAP = "trap"


class Fault(Exception):
    """A kernel did what it may not do, or cannot be executed.

    ``kind`` says which rule was broken; ``kernel``, ``pc`` and ``instruction`` say where. The
    text also names the block and the thread, where there is one.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        kernel: str = "",
        pc: int | None = None,
        instruction: str = "",
        place: str = "",
    ) -> None:
        self.kind = kind
        self.message = message
        self.kernel = kernel
        self.pc = pc
        self.instruction = instruction
        at = f" pc {pc} `{instruction}`" if pc is not None else ""
        head = f"{kernel}{at}{place}: " if kernel else ""
        super().__init__(f"{head}{kind.value}: {message}")
