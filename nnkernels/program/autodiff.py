"""Reverse-mode differentiation of a Program under construction.

Every operator declares its derivative; the chain rule over the slots is all that is left to do.
A slot that several instructions read gets the sum of their gradients, so skip connections and
shared parameters need nothing special.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nnkernels.errors import ProgramError
from nnkernels.program.builder import Builder
from nnkernels.program.format import Instruction, Slot
from nnkernels.spec import Op, get_op


def differentiate(builder: Builder, loss: int) -> None:
    """Append to ``builder`` the gradients of the scalar slot ``loss`` for all parameters."""
    if builder.slots[loss].shape != ():
        raise ProgramError(
            f"differentiate: the loss must be a scalar, {builder.slots[loss]} is not"
        )
    forward = list(builder.instructions)
    active = _depends_on_parameters(builder, forward)
    partials: dict[int, list[int]] = {loss: [builder.constant(1.0)]}
    for instruction in reversed(forward):
        result = instruction.outputs[0] if instruction.outputs else None
        _refuse_second_outputs(builder, instruction, partials)
        if result is None or result not in partials or result not in active:
            continue
        with builder.label(instruction.label):
            gradient = _total(builder, result, partials.pop(result))
            _append_backward(builder, instruction, gradient, active, partials)
    for slot, parts in partials.items():
        if builder.slots[slot].buffer == "parameters":
            _total(builder, slot, parts)


def _depends_on_parameters(builder: Builder, forward: list[Instruction]) -> set[int]:
    active = {i for i, s in enumerate(builder.slots) if s.buffer == "parameters"}
    for instruction in forward:
        op = get_op(instruction.op)
        inputs = dict(zip(op.inputs, instruction.inputs, strict=True))
        if op.derivative and any(inputs[name] in active for name in op.wrt):
            active.update(o for o in instruction.outputs if o is not None)
    return active


def _refuse_second_outputs(
    builder: Builder, instruction: Instruction, partials: dict[int, list[int]]
) -> None:
    """Derivatives are declared for an operator's first output; others have no gradient."""
    for output in instruction.outputs[1:]:
        if output in partials:
            raise ProgramError(
                f"differentiate: the loss depends on {builder.slots[output].name!r}, a further "
                f"output of {instruction.op}, which passes no gradient on"
            )


def _append_backward(
    builder: Builder,
    instruction: Instruction,
    gradient: int,
    active: set[int],
    partials: dict[int, list[int]],
) -> None:
    op = get_op(instruction.op)
    derivative = op.derivative
    if derivative is None:
        raise ProgramError(f"differentiate: operator {op.name} has no derivative")
    named = _named_slots(op, instruction)
    params = {k: v for k, v in instruction.params.items() if k in derivative.params}
    outputs: list[int | None] = []
    for slot in (named[name] for name in op.wrt):
        output = _partial(builder, slot, first=slot not in partials) if slot in active else None
        outputs.append(output)
        if output is not None:
            partials.setdefault(slot, []).append(output)
    builder.emit(derivative.name, (gradient, *(named[s] for s in op.saves)), outputs, params)


def _named_slots(op: Op[Any, Any], instruction: Instruction) -> Mapping[str, int]:
    signature = op.signatures(instruction.params)[0]
    names = op.result_names(signature)
    results = {n: s for n, s in zip(names, instruction.outputs, strict=False) if s is not None}
    return {**dict(zip(op.inputs, instruction.inputs, strict=True)), **results}


def _partial(builder: Builder, slot: int, *, first: bool) -> int:
    """A slot for one contribution to the gradient of ``slot``.

    The only contribution to a parameter goes straight into the flat gradient buffer; when a second
    one comes, :func:`_total` adds both in place there.
    """
    origin = builder.slots[slot]
    if first and origin.buffer == "parameters":
        return builder.entry(f"{origin.name}.gradient")
    return builder.add(Slot(builder.fresh(f"grad {origin.name}"), origin.shape, origin.dtype))


def _total(builder: Builder, slot: int, parts: list[int]) -> int:
    total = parts[0]
    for part in parts[1:]:
        target = total
        if builder.slots[slot].buffer != "parameters":
            name = builder.fresh(f"grad {builder.slots[slot].name}")
            target = builder.add(replace(builder.slots[total], name=name))
        builder.emit("add", (total, part), (target,), {})
        total = target
    return total
