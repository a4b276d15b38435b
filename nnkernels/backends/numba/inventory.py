"""Which compiled code something needs: an operator, a Program, or any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nnkernels.backend import Backend
from nnkernels.backends._compiled.declare import CompiledKernel
from nnkernels.backends._compiled.entry import Entry
from nnkernels.backends.numba.epochs.engine import ENGINE
from nnkernels.backends.numba.kernels.linear import MULTIPLIER
from nnkernels.backends.numba.notes import tasks_by_instruction
from nnkernels.backends.numba.products.tuning import has_tiles, product_step
from nnkernels.program import Program
from nnkernels.program.rewrite import specialise
from nnkernels.spec import Op


def general(dtype: str) -> Iterator[Entry]:
    """What compiled epochs of any Program need: their loop, and products of every size."""
    for threads in (1, 2):
        yield from ENGINE.entries(threads)
    yield ENGINE.walk_timed
    for code in MULTIPLIER.codes:
        if code == "blas" or (has_tiles() and code != "bf16"):  # that is for who asks for it
            yield product_step(code, 1, 1, 1, dtype).entry
    if has_tiles():
        yield MULTIPLIER.transposition({"rows": 1, "columns": 1}, dtype).entry


def of_operator(
    backend: Backend,
    op: Op[Any, Any],
    params: Mapping[str, Any],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    outputs: int,
) -> Iterator[Entry]:
    """What a call of ``op`` needs; nothing where its kernel is not compiled."""
    kernel = backend.kernels[op.name].function if op.name in backend.kernels else None
    if isinstance(kernel, CompiledKernel):
        for step in kernel.steps(shapes, dtypes, params, [True] * outputs):
            yield step.entry


def of_program(backend: Backend, program: Program) -> Iterator[Entry]:
    """What a Program needs, besides :func:`general`."""
    for tasks in tasks_by_instruction(specialise(program, backend), backend):
        if isinstance(tasks, list):
            yield from (task.step.entry for task in tasks)
