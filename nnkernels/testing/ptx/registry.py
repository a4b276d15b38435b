"""Opcodes by name: how each becomes a function on arrays, or an effect on the machine.

An *elementwise* opcode is a function ``f(*sources, out)`` that fills ``out`` lane by lane. Its
factory sees the instruction once and may choose among functions; modifiers it does not know make
the instruction unknown, so that none is silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES
from nnkernels.testing.ptx.faults import Fault, Kind
from nnkernels.testing.ptx.parsing import Instruction

Function = Callable[..., Any]


class Approximation:
    """How far approximate instructions are off: by up to 2 units in the last place."""

    def __init__(self) -> None:
        self.generator: np.random.Generator | None = None


class Request(NamedTuple):
    """What a factory may look at: ``clean`` tells which sources hold no subnormal float32."""

    instruction: Instruction
    clean: Sequence[bool]
    approximation: Approximation

    @property
    def modifiers(self) -> tuple[str, ...]:
        """The parts of the opcode after the first."""
        return self.instruction.modifiers

    @property
    def type(self) -> str:
        """The last type in the opcode."""
        return self.instruction.type

    @property
    def ftz(self) -> bool:
        """Whether subnormal numbers are flushed."""
        return "ftz" in self.instruction.modifiers


class Signature(NamedTuple):
    """The PTX types of the result and of the sources."""

    result: str
    sources: tuple[str, ...]


class Elementwise(NamedTuple):
    """An elementwise opcode: its allowed modifiers, its types and its function."""

    modifiers: frozenset[str]
    signature: Callable[[Instruction], Signature]
    build: Callable[[Request], Function]


ELEMENTWISE: dict[str, Elementwise] = {}
EFFECTS: dict[str, Callable[..., Callable[[], None]]] = {}


def unknown(instruction: Instruction, why: str = "the interpreter does not know it") -> Fault:
    """The fault of an instruction that cannot be executed."""
    return Fault(Kind.UNKNOWN_OPCODE, why, instruction=instruction.text)


def alike(count: int) -> Callable[[Instruction], Signature]:
    """The signature of a result and ``count`` sources that all are of the type in the opcode."""

    def signature(instruction: Instruction) -> Signature:
        return Signature(instruction.type, (instruction.type,) * count)

    return signature


def elementwise(
    name: str, modifiers: str, signature: Callable[[Instruction], Signature]
) -> Callable[[Callable[[Request], Function]], Callable[[Request], Function]]:
    """Register the factory of an elementwise opcode with its space-separated modifiers."""

    def register(build: Callable[[Request], Function]) -> Callable[[Request], Function]:
        ELEMENTWISE[name] = Elementwise(frozenset(modifiers.split()), signature, build)
        return build

    return register


def check_modifiers(instruction: Instruction, allowed: frozenset[str]) -> None:
    """Refuse an instruction with a modifier that nobody implemented."""
    for modifier in instruction.modifiers:
        if modifier not in allowed and modifier not in DTYPES:
            raise unknown(instruction, f"modifier .{modifier} is not supported")


def effect(*names: str) -> Callable[[Callable[..., Callable[[], None]]], Callable[..., Any]]:
    """Register the factory of opcodes that do more than compute: ``f(instruction, lanes)``."""

    def register(build: Callable[..., Callable[[], None]]) -> Callable[..., Any]:
        EFFECTS.update(dict.fromkeys(names, build))
        return build

    return register
