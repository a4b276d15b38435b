"""What a step is put together from: pieces that become one launch or product, or a few.

A group knows how to launch itself on a queue, which slots it makes superfluous, and what scratch it
wants. The same recipes serve here as for single operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from nnkernels import signature as sig
from nnkernels.backends.cupy import recipes
from nnkernels.backends.cupy.kernels import bookkeeping, linear, step
from nnkernels.backends.cupy.launching import Epilogue, Product, Queue
from nnkernels.backends.cupy.steps.pieces import GUARD, Piece
from nnkernels.program import Instruction, Program
from nnkernels.program.builder import solved_dims
from nnkernels.spec import get_op

EPILOGUES: Mapping[str, Literal["bias", "bias_relu"]] = {"identity": "bias", "relu": "bias_relu"}
"""How a product can do an activation, behind its bias, on the way."""


class Scratch(NamedTuple):
    """An array that a group wants besides the Program's."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Arrays(Protocol):
    """Where a step's arrays are.

    Attributes:
        skip: the counter that keeps updates from happening; None in a Program without a guard.
    """

    skip: Any

    def slot(self, number: int | None) -> Any:
        """The array of a slot; None for None."""

    def work(self, group: Group) -> tuple[Any, ...]:
        """The arrays of :meth:`Group.workspace`."""

    def kept(self, group: Group) -> tuple[Any, ...]:
        """The arrays of :meth:`Group.kept`."""

    def mask(self, slot: int) -> Any:
        """The bit mask of a relu's output; the output itself where there is none."""


@dataclass(frozen=True, eq=False)
class Group:
    """Pieces that are launched together.

    Attributes:
        pieces: in their order.
        hidden: slots that need no memory, as only this group would use it.
    """

    pieces: tuple[Piece, ...]
    hidden: frozenset[int] = field(default=frozenset(), kw_only=True)

    @property
    def origin(self) -> Instruction:
        """The instruction that its time counts for."""
        return self.pieces[0].origin

    @property
    def slots(self) -> set[int]:
        """Slots whose memory it uses."""
        return {slot for piece in self.pieces for slot in piece.slots} - self.hidden

    def workspace(self, program: Program) -> tuple[Scratch, ...]:
        """Scratch that may hold anything when it is launched."""
        return ()

    def kept(self, program: Program) -> tuple[Scratch, ...]:
        """Scratch that is zero at first and stays between steps."""
        return ()

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """Queue what it does."""
        raise NotImplementedError  # every group has its own


def arguments_of(text: str, dims: sig.Dims, dtype: str) -> tuple[Scratch, ...]:
    """Scratch declared in the signature language."""
    return tuple(
        Scratch(sig.shape_of(a, dims), a.dtype(np.dtype(dtype)).name)
        for a in sig.parse_arguments(text)
    )


class Single(Group):
    """One operator, by its own recipe."""

    def workspace(self, program: Program) -> tuple[Scratch, ...]:
        """What the recipe declares."""
        (piece,) = self.pieces
        dims = solved_dims(program, piece.instruction)
        return arguments_of(recipes()[piece.op].workspace, dims, program.dtype)

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """As a call of the operator would be; an update heeds the guard."""
        (piece,) = self.pieces
        keywords: dict[str, Any] = dict(piece.instruction.params)
        outputs = tuple(arrays.slot(o) for o in piece.outputs)
        if outputs:
            keywords["out"] = outputs[0] if len(outputs) == 1 else outputs
        work = arrays.work(self)
        if work:
            keywords["work"] = work
        if piece.instruction.phase == "update" and get_op(piece.op).updates:
            keywords["skip"] = arrays.skip
        recipes()[piece.op].function(queue, *map(arrays.slot, piece.inputs), **keywords)


class Guard(Group):
    """The guard by itself."""

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """One launch between the phases."""
        (piece,) = self.pieces
        (loss,), (diverged,) = piece.inputs, piece.outputs
        bookkeeping.guard(queue, arrays.slot(loss), arrays.slot(diverged))


class Move(Group):
    """A window that is copied by itself; the row comes from the host."""

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """Nothing: it has no fixed arguments."""


@dataclass(frozen=True, eq=False)
class Gather(Group):
    """A batch with its targets, the rows of an order or consecutive ones.

    Attributes:
        x, targets: slots of the data, whole or in windows.
        order: slot of the order; None for consecutive rows.
        row: slot of the counter.
        out: slots of the batch and its targets.
    """

    x: int
    targets: int
    order: int | None
    row: int
    out: tuple[int, int]

    @property
    def slots(self) -> set[int]:
        """Slots whose memory it uses, the counter among them."""
        return super().slots | {self.row}

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """One launch, which reads the row on the device."""
        of = arrays.slot
        x_out, targets_out = map(of, self.out)
        step.gather_step(
            queue, of(self.x), of(self.targets), of(self.order), of(self.row), x_out, targets_out
        )


def product_of(piece: Piece, arrays: Arrays, out: Any, epilogue: Epilogue | None = None) -> Product:
    """The product that a ``matmul`` stands for."""
    params = piece.instruction.params
    a, b = map(arrays.slot, piece.inputs)
    return Product(a, b, out, params["transpose_a"], params["transpose_b"], epilogue)


