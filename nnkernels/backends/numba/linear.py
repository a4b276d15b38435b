"""Matrix products, affine layers and sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnkernels.backends.numba import choice
from nnkernels.backends.numba.declare import Access, Borrowed, Call, Family, Part, Phase, Step
from nnkernels.backends.numba.library import kernel_entry
from nnkernels.backends.numba.microkernel import vector_bits
from nnkernels.backends.numba.products import blas_product, column_sums, own_product, transpose
from nnkernels.backends.numba.record import Field, Layout
from nnkernels.spec import Array

family = Family()

OWN_BLOCK, BLAS_BLOCK = 96 << 10, 1 << 20
"""Bytes of a product that are computed at once where another step works on them at once: ours stay
in the second-level cache; BLAS needs more to make up for copying its operands."""

OWN_INTEGERS = ("a", "a_row", "a_column", "b", "b_row", "bias", "k")
BLAS_INTEGERS = ("gemm", "a", "a_step", "a_transposed", "b", "b_step", "b_transposed", "bias", "k")


def _layout(integers: tuple[str, ...], dtype: str) -> Layout:
    """The record of a product: integers, the result's address and sizes."""
    count = len(integers)
    fields = [Field(name, "int", cell) for cell, name in enumerate(integers)]
    fields.append(Field("out", "array", count, dtype, ("m", "n")))
    fields += [Field("first", "first"), Field("last", "last")]
    return Layout(tuple(fields), {"m": count + 1, "n": count + 2}, count + 3, "m")


@dataclass(frozen=True)
class Product(Part):
    """The part ``out = a b + bias`` of an operator, its rows divided.

    Attributes:
        a, b, out: what the operator calls the operands.
        m, n, k: labels of the rows and columns of ``out``, and of what is summed over.
        transpose_a, transpose_b: whether an operand is stored transposed.
        bias: row vector to be added, if any.
        scratch: takes the transposed b (k, n) where ``transpose_b`` asks for one.
    """

    a: str
    b: str
    out: str
    m: str
    n: str
    k: str
    transpose_a: bool = False
    transpose_b: bool = False
    bias: str = ""
    scratch: str = ""

    def steps(self, call: Call) -> list[Step]:
        """The product, after transposing b where our own needs it."""
        n, k = call.sizes[self.n], call.sizes[self.k]
        own = choice.choose(n, k, np.dtype(call.floating).itemsize).code == "own"
        if own and self.transpose_b:
            return [self._transposition(call), self._step(call, self.scratch, own=True)]
        return [self._step(call, self.b, own=own)]

    def _transposition(self, call: Call) -> Step:
        """Copies b, stored as (n, k), to scratch as (k, n)."""
        sizes = {"rows": call.sizes[self.n], "columns": call.sizes[self.k]}
        names = {"a": self.b, "out": self.scratch}
        return transposition(sizes, call.floating).renamed(names)

    def _step(self, call: Call, b: str, *, own: bool) -> Step:
        layout = _layout(OWN_INTEGERS if own else BLAS_INTEGERS, call.floating)
        record = self._own_record if own else self._blas_record
        m, n, k = (call.sizes[label] for label in (self.m, self.n, self.k))

        def fill(addresses: Mapping[str, int]) -> list[int]:
            return [*record(call.floating, m, n, k, addresses, b), addresses[self.out], m, n]

        accesses = [
            Access(self.a, False, not self.transpose_a),
            Access(b, False, False),
            Access(self.out, True, True),
            *([Access(self.bias, False, False)] if self.bias else []),
        ]
        entry = kernel_entry(own_product if own else blas_product, layout)
        return Step(entry, m, tuple(accesses), fill, OWN_BLOCK if own else BLAS_BLOCK)

    def _own_record(
        self, dtype: str, m: int, n: int, k: int, addresses: Mapping[str, int], b: str
    ) -> list[int]:
        item = np.dtype(dtype).itemsize
        steps = (item, m * item) if self.transpose_a else (k * item, item)
        bias = addresses[self.bias] if self.bias else 0
        return [addresses[self.a], *steps, addresses[b], n * item, bias, k]

    def _blas_record(
        self, dtype: str, m: int, n: int, k: int, addresses: Mapping[str, int], b: str
    ) -> list[int]:
        left = [addresses[self.a], m if self.transpose_a else k, int(self.transpose_a)]
        right = [addresses[b], k if self.transpose_b else n, int(self.transpose_b)]
        bias = addresses[self.bias] if self.bias else 0
        return [choice.gemm_address(dtype), *left, *right, bias, k]


