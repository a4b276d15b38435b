"""A Program as groups of launches, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.backend import Backend
from nnkernels.backends.cupy import CudaKernel, recipes
from nnkernels.backends.cupy.steps.fusion import fuse
from nnkernels.backends.cupy.steps.groups import Group, Move
from nnkernels.backends.cupy.steps.pieces import Piece, Pieces, take_apart
from nnkernels.program import Program
from nnkernels.program.format import ARENA
from nnkernels.spec import get_op


class Unsupported(Exception):
    """Why a Program cannot be a list of launches."""


@dataclass(frozen=True)
class Plan:
    """What a step launches.

    Attributes:
        pieces: the step in pieces.
        groups: what is launched together, in order; windows that are copied by themselves too.
        epilogues: whether products add biases, take relus and sum gradients on the way.
    """

    pieces: Pieces
    groups: tuple[Group, ...]
    epilogues: bool

    @property
    def program(self) -> Program:
        """The Program with the slots that the groups use."""
        return self.pieces.program

    @property
    def guarded(self) -> bool:
        """Whether a loss that is not finite keeps a step from happening."""
        return self.program.guard is not None

    @property
    def launched(self) -> list[Group]:
        """The groups without the windows that are copied by themselves."""
        return [group for group in self.groups if not isinstance(group, Move)]

    @property
    def moves(self) -> list[Piece]:
        """Windows that are copied by themselves, before or after the launches."""
        return [group.pieces[0] for group in self.groups if isinstance(group, Move)]


def make_plan(program: Program, backend: Backend, *, epilogues: bool) -> Plan:
    """The plan of a Program that is specialised to ``backend``.

    Args:
        program, backend: what runs where.
        epilogues: whether products add biases, take relus and sum gradients on the way.

    Raises:
        Unsupported: a kernel is not ours, or an update that no guard can keep from happening.
    """
    _check_kernels(program, backend)
    if program.guard is not None:
        _check_updates(program)
    pieces = take_apart(program, backend)
    return Plan(pieces, tuple(fuse(pieces, epilogues=epilogues)), epilogues)


def _check_kernels(program: Program, backend: Backend) -> None:
    for instruction in program.instructions:
        kernel = backend.resolve(instruction.op, instruction.params).kernel
        function = None if kernel is None else kernel.function
        if not isinstance(function, CudaKernel) or function.recipe != recipes()[instruction.op]:
            origin = "others" if kernel is None else kernel.origin
            raise Unsupported(f"{instruction.op} is served by {origin}, which is not of launches")


def _check_updates(program: Program) -> None:
    for instruction in program.instructions:
        written = (program.slots[o] for o in instruction.outputs if o is not None)
        lasting = next((slot.name for slot in written if slot.buffer != ARENA), None)
        heeds = bool(get_op(instruction.op).updates)
        if instruction.phase == "update" and lasting is not None and not heeds:
            raise Unsupported(f"{instruction.op} would write {lasting!r} whatever the guard says")
