"""The signature language of operators: argument kinds, shapes, index ranges and intervals.

A signature reads like NumPy's gufuncs, with a kind and an interval behind the parentheses::

    (b,k),(k,n)->(b,n)                      two matrices with a common dimension
    (...),(...)->(...)                      elementwise, any number of dimensions, no broadcasting
    (b+,c),(b+)int[0,c)->loss(),probs(b,c)  labels below c, named outputs, at least one row

* A dimension is a label, a number, or ``...`` (any leading dimensions, the same in every argument).
  ``b+`` asks for a size of at least one. A label that is also an integer parameter of the
  operator takes that parameter's value.
* Kinds: ``float`` (the default: the operator's floating dtype), ``int`` (int64), ``mask`` (bool),
  ``scalar`` (one float64), ``counter`` (one int64), ``word`` (uint64 scratch).
* An interval bounds the values: checked for ``int``, ``scalar`` and ``counter``, whose reading is
  cheap or whose violation is dangerous; for ``float`` it is the domain that tests sample from.
* ``A | B`` gives alternatives; the first whose ranks and kinds fit is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import numpy as np

Kind = Literal["float", "int", "mask", "scalar", "counter", "word"]
Dims = dict[str, Any]

FLOAT_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype("float32"), np.dtype("float64"))
"""Floating dtypes that operators accept: the one list in the project."""

KIND_DTYPES: Mapping[Kind, np.dtype[Any]] = {
    "int": np.dtype("int64"),
    "mask": np.dtype("bool"),
    "scalar": np.dtype("float64"),
    "counter": np.dtype("int64"),
    "word": np.dtype("uint64"),
}


class Mismatch(Exception):
    """Shapes do not fit a signature; ``index`` is the argument at fault."""

    def __init__(self, index: int, expected: str) -> None:
        super().__init__(expected)
        self.index = index
        self.expected = expected


class Interval(NamedTuple):
    """An interval of numbers; a bound may be the label of a dimension."""

    low: str
    high: str
    low_closed: bool
    high_closed: bool

    def __str__(self) -> str:
        first, last = "[" if self.low_closed else "(", "]" if self.high_closed else ")"
        return f"{first}{self.low},{self.high}{last}"

    def bounds(self, dims: Mapping[str, Any]) -> tuple[float, float]:
        """Numeric bounds, with labels replaced by their sizes."""
        return _number(self.low, dims), _number(self.high, dims)

    def contains(self, low: float, high: float, dims: Mapping[str, Any]) -> bool:
        """Whether every value from ``low`` to ``high`` lies inside (NaN never does)."""
        first, last = self.bounds(dims)
        above = low >= first if self.low_closed else low > first
        below = high <= last if self.high_closed else high < last
        return above and below


def _number(text: str, dims: Mapping[str, Any]) -> float:
    if text in dims:
        return float(dims[text])
    return float(text)


class Argument(NamedTuple):
    """One input, output or scratch array of a signature."""

    name: str
    dims: tuple[str, ...]
    kind: Kind
    interval: Interval | None

    def __str__(self) -> str:
        kind = "" if self.kind == "float" else self.kind
        return f"({','.join(self.dims)}){kind}{self.interval or ''}"

    @property
    def variadic(self) -> bool:
        """Whether leading dimensions are free (``...``)."""
        return bool(self.dims) and self.dims[0] == "..."

    def accepts_rank(self, rank: int) -> bool:
        """Whether an array of ``rank`` dimensions can fit."""
        return rank >= len(self.dims) - 1 if self.variadic else rank == len(self.dims)

    def dtype(self, floating: np.dtype[Any]) -> np.dtype[Any]:
        """dtype of the argument when the operator computes in ``floating``."""
        return floating if self.kind == "float" else KIND_DTYPES[self.kind]


class Signature(NamedTuple):
    """Inputs and outputs of an operator."""

    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]

    @property
    def arrays(self) -> tuple[Argument, ...]:
        """Inputs that are more than one number, then all outputs."""
        return (*(a for a in self.inputs if a.kind not in ("scalar", "counter")), *self.outputs)

    @property
    def rowwise(self) -> bool:
        """Whether every element, or row of the last dimension, is computed on its own."""
        return all(a.variadic for a in self.arrays)

    @property
    def elementwise(self) -> bool:
        """Whether every element is computed on its own."""
        return all(a.dims == ("...",) for a in self.arrays)

    def solve(self, shapes: Sequence[tuple[int, ...]], params: Mapping[str, Any]) -> Dims:
        """Sizes of all labels, or :class:`Mismatch` naming the first argument that does not fit."""
        dims: Dims = {k: v for k, v in params.items() if type(v) is int}
        for index, (argument, shape) in enumerate(zip(self.inputs, shapes, strict=True)):
            if not argument.accepts_rank(len(shape)):
                raise Mismatch(index, f"shape {argument}")
            _unify(index, argument, shape, dims)
        return dims

    def shape(self, argument: Argument, dims: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of an output or scratch ``argument`` for solved ``dims``."""
        return shape_of(argument, dims)