def transposition(sizes: Mapping[str, int], dtype: str) -> Step:
    """A step that writes ``a`` (rows, columns) to ``out`` (columns, rows), its rows divided."""
    fields = (
        Field("a", "array", 0, dtype, ("rows", "columns")),
        Field("out", "array", 1, dtype, ("columns", "rows")),
        Field("first", "first"),
        Field("last", "last"),
    )
    layout = Layout(fields, {"rows": 2, "columns": 3}, 4, "rows")
    accesses = (Access("a", False, True), Access("out", True, False))

    def fill(addresses: Mapping[str, int]) -> list[int]:
        return [addresses["a"], addresses["out"], sizes["rows"], sizes["columns"]]

    entry = kernel_entry(transpose, layout)
    return Step(entry, sizes["rows"], accesses, fill, copies=("a", "out"))


# --- operators -----------------------------------------------------------------------------------

family.workspace("matmul", "turned(k,n)")


@family.recipe("matmul")
def matmul(call: Call) -> list[Part]:
    """One product."""
    a, b = bool(call.params["transpose_a"]), bool(call.params["transpose_b"])
    return [Product("a", "b", "out", "m", "n", "k", a, b, scratch="turned")]


@family.recipe("linear")
def linear(call: Call) -> list[Part]:
    """One product, to which the bias is added as its tiles are stored."""
    return [Product("x", "w", "out", "b", "n", "k", bias="b")]


family.workspace("linear_backward", "turned(n,k),block(n),one(1)")


@family.recipe("linear_backward")
def linear_backward(call: Call) -> list[Part]:
    """Up to two products and a sum over the rows."""
    sizes = {label: call.sizes[label] for label in ("b", "n")}
    names = {"grad": "grad", "out": "grad_b", "block": "block", "one": "one"}
    parts: dict[str, Part] = {
        "grad_x": Product("grad", "w", "grad_x", "b", "k", "n", transpose_b=True, scratch="turned"),
        "grad_w": Product("x", "grad", "grad_w", "k", "n", "b", transpose_a=True),
        "grad_b": Borrowed(family["bias_grad"], names, sizes),
    }
    return [part for name, part in parts.items() if name in call.wanted]


family.workspace("bias_grad", "block(n),one(1)")


@family.recipe("bias_grad")
def bias_grad(call: Call) -> list[Part]:
    """Column sums: by register tiles where there are some, else row by row."""
    return [Phase(column_sums if vector_bits() else row_sums, over="n")]


ROW_BLOCK = 32
"""Rows that are summed before their sum is added to the total."""


def row_sums(grad: Array, out: Array, block: Array, first: int, last: int) -> None:
    """Sums over the rows, in blocks, of the columns ``[first, last)``."""
    zero = out.dtype.type(0)
    for j in range(out.size):
        out[j] = zero
    for start in range(0, grad.shape[0], ROW_BLOCK):
        for j in range(block.size):
            block[j] = zero
        for i in range(start, min(start + ROW_BLOCK, grad.shape[0])):
            row = grad[i, first:last]
            for j in range(block.size):
                block[j] += row[j]
        for j in range(block.size):
            out[j] += block[j]


@family.phase(over="b")
def bias_add(x: Array, b: Array, out: Array) -> None:
    """Row by row."""
    for i in range(x.shape[0]):
        row, target = x[i], out[i]
        for j in range(b.size):
            target[j] = row[j] + b[j]


@family.phase(over="...")
def add(a: Array, b: Array, out: Array) -> None:
    """Element by element."""
    for i in range(a.size):
        out[i] = a[i] + b[i]
