"""Records: how arrays, sizes and parameters reach compiled code.

Every compiled kernel has one C signature, ``void kernel(const int64_t *record, int64_t first,
int64_t last)``, so that one loop can call any of them through a pointer. The record holds the
addresses of its arrays, its parameters (float64 by their bits) and the sizes of its dimensions, in
the order that a :class:`Layout` says; ``[first, last)`` are the items it is to compute, along the
dimension named ``over``.

A kernel says by the names of its parameters what it wants:

* the operator's inputs, outputs (``out`` where there is one) and scratch, as C-contiguous arrays.
  One whose first dimension is ``over`` holds the items ``[first, last)`` alone. ``...`` is
  flattened into one dimension, and a single number is an array of one element. The address of an
  output that is not wanted is 0;
* the operator's parameters: float64, int64, or for a choice its position among the choices;
* ``b_size``, the whole size of a dimension ``b``; ``row_size``, how many elements of ``...`` one
  index of its first dimension selects; ``first`` and ``last``.

In the record stand the arrays first, in the order of the parameters, then the operator's
parameters, then the sizes that are asked for, then those of the arrays' other dimensions.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nnkernels import signature as sig
from nnkernels.errors import BackendError
from nnkernels.spec import Op

if TYPE_CHECKING:
    from nnkernels.backends._compiled.entry import Code

CELL = 8
"""Bytes of a record's cell."""


class Field(NamedTuple):
    """One parameter of a kernel, and where it stands in the record.

    Attributes:
        name: of the parameter.
        kind: ``array``, a number from one cell, or a bound of the items.
        cell: its address's or value's place in the record.
        dtype: of an array's elements.
        dims: labels of an array's dimensions.
        sliced: whether an array holds the items ``[first, last)`` of its first dimension.
    """

    name: str
    kind: Literal["array", "float", "int", "first", "last"]
    cell: int = 0
    dtype: str = ""
    dims: tuple[str, ...] = ()
    sliced: bool = False


@dataclass(frozen=True)
class Layout:
    """The record of one kernel for one dtype.

    Attributes:
        fields: what the kernel gets, in the order of its parameters.
        sizes: cell of every dimension's size.
        cells: length of the record.
        over: dimension whose items are divided; None where the kernel computes everything at once.
        floating: ``float32`` or ``float64``: what numbers are, if any of its arrays holds them.
    """

    fields: tuple[Field, ...]
    sizes: Mapping[str, int]
    cells: int
    over: str | None
    floating: str

    @property
    def arrays(self) -> list[Field]:
        """The fields that are arrays."""
        return [f for f in self.fields if f.kind == "array"]

    @property
    def key(self) -> str:
        """Text that two layouts share only if the compiled code may be the same."""
        parts = (f"{f.name}:{f.kind}:{f.dtype}:{f.cell}:{f.sliced}:{f.dims}" for f in self.fields)
        return f"{';'.join(parts)}|{sorted(self.sizes.items())}"


class Operands(NamedTuple):
    """An operator's arrays by the names that kernels call them, and its parameters."""

    arrays: Mapping[str, sig.Argument]
    params: Mapping[str, Any]


def operands(
    op: Op[Any, Any], signature: sig.Signature, workspace: str, params: Mapping[str, Any]
) -> Operands:
    """What kernels of ``op`` may ask for by name."""
    names = output_names(op, signature)
    scratch = sig.parse_arguments(workspace)
    arrays = {
        **dict(zip(op.inputs, signature.inputs, strict=True)),
        **dict(zip(names, signature.outputs, strict=True)),
        **{argument.name: argument for argument in scratch},
    }
    return Operands(arrays, {name: _number(op, name, params[name]) for name in op.params})


def output_names(op: Op[Any, Any], signature: sig.Signature) -> tuple[str, ...]:
    """``out``, or the names of several outputs."""
    if len(signature.outputs) == 1:
        return ("out",)
    return op.result_names(signature)[: len(signature.outputs)]


def _number(op: Op[Any, Any], name: str, value: Any) -> float | int | None:
    """A parameter as a number; None for a text that is no choice."""
    limit = op.limits.get(name)
    if isinstance(limit, tuple):
        return limit.index(value)
    return value if isinstance(value, (int, float)) else None


def lay_out(code: Code, given: Operands, floating: str, over: str | None) -> Layout:
    """The record of a kernel."""
    names = code.parameters
    cells = iter(range(1 << 10))
    wanted = {n: given.arrays[n] for n in names if n in given.arrays}
    fields: dict[str, Field] = {}
    for name, argument in wanted.items():
        dims = argument.dims
        sliced = over is not None and dims[:1] == (over,)
        dtype = argument.dtype(np.dtype(floating)).name
        plain = tuple(label.rstrip("+") for label in dims)
        fields[name] = Field(
            name, "array", next(cells), dtype, plain, sliced or dims[:1] == (f"{over}+",)
        )
    for name in names:
        if name in given.params and name not in fields:
            kind: Any = "float" if isinstance(given.params[name], float) else "int"
            fields[name] = Field(name, kind, next(cells))
        elif name in ("first", "last"):
            fields[name] = Field(name, name)  # type: ignore[arg-type]  # one of the two
    labels = {n.removesuffix("_size"): None for n in names if n.endswith("_size")}
    labels |= {d: None for f in fields.values() for d in f.dims if not d.isdigit()}
    sizes = {label: next(cells) for label in labels}
    for name in names:
        if name.endswith("_size"):
            fields[name] = Field(name, "int", sizes[name.removesuffix("_size")])
        elif name not in fields:
            raise BackendError(f"kernel {code.name}: nothing is called {name!r}")
    return Layout(tuple(fields[n] for n in names), sizes, next(cells), over, floating)


def sizes_of(dims: Mapping[str, Any]) -> dict[str, int]:
    """Sizes by label; ``...`` is the product of its dimensions, ``row`` of all but the first."""
    sizes = {k: math.prod(v) if isinstance(v, tuple) else int(v) for k, v in dims.items()}
    return {"row": math.prod(dims["..."][1:]), **sizes} if "..." in dims else sizes


def fill(
    layout: Layout,
    addresses: Mapping[str, int],
    params: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> list[int]:
    """The record as a list of integers."""
    record = [0] * layout.cells
    for field in layout.fields:
        if field.kind == "array":
            record[field.cell] = addresses[field.name]
        elif field.kind == "float":
            record[field.cell] = float_bits(params[field.name])
        elif field.name in params:
            record[field.cell] = int(params[field.name])
    for label, cell in layout.sizes.items():
        record[cell] = sizes[label]
    return record


def float_bits(value: float) -> int:
    """The bits of a float64 as a signed integer."""
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits


def items(layout: Layout, sizes: Mapping[str, int]) -> int:
    """How many items the whole call has; 1 where they are not divided."""
    if layout.over is None:
        return 1
    return int(layout.over) if layout.over.isdigit() else sizes[layout.over]


def shape_of(field: Field, sizes: Mapping[str, int]) -> Sequence[int]:
    """Shape of a whole array."""
    return [int(d) if d.isdigit() else sizes[d] for d in field.dims]