@dataclass(frozen=True, eq=False)
class Layer(Group):
    """A product with its bias, and the activation behind it.

    Attributes:
        product, bias: ``matmul`` and ``bias_add``.
        activation: an elementwise operator with default parameters, or None.
        epilogue: by which the product does it all on the way; None where a launch does it.
        masked: whether the product then remembers where its relu was positive.
    """

    product: Piece
    bias: Piece
    activation: Piece | None
    epilogue: Literal["bias", "bias_relu"] | None
    masked: bool = False

    @property
    def result(self) -> int:
        """The slot of what comes out in the end."""
        return (self.activation or self.bias).result

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """One product, or a product and a launch."""
        bias, y = arrays.slot(self.bias.inputs[1]), arrays.slot(self.result)
        if self.epilogue is not None:
            mask = arrays.mask(self.result) if self.masked else None
            asked = Epilogue(self.epilogue, bias, mask)
            queue.product(product_of(self.product, arrays, y, asked))
            return
        queue.product(product_of(self.product, arrays, y))
        if self.activation is None:
            linear.bias_activation(queue, "identity", y, bias, y)
        else:
            z = None if self.bias.result in self.hidden else arrays.slot(self.bias.result)
            params = self.activation.instruction.params
            linear.bias_activation(queue, self.activation.op, y, bias, y, z, **params)


@dataclass(frozen=True, eq=False)
class Slope(Group):
    """The derivative of an activation and the column sums of its result.

    Attributes:
        product: the ``matmul`` that gives the gradient, if it is only needed here.
        derivative, bias_grad: the operators.
        masked: whether the product does it all on the way, by a relu's bit mask.
    """

    product: Piece | None
    derivative: Piece
    bias_grad: Piece
    masked: bool = False

    def workspace(self, program: Program) -> tuple[Scratch, ...]:
        """Column sums of slices of the rows."""
        if self.masked:
            return ()
        dims: sig.Dims = {"n": program.slots[self.bias_grad.result].elements}
        return arguments_of(linear.PARTIAL, dims, program.dtype)

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """One product, or a launch behind one."""
        grad, saved = self.derivative.inputs
        out, sums = (arrays.slot(piece.outputs[0]) for piece in (self.derivative, self.bias_grad))
        if self.product is not None and self.masked:
            asked = Epilogue("drelu_bias_grad", mask=arrays.mask(saved), bias_grad=sums)
            queue.product(product_of(self.product, arrays, out, asked))
            return
        if self.product is not None:
            queue.product(product_of(self.product, arrays, out))
        given = arrays.slot(grad) if self.product is None else out
        activation = self.derivative.op.removesuffix("_backward")
        operands = given, arrays.slot(saved), out, sums, *arrays.work(self)
        params = self.derivative.instruction.params
        linear.activation_backward_bias_grad(queue, activation, *operands, **params)


@dataclass(frozen=True, eq=False)
class WeightGradient(Group):
    """The product for a weight's gradient, which sums the bias gradient on the way."""

    product: Piece
    bias_grad: Piece

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """One product."""
        out, sums = (arrays.slot(piece.outputs[0]) for piece in (self.product, self.bias_grad))
        asked = Epilogue("bias_grad", bias_grad=sums)
        queue.product(product_of(self.product, arrays, out, asked))


@dataclass(frozen=True, eq=False)
class Head(Group):
    """Softmax cross-entropy with what follows from it: see :mod:`..kernels.step`.

    Attributes:
        loss: ``softmax_cross_entropy``.
        others: by operator, the pieces that it does on the way: ``bias_add`` before it, its
            derivative, ``bias_grad`` of that, the guard, and the step's bookkeeping.
    """

    loss: Piece
    others: dict[str, Piece]

    @property
    def slots(self) -> set[int]:
        """Slots whose memory it uses; the derivative's gradient, which is 1, is none of them."""
        backward = self.others.get("softmax_cross_entropy_backward")
        return super().slots - ({backward.inputs[0]} if backward else set())

    def kept(self, program: Program) -> tuple[Scratch, ...]:
        """One number a block, and the count of blocks that are done."""
        shapes = step.Scratch.shapes(program.dtype)
        return tuple(Scratch((length,), dtype) for length, dtype in shapes)

    def launch(self, queue: Queue, arrays: Arrays) -> None:
        """One launch."""
        logits, targets = self.loss.inputs
        loss, probs = self.loss.outputs
        bias = self.others.get("bias_add")
        biased = None if bias is None or logits in self.hidden else logits
        step.head_softmax_cross_entropy(
            queue,
            arrays.slot(logits if bias is None else bias.inputs[0]),
            arrays.slot(targets),
            loss=arrays.slot(loss),
            scratch=step.Scratch(*arrays.kept(self)),
            ledger=self._ledger(arrays),
            reduction=self.loss.instruction.params["reduction"],
            bias=None if bias is None else arrays.slot(bias.inputs[1]),
            biased=arrays.slot(biased),
            probs=None if probs in self.hidden else arrays.slot(probs),
            d_logits=self._result("softmax_cross_entropy_backward", arrays),
            bias_grad=self._result("bias_grad", arrays),
        )

    def _result(self, name: str, arrays: Arrays) -> Any:
        piece = self.others.get(name)
        return None if piece is None else arrays.slot(piece.outputs[0])

    def _ledger(self, arrays: Arrays) -> step.Ledger:
        """What the pieces of bookkeeping change."""
        entries: dict[str, Any] = {}
        for name, names in _LEDGER.items():
            if name in self.others:
                entries |= zip(names, map(arrays.slot, self.others[name].inputs), strict=False)
        if GUARD in self.others:
            entries["diverged"] = arrays.slot(self.others[GUARD].result)
        if "accumulate" in self.others:
            entries["weight"] = self.others["accumulate"].instruction.params["weight"]
        if "advance" in self.others:
            entries["advance"] = self.others["advance"].instruction.params["rows"]
        return step.Ledger(**entries)


_LEDGER = {
    "accumulate": ("loss_sum",),
    "count": ("metric",),
    "tick": ("step", "epoch_step", "learning_rate", "schedule"),
    "advance": ("row",),
}
"""Entries of the ledger that an operator's first inputs are."""
