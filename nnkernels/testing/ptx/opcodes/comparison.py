"""Comparisons and selections."""

from __future__ import annotations

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, Array, is_float
from nnkernels.testing.ptx.parsing import Instruction, Register
from nnkernels.testing.ptx.registry import (
    Function,
    Request,
    Signature,
    elementwise,
    unknown,
)
from nnkernels.testing.ptx.rounding import flushed

ORDERED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
UNSIGNED_ONLY = ("lo", "ls", "hi", "hs")
COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
COMPARISONS = [*ORDERED, *(f"{n}u" for n in ("eq", "ne", "lt", "le", "gt", "ge")), "num", "nan"]


def unordered(a: Array, b: Array) -> Array:
    """Where one of the values is NaN."""
    result: Array = np.isnan(a) | np.isnan(b)
    return result


def _comparison(request: Request) -> Function:
    """``f(a, b, out)`` of the comparison in the opcode."""
    name = next(m for m in request.modifiers if m in COMPARISONS)
    if name in ("num", "nan"):
        return lambda a, b, out: np.equal(unordered(a, b), name == "nan", out)
    if not is_float(request.type):
        return ORDERED[name]
    if name == "ne":
        return lambda a, b, out: np.logical_and(a != b, ~unordered(a, b), out)
    compare = ORDERED[name.removesuffix("u")]
    if name == "neu" or not name.endswith("u"):
        return compare
    return lambda a, b, out: np.logical_or(compare(a, b), unordered(a, b), out)


def _flushing(request: Request, compare: Function) -> Function:
    """The comparison of flushed values, where the opcode asks for it."""
    if not request.ftz or request.type != "f32" or all(request.clean[:2]):
        return compare
    return lambda a, b, out: compare(flushed(a), flushed(b), out)


def compared_type(instruction: Instruction) -> str:
    """Type of the values; order comparisons named ``lo`` to ``hs`` are unsigned."""
    kind = instruction.type
    if any(m in UNSIGNED_ONLY for m in instruction.modifiers):
        return f"u{8 * DTYPES[kind].itemsize}"
    return kind


def setp_signature(instruction: Instruction) -> Signature:
    """Two values, and a predicate if the result is combined with one."""
    kind = compared_type(instruction)
    combined = any(m in COMBINATIONS for m in instruction.modifiers)
    return Signature("pred", (kind, kind, "pred") if combined else (kind, kind))


@elementwise("setp", " ".join(["ftz", *COMBINATIONS, *COMPARISONS]), setp_signature)
def setp(request: Request) -> Function:
    """A comparison, combined with a predicate if there is a third source."""
    compare = _flushing(request, _comparison(request))
    combination = next((COMBINATIONS[m] for m in request.modifiers if m in COMBINATIONS), None)
    if combination is None:
        return compare
    other = request.instruction.operands[3]
    negated = isinstance(other, Register) and other.negated

    def function(a: Array, b: Array, c: Array, out: Array) -> None:
        result = np.empty(out.shape, np.bool_)
        compare(a, b, result)
        combination(result, ~c if negated else c, out)

    return function


def set_signature(instruction: Instruction) -> Signature:
    """The result has the first type of the opcode, the values the last."""
    kinds = [m for m in instruction.modifiers if m in DTYPES]
    return Signature(kinds[0], (kinds[-1],) * 2)


@elementwise("set", " ".join(["ftz", *COMPARISONS]), set_signature)
def set_(request: Request) -> Function:
    """A comparison as a number: 1.0 or 0.0, or all bits or none."""
    if len(request.instruction.operands) != 3:
        raise unknown(request.instruction, "combining with a predicate is not supported")
    compare = _flushing(request, _comparison(request))

    def function(a: Array, b: Array, out: Array) -> None:
        result = np.empty(out.shape, np.bool_)
        compare(a, b, result)
        np.copyto(
            out,
            result if out.dtype.kind == "f" else -result.astype(np.int8).astype(out.dtype),
            casting="unsafe",
        )

    return function


def selp_signature(instruction: Instruction) -> Signature:
    """Two values and a predicate."""
    return Signature(instruction.type, (instruction.type, instruction.type, "pred"))


@elementwise("selp", "", selp_signature)
def selp(request: Request) -> Function:
    """The first value where the predicate holds, else the second."""
    predicate = request.instruction.operands[3]
    if isinstance(predicate, Register) and predicate.negated:
        return lambda a, b, p, out: np.copyto(out, np.where(p, b, a))
    return lambda a, b, p, out: np.copyto(out, np.where(p, a, b))


def slct_signature(instruction: Instruction) -> Signature:
    """Two values of the first type, a sign of the last."""
    kinds = [m for m in instruction.modifiers if m in DTYPES]
    return Signature(kinds[0], (kinds[0], kinds[0], kinds[-1]))


@elementwise("slct", "ftz", slct_signature)
def slct(request: Request) -> Function:
    """The first value where the third is not negative, else the second."""
    ftz = request.ftz

    def function(a: Array, b: Array, sign: Array, out: Array) -> None:
        np.copyto(out, np.where((flushed(sign) if ftz else sign) >= 0, a, b))

    return function
