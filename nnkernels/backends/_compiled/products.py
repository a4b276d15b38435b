"""Matrix products as steps, and the operators that are made of them.

What a product is computed by, its backend chooses; which products an operator needs, in which order
its operands lie and where its sums go is the same for all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnkernels.backend import Precision
from nnkernels.backends._compiled import record
from nnkernels.backends._compiled.declare import Access, Borrowed, Call, Family, Part, Phase, Step
from nnkernels.backends._compiled.entry import Code
from nnkernels.backends._compiled.record import Field, Layout

Form = Literal["rows", "strided", "blas"]
"""How a code wants its operands: b by rows, both in any order, or as BLAS has them."""

INTEGERS: Mapping[Form, tuple[str, ...]] = {
    "rows": ("a", "a_row", "a_column", "b", "b_row", "bias", "k"),
    "strided": ("a", "a_row", "a_column", "b", "b_row", "b_column", "bias", "k"),
    "blas": ("gemm", "a", "a_step", "a_transposed", "b", "b_step", "b_transposed", "bias", "k"),
}
"""What stands in the record before the result's address, m and n."""


@dataclass(frozen=True)
class ProductCode:
    """Code that computes ``out = a b + bias`` for some rows of ``out``.

    Attributes:
        code: its function.
        form: of its operands.
        block: bytes of a product that are computed at once where another step works on them at
            once: small ones stay in the second-level cache; codes that copy their operands need
            more to make up for it.
    """

    code: Code
    form: Form
    block: int


@dataclass(frozen=True)
class Multiplier:
    """Who computes products on a backend.

    Attributes:
        choose: m, n, k, itemsize, precision: the name of the code for such a product.
        codes: by name.
        transpose: code that turns a matrix.
        gemm: dtype: the address of BLAS's routine.
    """

    choose: Callable[[int, int, int, int, Precision], str]
    codes: Mapping[str, ProductCode]
    transpose: Code
    gemm: Callable[[str], int]

    def transposition(self, sizes: Mapping[str, int], dtype: str) -> Step:
        """A step that writes ``a`` (rows, columns) to ``out`` (columns, rows), its rows divided."""
        fields = (
            Field("a", "array", 0, dtype, ("rows", "columns")),
            Field("out", "array", 1, dtype, ("columns", "rows")),
            Field("first", "first"),
            Field("last", "last"),
        )
        layout = Layout(fields, {"rows": 2, "columns": 3}, 4, "rows", dtype)
        accesses = (Access("a", False, True), Access("out", True, False))

        def fill(addresses: Mapping[str, int]) -> list[int]:
            return [addresses["a"], addresses["out"], sizes["rows"], sizes["columns"]]

        entry = self.transpose.entry(layout)
        return Step(entry, sizes["rows"], accesses, fill, copies=("a", "out"))


def _layout(form: Form, dtype: str) -> Layout:
    """The record of a product: integers, the result's address and sizes."""
    integers = INTEGERS[form]
    count = len(integers)
    fields = [Field(name, "int", cell) for cell, name in enumerate(integers)]
    fields.append(Field("out", "array", count, dtype, ("m", "n")))
    fields += [Field("first", "first"), Field("last", "last")]
    return Layout(tuple(fields), {"m": count + 1, "n": count + 2}, count + 3, "m", dtype)


@dataclass(frozen=True)
class Product(Part):
    """The part ``out = a b + bias`` of an operator, its rows divided.

    Attributes:
        multiplier: who computes it.
        a, b, out: what the operator calls the operands.
        m, n, k: labels of the rows and columns of ``out``, and of what is summed over.
        transpose_a, transpose_b: whether an operand is stored transposed.
        bias: row vector to be added, if any.
        scratch: takes the transposed b (k, n) where ``transpose_b`` asks for one.
    """

    multiplier: Multiplier
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
        item = np.dtype(call.floating).itemsize
        code = self.multiplier.choose(m, n, k, item, call.precision)
        if self.multiplier.codes[code].form == "rows" and self.transpose_b:
            return [self._transposition(call), self.step(call, code, self.scratch)]
        return [self.step(call, code, self.b)]

    def _transposition(self, call: Call) -> Step:
        """Copies b, stored as (n, k), to scratch as (k, n)."""
        sizes = {"rows": call.sizes[self.n], "columns": call.sizes[self.k]}
        names = {"a": self.b, "out": self.scratch}
        return self.multiplier.transposition(sizes, call.floating).renamed(names)

    def step(self, call: Call, name: str, b: str) -> Step:
        """The product by the code called ``name``, from the operand called ``b``."""
        m, n, k = (call.sizes[label] for label in (self.m, self.n, self.k))
        chosen = self.multiplier.codes[name]

        def fill(addresses: Mapping[str, int]) -> list[int]:
            operands = self._operands(chosen.form, call.floating, (m, n, k), addresses, b)
            bias = addresses[self.bias] if self.bias else 0
            return [*operands, bias, k, addresses[self.out], m, n]

        accesses = [
            Access(self.a, False, not self.transpose_a),
            Access(b, False, False),
            Access(self.out, True, True),
            *([Access(self.bias, False, False)] if self.bias else []),
        ]
        entry = chosen.code.entry(_layout(chosen.form, call.floating))
        return Step(entry, m, tuple(accesses), fill, chosen.block)

    def _operands(
        self,
        form: Form,
        dtype: str,
        sizes: tuple[int, int, int],
        addresses: Mapping[str, int],
        b: str,
    ) -> list[int]:
        """Addresses and steps of a and b: in bytes, for BLAS in elements and with its letters."""
        m, n, k = sizes
        item = np.dtype(dtype).itemsize
        if form == "blas":
            left = [addresses[self.a], m if self.transpose_a else k, int(self.transpose_a)]
            right = [addresses[b], k if self.transpose_b else n, int(self.transpose_b)]
            return [self.multiplier.gemm(dtype), *left, *right]
        steps = [item, m * item] if self.transpose_a else [k * item, item]
        right = [n * item] if form == "rows" else [n * item, item]
        if form != "rows" and self.transpose_b:
            right = [item, k * item]
        return [addresses[self.a], *steps, addresses[b], *right]


