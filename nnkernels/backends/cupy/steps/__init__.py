"""Programs on a GPU: a step as a list of launches, run eagerly or as one CUDA graph.

A Program goes through these modules in turn: :mod:`.pieces` takes it apart, :mod:`.fusion` puts
together what one launch can do, :mod:`.memory` places the arrays, :mod:`.lowering` makes the list,
:mod:`.executor` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nnkernels.backend import Backend
from nnkernels.backends.cupy.device import gpu_of
from nnkernels.backends.cupy.launching import Product
from nnkernels.backends.cupy.steps.executor import StepExecutable
from nnkernels.backends.cupy.steps.lowering import Item, lower
from nnkernels.backends.cupy.steps.memory import Memory
from nnkernels.backends.cupy.steps.outline import OutlineDevice, outlines
from nnkernels.backends.cupy.steps.plan import Plan, Unsupported, make_plan
from nnkernels.program import Interpreter, Program, State, specialise

__all__ = ["StepExecutable", "bind", "describe", "launches"]


def bind(backend: Backend, program: Program, state: State) -> Any:
    """An Executable: a list of launches, or the interpreter where a kernel is Python code."""
    program.validate()
    fitted = specialise(program, backend)
    try:
        plan = _plan(fitted, backend)
    except Unsupported:
        return Interpreter(backend, program, state)
    return StepExecutable(backend, fitted, plan, state)


def _plan(program: Program, backend: Backend, epilogues: bool | None = None) -> Plan:
    gpu = gpu_of(backend)
    return make_plan(
        program, backend, epilogues=gpu.layers.on("lt") if epilogues is None else epilogues
    )


def launches(program: Program, backend: Backend, *, epilogues: bool | None = None) -> list[Item]:
    """What a step launches, on arrays without memory.

    Args:
        program: the step, specialised to the backend.
        backend: whose kernels run.
        epilogues: whether products add biases, take relus and sum gradients on the way; by default
            as the layer ``lt`` is.

    Raises:
        Unsupported: it runs in the interpreter.
    """
    return _outlined(_plan(program, backend, epilogues))


def _outlined(plan: Plan) -> list[Item]:
    device: Any = OutlineDevice()
    memory = Memory(plan, device, State(plan.program.layout, device))
    memory.feed(outlines(plan.program.inputs))
    return lower(plan.launched, memory)


def describe(backend: Backend, program: Program) -> Iterator[str]:
    """How a Program that is specialised to ``backend`` runs, in sentences."""
    try:
        plan = _plan(program, backend)
    except Unsupported as reason:
        yield f"Runs in the interpreter: {reason}."
        return
    items = _outlined(plan)
    products = sum(isinstance(item.what, Product) for item in items)
    yield f"Runs as {len(items)} launches a step, {products} of them products:"
    for number, item in enumerate(items, 1):
        done = " ".join(piece.op for piece in item.group.pieces)
        yield f"{number}. {_how(item)}: {done} ({item.origin.label})".replace(" ()", "")


def _how(item: Item) -> str:
    if not isinstance(item.what, Product) or item.what.epilogue is None:
        return item.name
    return f"product with {item.what.epilogue.kind}"
