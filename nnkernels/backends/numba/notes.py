"""What the Numba backend says about itself: who computes products, how a Program is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnkernels.backend import Backend, Notes, Precision
from nnkernels.backends._compiled.epochs.pace import default_threads
from nnkernels.backends._compiled.epochs.plan import Group, Plan, make_plan
from nnkernels.backends._compiled.epochs.tasks import Task, Unsupported, tasks_of
from nnkernels.backends.numba.kernels.linear import MULTIPLIER
from nnkernels.backends.numba.products import choice
from nnkernels.backends.numba.products.microkernel import tile_rows, vector_bits
from nnkernels.backends.numba.products.tuned import DTYPES
from nnkernels.program import Program
from nnkernels.spec import Op

WHO: Mapping[str, str] = {
    "own": "own tiles",
    "packed": "own packed tiles",
    "bf16": "own bfloat16 tiles",
    "blas": "BLAS",
}
"""Who computes a product, in words."""

ENTRIES = {product.code.name: WHO[code] for code, product in MULTIPLIER.codes.items()}
"""The same by the names of the entries that compute products."""

BF16 = (
    "Products of float32 are computed by tiles of bfloat16, as precision bf16 asks: both operands "
    "are rounded while blocks of them are packed, and sums are float32. For float64:"
)
"""What precision ``bf16`` adds to the rule."""

RIGHT_OPERANDS = {
    "matmul": "The right operand is b, transposed or not.",
    "linear": "The right operand is w (k, n).",
    "linear_activation": "The right operand is w (k, n).",
    "linear_backward": "The right operand is w, transposed, of grad_x; grad (b, n) of grad_w.",
}
"""What an operator's products multiply by, of all operators that have products."""

SHAPES = (
    (32, 784, 64),
    (32, 512, 512),
    (128, 512, 512),
    (128, 1024, 1024),
    (512, 1024, 4096),
    (512, 4096, 4096),
)
"""Products of (m, k) by (k, n) that are explained."""


def notes(backend: Backend, target: Op[Any, Any] | Program) -> Notes:
    """What an explanation of ``target`` adds; a Program is specialised to ``backend``."""
    if isinstance(target, Program):
        return _of_program(backend, target)
    own = backend.resolve(target.name, target.params).why == "own"
    explained = own and target.name in RIGHT_OPERANDS
    return _of_product(target.name, backend.precision) if explained else Notes()


# --- operators -----------------------------------------------------------------------------------


def _of_product(name: str, precision: Precision) -> Notes:
    rows = [_row(*shape, dtype, precision) for shape in SHAPES for dtype in DTYPES]
    heads = ("m x k x n", "dtype", "computed by", "because")
    asked = (BF16,) if precision == "bf16" else ()
    return Notes((*asked, *_rule(), RIGHT_OPERANDS[name]), (heads, *rows))


def _rule() -> tuple[str, ...]:
    """The rule in words, with this machine's numbers."""
    bits = vector_bits()
    if not bits:
        return ("This processor has no vectors that our tiles are written for: BLAS computes all.",)
    shapes = ", ".join(f"{rows} rows by {vectors}" for vectors, rows in tile_rows().items())
    limits = {dtype: choice.own_bytes(dtype) for dtype in DTYPES}
    listed = ", ".join(f"{dtype} {limit:,} B ({why})" for dtype, (limit, why) in limits.items())
    return (
        "A product of (m, k) by (k, n) is computed by our own tiles in vector registers up to a "
        f"limit of the right operand's size, beyond it by BLAS. The limit: {listed}. 'nnkernels "
        "tune' measures this machine's.",
        f"From {choice.PACKED_BYTES:,} B and {choice.PACKED_ROWS} rows on, and from "
        f"{choice.PACKED_ALWAYS:,} B with any number of rows, our own first packs blocks of both "
        "operands, that is, copies them into order.",
        f"Vectors of {bits} bits; tiles of {shapes} vectors.",
    )