# --- operators -----------------------------------------------------------------------------------

WORKSPACES = {
    "matmul": "turned(k,n)",
    "matmul_backward": "turned_b(n,k),turned_grad(n,m),turned_a(m,k)",
    "linear_backward": "turned(n,k),block(n),one(1)",
    "bias_add_backward": "block(n),one(1)",
    "bias_grad": "block(n),one(1)",
}
"""Scratch of the operators that are made of products and sums over rows."""


def declare(
    family: Family, multiplier: Multiplier, sums: Callable[[], Code], activations: Family
) -> None:
    """Declare the operators that are made of products.

    ``sums`` gives the code of sums over rows (``grad``, ``out``, and scratch of a block of sums
    and of one number); ``activations`` has the kernels of activation functions and ``identity``.
    """
    for name, arrays in WORKSPACES.items():
        family.workspace(name, arrays)
    recipes = _Recipes(family, multiplier, sums, activations)
    for name in ("matmul", "linear", "matmul_backward", "linear_activation", "linear_backward"):
        family[name].blas = True
        family.recipe(name)(getattr(recipes, name))
    for name in ("bias_grad", "bias_add_backward", "add_backward"):
        family.recipe(name)(getattr(recipes, name))


class _Recipes:
    """For each operator a function that gives its parts."""

    def __init__(
        self,
        family: Family,
        multiplier: Multiplier,
        sums: Callable[[], Code],
        activations: Family,
    ) -> None:
        self._family, self._activations = family, activations
        self._product, self._sums = functools.partial(Product, multiplier), sums

    def bias_grad(self, call: Call) -> list[Part]:
        """Column sums."""
        return [Phase(self._sums(), over="n")]

    def matmul(self, call: Call) -> list[Part]:
        """One product."""
        a, b = bool(call.params["transpose_a"]), bool(call.params["transpose_b"])
        return [self._product("a", "b", "out", "m", "n", "k", a, b, scratch="turned")]

    def linear(self, call: Call) -> list[Part]:
        """One product, to which the bias is added as its tiles are stored."""
        return [self._product("x", "w", "out", "b", "n", "k", bias="b")]

    def matmul_backward(self, call: Call) -> list[Part]:
        """``dA = G Bᵀ`` and ``dB = Aᵀ G``, or their transposes where the operands are stored so."""
        a, b = bool(call.params["transpose_a"]), bool(call.params["transpose_b"])
        parts: dict[str, Part] = {
            "y0": self._product("b", "grad", "y0", "k", "m", "n", b, True, scratch="turned_grad")
            if a
            else self._product("grad", "b", "y0", "m", "k", "n", False, not b, scratch="turned_b"),
            "y1": self._product("grad", "a", "y1", "n", "k", "m", True, a, scratch="turned_a")
            if b
            else self._product("a", "grad", "y1", "k", "n", "m", not a),
        }
        return [part for name, part in parts.items() if name in call.wanted]

    def linear_activation(self, call: Call) -> list[Part]:
        """A product with its bias, then the activation: in its place where nobody wants it."""
        activation = self._activations[call.params["activation"]]
        z = "z" if "z" in call.wanted else "y"
        sizes = record.sizes_of({"...": (call.sizes["b"], call.sizes["n"])})
        parts: list[Part] = [self._product("x", "w", z, "b", "n", "k", bias="b")]
        if "y" in call.wanted:
            parts.append(Borrowed(activation, {"x": z, "out": "y"}, sizes, activation.op.params))
        return parts

    def linear_backward(self, call: Call) -> list[Part]:
        """Up to two products and a sum over the rows."""
        sizes = {label: call.sizes[label] for label in ("b", "n")}
        names = {"grad": "grad", "out": "grad_b", "block": "block", "one": "one"}
        parts: dict[str, Part] = {
            "grad_x": self._product(
                "grad", "w", "grad_x", "b", "k", "n", transpose_b=True, scratch="turned"
            ),
            "grad_w": self._product("x", "grad", "grad_w", "k", "n", "b", transpose_a=True),
            "grad_b": Borrowed(self._family["bias_grad"], names, sizes),
        }
        return [part for name, part in parts.items() if name in call.wanted]

    def bias_add_backward(self, call: Call) -> list[Part]:
        """A copy, and column sums."""
        sizes = {label: call.sizes[label] for label in ("b", "n")}
        names = {"grad": "grad", "out": "y1", "block": "block", "one": "one"}
        copied = self._copy(
            "grad", "y0", record.sizes_of({"...": (call.sizes["b"], call.sizes["n"])})
        )
        parts: dict[str, Part] = {
            "y0": copied,
            "y1": Borrowed(self._family["bias_grad"], names, sizes),
        }
        return [part for name, part in parts.items() if name in call.wanted]

    def add_backward(self, call: Call) -> list[Part]:
        """Two copies."""
        return [
            self._copy("grad", name, call.sizes) for name in ("y0", "y1") if name in call.wanted
        ]

    def _copy(self, source: str, target: str, sizes: Mapping[str, int]) -> Part:
        return Borrowed(self._activations["identity"], {"x": source, "out": target}, sizes)
