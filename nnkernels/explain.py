"""Saying what runs: the kernel behind an operator, or behind every instruction of a Program."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from nnkernels.backend import Backend, Kernel, Notes, Resolution, function_name
from nnkernels.dispatch import get_backend
from nnkernels.dispatch.choice import serving
from nnkernels.spec import Op, get_op

if TYPE_CHECKING:
    from nnkernels.program import Instruction, Program

WHY = {
    "own": "kernel of {owner}",
    "swapped": "swapped: {owner}",
    "fallback": "fallback: {backend} has no kernel of its own",
    "composed": "composed of {parts}",
}


class Choice(NamedTuple):
    """Which kernel serves an operator, or one instruction.

    Attributes:
        op: the operator.
        label: the layer or purpose, of an instruction.
        kernel: ``module:function``; empty where the operator is composed of others.
        file, line: where it is defined.
        why: how it was chosen; for fused or unfused layers also why.
    """

    op: str
    label: str
    kernel: str
    file: str
    line: int
    why: str


def explain(
    target: str | Op[Any, Any] | Program, backend: str | Backend | None = None
) -> list[Choice]:
    """The kernels that run ``target`` on ``backend``.

    Args:
        target: an operator or its name, or a Program; for a Program there is one entry for every
            instruction that its Executable runs, in order.
        backend: as for :func:`nnkernels.get_backend`. By default an operator is explained as a call
            would run it here, on NumPy arrays; a Program on ``"auto"``.
    """
    if isinstance(target, (str, Op)):
        chosen = serving() if backend is None else get_backend(backend)
        op = get_op(target) if isinstance(target, str) else target
        return [_choice(chosen, chosen.resolve(op.name, op.params), "", "")]
    return _explain_program(target, get_backend(backend or "auto"))


def notes(target: str | Op[Any, Any] | Program, backend: str | Backend | None = None) -> Notes:
    """What the backend adds to :func:`explain`: rules, tables, how a Program is executed.

    Args:
        target, backend: as for :func:`explain`; the notes on each instruction stand there, too.
    """
    if isinstance(target, (str, Op)):
        chosen = serving() if backend is None else get_backend(backend)
        return _notes(chosen, get_op(target) if isinstance(target, str) else target)
    from nnkernels.program import specialise

    chosen = get_backend(backend or "auto")
    return _notes(chosen, specialise(target, chosen))


def _notes(backend: Backend, target: Any) -> Notes:
    return Notes() if backend.notes is None else backend.notes(backend, target)


def _explain_program(program: Program, backend: Backend) -> list[Choice]:
    from nnkernels.program import specialise  # calling operators needs no Programs

    fusion = _fusion_notes(program, backend)
    fitted = specialise(program, backend)
    added = _notes(backend, fitted).each or ("",) * len(fitted.instructions)
    return [
        _choice(
            backend,
            backend.resolve(instruction.op, instruction.params),
            instruction.label,
            _note(instruction, fusion) + (f"; {note}" if note else ""),
        )
        for instruction, note in zip(fitted.instructions, added, strict=True)
    ]


def _fusion_notes(program: Program, backend: Backend) -> dict[int, str]:
    """By output slot: why an activation was not fused with its layer."""
    from nnkernels.program.rewrite import why_not_fused

    pairs = zip(program.instructions, program.instructions[1:], strict=False)
    reasons = {s.outputs[0]: why_not_fused(f, s, backend) for f, s in pairs if s.outputs}
    return {slot: f"; not fused: {r}" for slot, r in reasons.items() if slot is not None and r}


def _note(instruction: Instruction, notes: dict[int, str]) -> str:
    if instruction.op == "linear_activation":
        return f"; fused: linear + {instruction.params['activation']}"
    first = instruction.outputs[0] if instruction.outputs else None
    return notes.get(first, "") if first is not None else ""


def _choice(backend: Backend, found: Resolution, label: str, note: str) -> Choice:
    owner = found.kernel.owner if found.kernel else ""
    why = WHY[found.why].format(
        owner=owner, backend=backend.name, parts=" + ".join(found.parts) or "others"
    )
    name, file, line = _location(found.kernel) if found.kernel else ("", "", 0)
    return Choice(found.op, label, name, file, line, why + note)


def _location(kernel: Kernel) -> tuple[str, str, int]:
    function = inspect.unwrap(kernel.function)
    if function is None:
        return f"compiled code of {kernel.owner}", "", 0
    code = getattr(function, "__code__", None)
    if code is None:
        return function_name(function), "", 0
    return function_name(function), code.co_filename, code.co_firstlineno
