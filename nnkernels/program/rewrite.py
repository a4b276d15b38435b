"""Fitting a Program to a backend: operators without a kernel are expanded, others fused.

What comes out is again a Program, so everything that reads Programs reads it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from nnkernels.backend import Backend
from nnkernels.errors import KernelMissingError
from nnkernels.program.builder import Builder
from nnkernels.program.format import Instruction, Program
from nnkernels.spec import get_op


def specialise(program: Program, backend: Backend) -> Program:
    """``program`` with exactly the instructions that ``backend`` executes."""
    return expand(fuse(program, backend), backend)


def expand(program: Program, backend: Backend) -> Program:
    """Replace every instruction that ``backend`` composes of others by those others."""
    builder = _continue(program)
    for instruction in program.instructions:
        builder.instructions.extend(_expanded(builder, backend, instruction))
    return replace(program, slots=tuple(builder.slots), instructions=tuple(builder.instructions))


def _continue(program: Program) -> Builder:
    """A builder that goes on numbering and naming where ``program`` ends."""
    builder = Builder(program.rows, program.dtype)
    for slot in program.slots:
        builder.add(slot)
    return builder


def _expanded(
    builder: Builder, backend: Backend, instruction: Instruction
) -> Iterable[Instruction]:
    if backend.resolve(instruction.op, instruction.params).kernel is not None:
        return [instruction]
    composition = get_op(instruction.op).composition
    assert composition is not None  # resolve() gives no kernel only where there is one
    scratch = _continue_from(builder, instruction)
    results = composition(scratch.call, *instruction.inputs, **instruction.params)
    results = results if isinstance(results, tuple) else (results,)
    rename = {r: o for r, o in zip(results, instruction.outputs, strict=True) if o is not None}
    parts = [_renamed(i, rename) for i in scratch.instructions]
    builder.slots = scratch.slots
    wanted = {o for o in instruction.outputs if o is not None}
    return [
        replace(step, phase=instruction.phase)
        for part in _without_dead(parts, wanted)
        for step in _expanded(builder, backend, part)
    ]


def _continue_from(builder: Builder, instruction: Instruction) -> Builder:
    scratch = Builder(builder.rows, builder.dtype)
    scratch.slots, scratch._names = builder.slots, builder._names
    scratch._label = instruction.label
    return scratch


def _renamed(instruction: Instruction, rename: dict[int, int]) -> Instruction:
    return replace(
        instruction,
        inputs=tuple(rename.get(i, i) for i in instruction.inputs),
        outputs=tuple(o if o is None else rename.get(o, o) for o in instruction.outputs),
    )


def _without_dead(parts: list[Instruction], wanted: set[int]) -> list[Instruction]:
    """Drop instructions whose results nobody wants (an input gradient that was not asked for)."""
    kept: list[Instruction] = []
    for part in reversed(parts):
        if not part.outputs or any(o in wanted for o in part.outputs):
            kept.append(part)
            wanted = wanted | set(part.inputs)
    return kept[::-1]


def fuse(program: Program, backend: Backend) -> Program:
    """Replace ``linear`` + activation by ``linear_activation`` where there is a kernel for it."""
    readers = Counter(i for instruction in program.instructions for i in instruction.inputs)
    readers.update(program.outputs.values())
    fused: list[Instruction] = []
    for instruction in program.instructions:
        previous = fused[-1] if fused else None
        if previous is None or why_not_fused(previous, instruction, backend) is not None:
            fused.append(instruction)
            continue
        (z,) = previous.outputs
        keep = z is not None and readers[z] > 1
        fused[-1] = replace(
            previous,
            op="linear_activation",
            outputs=(*instruction.outputs, z if keep else None),
            params={"activation": instruction.op},
            label=f"{previous.label} {instruction.label}".strip(),
        )
    return replace(program, instructions=tuple(fused))


def why_not_fused(first: Instruction, second: Instruction, backend: Backend) -> str | None:
    """Why ``first`` and ``second`` are not one ``linear_activation``; None when they can be.

    The empty text says that they are not a layer and its activation at all.
    """
    op = get_op(second.op)
    if first.op != "linear" or first.phase != second.phase:
        return ""
    if second.inputs != first.outputs or len(second.outputs) != 1:
        return ""
    if not op.signatures(second.params)[0].elementwise:
        return f"{second.op} is not elementwise"
    if dict(second.params) != op.params:
        return f"{second.op} has parameters of its own"
    try:
        found = backend.resolve("linear_activation", {"activation": second.op})
    except KernelMissingError as error:
        return str(error)
    if found.why == "composed":
        return _split_reason(backend, second.op)
    return f"{backend.name} has no fused kernel" if found.why == "fallback" else None


def _split_reason(backend: Backend, activation: str) -> str:
    """Which of the operators that a fused kernel covers come from elsewhere."""
    if "linear_activation" not in backend.kernels:
        return f"{backend.name} has no fused kernel"
    own = backend.kernels["linear_activation"].owner
    parts = [backend.resolve(n, get_op(n).params) for n in ("linear", activation)]
    strangers = [p.op for p in parts if p.kernel is None or p.kernel.owner != own]
    return f"{' and '.join(strangers)} not served by {own}"
