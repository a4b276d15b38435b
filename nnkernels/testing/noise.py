"""What rounding alone makes of a step's results, from the error bounds that operators declare.

A backend's step is the exact one with every instruction's results moved by no more than the
operator's bound (:class:`nnkernels.spec.Error`), which the conformance suite holds it to. How far
that moves a gradient is found by doing so: the float64 reference runs again, each result moved to
one end of its bound or the other by chance, and the largest of some draws is the *noise*.

That is a first-order analysis, so the moves are a small fraction of the bounds, as is what comes of
them: a unit within a rounding error of its kink would otherwise count as a wrong one. A result that
is exactly zero stays so, for it was not rounded: relu gives it, or dropout.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from nnkernels.backend import Backend
from nnkernels.program import Interpreter, Program, State
from nnkernels.program.interpreter import Bound
from nnkernels.spec import Array, get_op

DRAWS = 8
FRACTION = 2.0**-10
"""Part of the bounds that results are moved by; what comes of it is divided by this again."""


class Perturbed(Interpreter):
    """Runs a float64 Program as arithmetic in another dtype might, in little.

    Args:
        dtype: whose rounding errors the bounds are taken for.
        draw: which end of its bound every element goes to.
        backend: the float64 reference.
        program, state: see :class:`~nnkernels.program.Interpreter`.
    """

    def __init__(
        self,
        dtype: str,
        draw: np.random.Generator,
        backend: Backend,
        program: Program,
        state: State,
    ) -> None:
        super().__init__(backend, program, state)
        self._dtype, self._draw = np.dtype(dtype), draw
        bound = self.bound[: len(self._compute)]
        self._compute = [partial(self._run_and_move, each) for each in bound]

    def _run_and_move(self, bound: Bound) -> None:
        """Run an instruction, then move its results."""
        inputs = tuple(np.array(array) for array in bound.inputs)
        bound.run()
        op, params = get_op(bound.instruction.op), bound.instruction.params
        exact = op.evaluate(*inputs, **params)[: len(bound.outputs)]
        limits = op.error.bound(exact, inputs, params, self._dtype)
        for array, limit in zip(bound.outputs, limits, strict=True):
            if array is not None and array.dtype.kind == "f":
                self._move(array, limit)

    def _move(self, array: Array, limit: Array) -> None:
        ends = self._draw.choice([-FRACTION, FRACTION], array.shape)
        array += np.where(array == 0, 0.0, ends * limit)