def shape_of(argument: Argument, dims: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of ``argument`` for solved ``dims``."""
    shape: list[int] = []
    for label in argument.dims:
        if label == "...":
            shape.extend(dims["..."])
        else:
            shape.append(int(label) if label.isdigit() else int(dims[label.rstrip("+")]))
    return tuple(shape)


def _unify(index: int, argument: Argument, shape: tuple[int, ...], dims: Dims) -> None:
    labels = argument.dims
    if argument.variadic:
        labels = labels[1:]
        free = shape[: len(shape) - len(labels)]
        if dims.setdefault("...", free) != free:
            raise Mismatch(index, f"leading dimensions {dims['...']}")
        shape = shape[len(free) :]
    for label, size in zip(labels, shape, strict=True):
        name = label.rstrip("+")
        want = int(name) if name.isdigit() else dims.setdefault(name, size)
        if want != size:
            raise Mismatch(index, f"{name} = {want} in shape {argument}")
        if label.endswith("+") and size < 1:
            raise Mismatch(index, f"at least one element along {name} in shape {argument}")


_ARGUMENT = re.compile(
    r"\s*(?P<name>[a-z_]\w*)?\((?P<dims>[^()]*)\)(?P<kind>[a-z]*)"
    r"(?P<interval>[\[(][^,()\[\]]+,[^,()\[\]]+[\])])?\s*"
)


_DIMENSION = re.compile(r"\.\.\.|[0-9]+|[A-Za-z_]\w*\+?")


@cache
def parse_arguments(text: str) -> tuple[Argument, ...]:
    """Parse ``"(b,k),(k)int[0,b)"``; the empty text is no argument at all."""
    arguments: list[Argument] = []
    position = 0
    while position < len(text):
        match = _ARGUMENT.match(text, position)
        if match is None:
            raise ValueError(f"signature {text!r}: cannot read an argument at column {position}")
        arguments.append(_argument(match))
        position = match.end()
        if position < len(text):
            if text[position] != "," or not text[position + 1 :].strip():
                raise ValueError(
                    f"signature {text!r}: expected ',' and an argument at column {position}"
                )
            position += 1
    return tuple(arguments)


def _argument(match: re.Match[str]) -> Argument:
    kind = match["kind"] or "float"
    if kind != "float" and kind not in KIND_DTYPES:
        raise ValueError(f"signature: unknown kind {kind!r}")
    dims = tuple(d.strip() for d in match["dims"].split(",")) if match["dims"].strip() else ()
    for dimension in dims:
        if _DIMENSION.fullmatch(dimension) is None:
            raise ValueError(f"signature: cannot read dimension {dimension!r}")
    interval = parse_interval(match["interval"]) if match["interval"] else None
    return Argument(match["name"] or "", dims, cast(Kind, kind), interval)


@cache
def parse_interval(text: str) -> Interval:
    """Parse ``"[0,1)"``; bounds are numbers, ``inf`` or labels."""
    low, high = text[1:-1].split(",")
    return Interval(low.strip(), high.strip(), text[0] == "[", text[-1] == "]")


@cache
def parse(text: str) -> tuple[Signature, ...]:
    """Parse a signature; each alternative separated by ``|`` becomes one :class:`Signature`."""
    alternatives = []
    for part in text.split("|"):
        left, arrow, right = part.partition("->")
        if not arrow:
            raise ValueError(f"signature {part!r}: '->' is missing")
        inputs, outputs = parse_arguments(left.strip()), parse_arguments(right.strip())
        if any("..." in a.dims[1:] for a in (*inputs, *outputs)):
            raise ValueError(f"signature {part!r}: '...' must come first")
        alternatives.append(Signature(inputs, outputs))
    return tuple(alternatives)


def size(shape: Sequence[int]) -> int:
    """Number of elements, without the wrap-around of ``numpy.prod``."""
    return math.prod(shape)