def _row(m: int, k: int, n: int, dtype: str, precision: Precision) -> tuple[str, ...]:
    found = choice.choose(m, n, k, np.dtype(dtype).itemsize, precision)
    why = found.why.removeprefix("right operand ").partition(" (")[0]  # the rule has the rest
    return f"{m} x {k} x {n}", dtype, WHO[found.code], why


# --- Programs ------------------------------------------------------------------------------------


def _of_program(backend: Backend, program: Program) -> Notes:
    compiled = list(tasks_by_instruction(program, backend))
    each = [
        _products(tasks, backend.precision) if isinstance(tasks, list) else "" for tasks in compiled
    ]
    refused = dict.fromkeys(reason for reason in compiled if isinstance(reason, str))
    if refused:
        return Notes((f"Runs in the interpreter: {'; '.join(refused)}.",), each=tuple(each))
    return Notes((_execution(backend, program),), each=tuple(each))


def tasks_by_instruction(program: Program, backend: Backend) -> Iterator[list[Task] | str]:
    """The tasks of each instruction of a specialised Program, or why it has no compiled kernel."""
    for instruction in program.instructions:
        try:
            yield tasks_of(replace(program, instructions=(instruction,)), backend)
        except Unsupported as reason:
            yield str(reason)


def _execution(backend: Backend, program: Program) -> str:
    stages = len(make_plan(program, backend).stages)
    threads = backend.threads or default_threads(program)
    asked = "as asked" if backend.threads else "by default"
    steps = f"Runs as a compiled epoch: {_counted(stages, 'stage')} a step"
    if threads == 1:
        return f"{steps}, on 1 thread {asked}, without barriers."
    return f"{steps}, on {threads} threads {asked}, {_counted(stages, 'barrier')}."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _products(tasks: list[Task], precision: Precision) -> str:
    """Who computes the products among ``tasks``, and why."""
    texts = []
    for task in tasks:
        who = _product_of(task)
        if not who:
            continue
        right, out = (use.region for use in task.uses[1:3])
        size = right.shape[0] * right.shape[1]
        item = right.nbytes // max(size, 1)
        why = choice.choose(out.shape[0], size, 1, item, precision).why
        name = _written(task)
        texts.append(f"{'product' if name == 'out' else name} by {who}: {why}")
    return "; ".join(texts)


def _product_of(task: Task) -> str:
    """Who computes a task that is a product; empty for another task."""
    return ENTRIES.get(task.step.entry.name.partition("|")[0], "")


def _written(task: Task) -> str:
    return next(access.name for access in task.step.accesses if access.written)


# --- parts of a profile --------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What is known of one time in a profile.

    Attributes:
        name: which part of its instruction; empty where that has no parts to tell apart.
        flop, nbytes: its work, where it differs from the instruction's.
    """

    name: str = ""
    flop: float | None = None
    nbytes: int | None = None


def parts(plan: Plan) -> list[Part]:
    """The parts that :meth:`EpochExecutable.profile` gives the times of, in its order."""
    groups = [g for stage in plan.stages for g in stage if isinstance(g, Group) and g.units]
    tasks = [task for group in groups for task in group.tasks]
    divided = {id(task.instruction) for task in tasks if _product_of(task)}
    return [_part(task, id(task.instruction) in divided) for task in tasks]


def _part(task: Task, divided: bool) -> Part:
    nbytes = sum(use.region.nbytes for use in task.uses)
    if task.step.copies is not None:
        return Part(f"transposed {task.step.copies[0]}", 0.0, nbytes)
    who = _product_of(task)
    if who:
        b, out = (use.region for use in task.uses[1:3])
        flop = 2.0 * out.shape[0] * b.shape[0] * b.shape[1]
        bias = out.shape[0] * out.shape[1] if len(task.uses) > 3 else 0
        name = _written(task)
        return Part(f"by {who}" if name == "out" else f"{name} by {who}", flop + bias, nbytes)
    if divided:
        return Part(_written(task), _elements(task), nbytes)
    return Part()


def _elements(task: Task) -> float:
    """Additions of a sum over rows: as many as it reads numbers."""
    shape = task.uses[0].region.shape
    return float(shape[0] * shape[1]) if len(shape) == 2 else 0.0
