"""Matrix products, affine layers and sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nnkernels.backends.numba.compiling import record
from nnkernels.backends.numba.compiling.declare import (
    Access,
    Borrowed,
    Call,
    Family,
    Part,
    Phase,
    Step,
)
from nnkernels.backends.numba.compiling.linking import kernel_entry
from nnkernels.backends.numba.compiling.record import Field, Layout
from nnkernels.backends.numba.kernels import activations
from nnkernels.backends.numba.products import choice
from nnkernels.backends.numba.products.bfloat import bfloat_product
from nnkernels.backends.numba.products.blocked import (
    blas_product,
    column_sums,
    own_product,
    transpose,
)
from nnkernels.backends.numba.products.microkernel import vector_bits
from nnkernels.backends.numba.products.packed import packed_product
from nnkernels.spec import Array

family = Family()

OWN_BLOCK, PACKED_BLOCK, BLAS_BLOCK, BFLOAT_BLOCK = 96 << 10, 4 << 20, 8 << 20, 8 << 20
"""Bytes of a product that are computed at once where another step works on them at once: small ones
stay in the second-level cache; those that copy their operands need more to make up for it."""

OWN_INTEGERS = ("a", "a_row", "a_column", "b", "b_row", "bias", "k")
PACKED_INTEGERS = ("a", "a_row", "a_column", "b", "b_row", "b_column", "bias", "k")
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
        """The product, after turning b where our own wants it by rows."""
        m, n, k = (call.sizes[label] for label in (self.m, self.n, self.k))
        code = choice.choose(m, n, k, np.dtype(call.floating).itemsize, call.precision).code
        if code == "own" and self.transpose_b:
            return [self._transposition(call), self._step(call, code, self.scratch)]
        return [self._step(call, code, self.b)]

    def _transposition(self, call: Call) -> Step:
        """Copies b, stored as (n, k), to scratch as (k, n)."""
        sizes = {"rows": call.sizes[self.n], "columns": call.sizes[self.k]}
        names = {"a": self.b, "out": self.scratch}
        return transposition(sizes, call.floating).renamed(names)

    def _step(self, call: Call, code: choice.Code, b: str) -> Step:
        m, n, k = (call.sizes[label] for label in (self.m, self.n, self.k))
        function, integers, block = PRODUCTS[code]

        def fill(addresses: Mapping[str, int]) -> list[int]:
            operands = self._operands(code, call.floating, (m, n, k), addresses, b)
            bias = addresses[self.bias] if self.bias else 0
            return [*operands, bias, k, addresses[self.out], m, n]

        accesses = [
            Access(self.a, False, not self.transpose_a),
            Access(b, False, False),
            Access(self.out, True, True),
            *([Access(self.bias, False, False)] if self.bias else []),
        ]
        entry = kernel_entry(function, _layout(integers, call.floating))
        return Step(entry, m, tuple(accesses), fill, block)

    def _operands(
        self,
        code: choice.Code,
        dtype: str,
        sizes: tuple[int, int, int],
        addresses: Mapping[str, int],
        b: str,
    ) -> list[int]:
        """Addresses and steps of a and b: in bytes, for BLAS in elements and with its letters."""
        m, n, k = sizes
        item = np.dtype(dtype).itemsize
        if code == "blas":
            left = [addresses[self.a], m if self.transpose_a else k, int(self.transpose_a)]
            right = [addresses[b], k if self.transpose_b else n, int(self.transpose_b)]
            return [choice.gemm_address(dtype), *left, *right]
        steps = [item, m * item] if self.transpose_a else [k * item, item]
        right = [n * item] if code == "own" else [n * item, item]
        if code != "own" and self.transpose_b:
            right = [item, k * item]
        return [addresses[self.a], *steps, addresses[b], *right]


PRODUCTS: Mapping[choice.Code, tuple[Callable[..., None], tuple[str, ...], int]] = {
    "own": (own_product, OWN_INTEGERS, OWN_BLOCK),
    "packed": (packed_product, PACKED_INTEGERS, PACKED_BLOCK),
    "blas": (blas_product, BLAS_INTEGERS, BLAS_BLOCK),
    "bf16": (bfloat_product, PACKED_INTEGERS, BFLOAT_BLOCK),
}
"""By the code that is chosen: the function, its integers, and what it computes well at once."""


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


family.workspace("matmul_backward", "turned_b(n,k),turned_grad(n,m),turned_a(m,k)")


@family.recipe("matmul_backward")
def matmul_backward(call: Call) -> list[Part]:
    """``dA = G Bᵀ`` and ``dB = Aᵀ G``, or their transposes where the operands are stored so."""
    a, b = bool(call.params["transpose_a"]), bool(call.params["transpose_b"])
    parts: dict[str, Part] = {
        "y0": Product("b", "grad", "y0", "k", "m", "n", b, True, scratch="turned_grad")
        if a
        else Product("grad", "b", "y0", "m", "k", "n", False, not b, scratch="turned_b"),
        "y1": Product("grad", "a", "y1", "n", "k", "m", True, a, scratch="turned_a")
        if b
        else Product("a", "grad", "y1", "k", "n", "m", not a),
    }
    return [part for name, part in parts.items() if name in call.wanted]


@family.recipe("linear_activation")
def linear_activation(call: Call) -> list[Part]:
    """A product with its bias, then the activation, over the product where nobody wants that."""
    activation = activations.family[call.params["activation"]]
    z = "z" if "z" in call.wanted else "y"
    sizes = record.sizes_of({"...": (call.sizes["b"], call.sizes["n"])})
    parts: list[Part] = [Product("x", "w", z, "b", "n", "k", bias="b")]
    if "y" in call.wanted:
        parts.append(Borrowed(activation, {"x": z, "out": "y"}, sizes, activation.op.params))
    return parts


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


family.workspace("bias_add_backward", "block(n),one(1)")


@family.recipe("bias_add_backward")
def bias_add_backward(call: Call) -> list[Part]:
    """A copy, and column sums."""
    sizes = {label: call.sizes[label] for label in ("b", "n")}
    names = {"grad": "grad", "out": "y1", "block": "block", "one": "one"}
    copied = _copy("grad", "y0", record.sizes_of({"...": (call.sizes["b"], call.sizes["n"])}))
    parts: dict[str, Part] = {"y0": copied, "y1": Borrowed(family["bias_grad"], names, sizes)}
    return [part for name, part in parts.items() if name in call.wanted]


@family.recipe("add_backward")
def add_backward(call: Call) -> list[Part]:
    """Two copies."""
    return [_copy("grad", name, call.sizes) for name in ("y0", "y1") if name in call.wanted]


def _copy(source: str, target: str, sizes: Mapping[str, int]) -> Part:
    return Borrowed(activations.family["identity"], {"x": source, "out": target}, sizes)


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
