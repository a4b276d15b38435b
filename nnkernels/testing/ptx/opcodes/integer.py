"""Integer and bitwise instructions."""

from __future__ import annotations

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, Array, is_float, unsigned
from nnkernels.testing.ptx.parsing import Immediate, Instruction
from nnkernels.testing.ptx.registry import (
    Function,
    Request,
    Signature,
    alike,
    elementwise,
    unknown,
)

ONES = {bits: np.uint64((1 << bits) - 1) for bits in (16, 32, 64)}


def width(name: str) -> int:
    """Bits of a PTX type."""
    return 8 * DTYPES[name].itemsize


# --- sums and products -------------------------------------------------------------------------


def high_product(a: Array, b: Array, out: Array) -> None:
    """The upper half of the product."""
    if a.dtype.itemsize < 8:
        wide = np.dtype(f"{a.dtype.kind}8")
        product = a.astype(wide) * b.astype(wide)
        np.copyto(out, product >> (8 * a.dtype.itemsize), casting="unsafe")
        return
    np.copyto(out, _high_product_64(a, b).view(out.dtype))


def _high_product_64(a: Array, b: Array) -> Array:
    x, y = a.view(np.uint64), b.view(np.uint64)
    low = np.uint64(0xFFFF_FFFF)
    half = np.uint64(32)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + ((x0 * y0) >> half)
    other = x0 * y1 + (middle & low)
    high = x1 * y1 + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, 0) - np.where(b < 0, x, 0)
    return np.asarray(high, np.uint64)


def wide_product(a: Array, b: Array, out: Array) -> None:
    """The product in twice the width."""
    np.multiply(a, b, out, dtype=out.dtype)


def product_signature(instruction: Instruction) -> Signature:
    """``.wide`` products (and what is added to them) are twice as wide as the factors."""
    kind, count = instruction.type, 3 if instruction.opcode == "mad" else 2
    if "wide" not in instruction.modifiers:
        return Signature(kind, (kind,) * count)
    wide = f"{kind[0]}{2 * width(kind)}"
    return Signature(wide, (kind, kind, wide)[:count])


def product(modifiers: tuple[str, ...]) -> Function:
    """The product that an opcode's modifiers ask for."""
    if "wide" in modifiers:
        return wide_product
    return high_product if "hi" in modifiers else np.multiply


def multiply_add(request: Request) -> Function:
    """``a * b + c`` of integers."""
    multiply = product(request.modifiers)

    def function(a: Array, b: Array, c: Array, out: Array) -> None:
        factor = np.empty_like(out)
        multiply(a, b, factor)
        np.add(factor, c, out)

    return function


def low_24(x: Array) -> Array:
    """The low 24 bits, sign-extended if signed."""
    return (x << 8) >> 8


@elementwise("mul24", "lo", alike(2))
def mul24(request: Request) -> Function:
    """The low half of a product of 24-bit numbers."""
    return lambda a, b, out: np.multiply(low_24(a), low_24(b), out)


@elementwise("mad24", "lo", alike(3))
def mad24(request: Request) -> Function:
    """The low half of a product of 24-bit numbers plus a third."""
    return lambda a, b, c, out: np.add(low_24(a) * low_24(b), c, out)


def sad_signature(instruction: Instruction) -> Signature:
    """The third source is unsigned."""
    kind = instruction.type
    return Signature(kind, (kind, kind, f"u{width(kind)}"))


@elementwise("sad", "", sad_signature)
def sad(request: Request) -> Function:
    """``|a - b| + c``."""

    def function(a: Array, b: Array, c: Array, out: Array) -> None:
        difference = np.where(a < b, b - a, a - b).view(c.dtype)
        np.copyto(out, (difference + c).view(out.dtype))

    return function


# --- quotients ---------------------------------------------------------------------------------


def divide(a: Array, b: Array, out: Array) -> None:
    """The quotient rounded towards zero; all bits set where the divisor is zero."""
    quotient = (a - np.fmod(a, b)) // b if a.dtype.kind == "i" else a // b
    np.copyto(out, np.where(b == 0, ~np.zeros_like(b), quotient))


def remainder(a: Array, b: Array, out: Array) -> None:
    """The remainder with the sign of ``a``; ``a`` where the divisor is zero."""
    np.copyto(out, np.where(b == 0, a, np.fmod(a, b)))


@elementwise("rem", "", alike(2))
def rem(request: Request) -> Function:
    """The remainder of an integer quotient."""
    return remainder


# --- bits --------------------------------------------------------------------------------------


def bitwise(name: str, count: int, on_bits: Function, on_predicates: Function) -> None:
    """Register a bitwise opcode; sources of predicates may be negated."""

    @elementwise(name, "", alike(count))
    def build(request: Request) -> Function:
        operands = request.instruction.operands[1:]
        if request.type != "pred":
            return on_bits
        flips = [getattr(o, "negated", False) for o in operands]
        if not any(flips):
            return on_predicates

        def function(*arguments: Array) -> None:
            *values, out = arguments
            flipped = [~v if f else v for v, f in zip(values, flips, strict=True)]
            on_predicates(*flipped, out)

        return function


bitwise("and", 2, np.bitwise_and, np.logical_and)
bitwise("or", 2, np.bitwise_or, np.logical_or)
bitwise("xor", 2, np.bitwise_xor, np.logical_xor)
bitwise("not", 1, np.bitwise_not, np.logical_not)


@elementwise("cnot", "", alike(1))
def cnot(request: Request) -> Function:
    """1 where ``a`` is 0, else 0."""
    return lambda a, out: np.copyto(out, a == 0)


def shift_signature(instruction: Instruction) -> Signature:
    """The amount has 32 bits; with the signedness of a 32-bit value, so that NumPy need not widen.

    Left shifts are unsigned.
    """
    kind = instruction.type
    left = instruction.opcode == "shl"
    shifted = f"u{width(kind)}" if left else kind
    return Signature(shifted, (shifted, "s32" if shifted == "s32" else "u32"))


def _shift(shift: Function) -> Function:
    def function(a: Array, amount: Array, out: Array) -> None:
        if a.dtype.itemsize == 2:
            amount = np.minimum(amount, 16)
        shift(a, amount, out, dtype=out.dtype, casting="unsafe")

    return function


@elementwise("shl", "", shift_signature)
def shl(request: Request) -> Function:
    """Shift to the left; amounts beyond the width give 0."""
    return _shift(np.left_shift) if width(request.type) != 32 else np.left_shift


@elementwise("shr", "", shift_signature)
def shr(request: Request) -> Function:
    """Shift to the right, filled with the sign of signed values."""
    return _shift(np.right_shift) if width(request.type) != 32 else np.right_shift


def funnel_signature(instruction: Instruction) -> Signature:
    """All of 32 bits."""
    return Signature("u32", ("u32",) * 3)


@elementwise("shf", "l r wrap clamp", funnel_signature)
def shf(request: Request) -> Function:
    """32 bits out of the 64 of ``{b, a}`` shifted."""
    left, wrap = "l" in request.modifiers, "wrap" in request.modifiers

    def function(a: Array, b: Array, amount: Array, out: Array) -> None:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        by = (amount & np.uint32(31) if wrap else np.minimum(amount, 32)).astype(np.uint64)
        shifted = (both << by) >> np.uint64(32) if left else both >> by
        np.copyto(out, shifted, casting="unsafe")

    return function


def insert_signature(instruction: Instruction) -> Signature:
    """Two values, then position and length of 32 bits."""
    kind = f"u{width(instruction.type)}"
    return Signature(kind, (kind, kind, "u32", "u32"))


def _mask(length: Array) -> Array:
    """So many low bits set, as unsigned 64-bit numbers."""
    return np.where(length >= 64, ONES[64], (np.uint64(1) << length.astype(np.uint64)) - 1)


@elementwise("bfi", "", insert_signature)
def bfi(request: Request) -> Function:
    """Insert the low bits of ``a`` into ``b``."""
    bits = width(request.type)

    def function(a: Array, b: Array, position: Array, length: Array, out: Array) -> None:
        start = (position & np.uint32(255)).astype(np.uint64)
        mask = (_mask(length & np.uint32(255)) << start) & ONES[bits]
        inserted = (a.astype(np.uint64) << start) & mask
        np.copyto(out, (b.astype(np.uint64) & ~mask) | inserted, casting="unsafe")

    return function


def extract_signature(instruction: Instruction) -> Signature:
    """A value, then position and length of 32 bits."""
    kind = instruction.type
    return Signature(kind, (kind, "u32", "u32"))


@elementwise("bfe", "", extract_signature)
def bfe(request: Request) -> Function:
    """Extract bits; signed ones are extended with the sign of the field."""
    bits = width(request.type)

    def function(a: Array, position: Array, length: Array, out: Array) -> None:
        start = (position & np.uint32(255)).astype(np.int64)
        size = (length & np.uint32(255)).astype(np.int64)
        wide = a.astype(np.int64).view(np.uint64) if a.dtype.kind == "i" else a.astype(np.uint64)
        field = (wide >> np.minimum(start, 63).astype(np.uint64)) & _mask(size)
        if a.dtype.kind == "u":
            field = np.where(start >= bits, 0, field)
        else:
            top = np.clip(start + size - 1, 0, bits - 1).astype(np.uint64)
            negative = ((wide >> top) & np.uint64(1)) & (size > 0)
            kept = np.clip(np.minimum(size, bits - start), 0, 64)
            field = (field & _mask(kept)) | np.where(negative, ~_mask(kept), np.uint64(0))
        np.copyto(out, field.astype(unsigned(out.dtype)).view(out.dtype))

    return function


def count_signature(instruction: Instruction) -> Signature:
    """The result has 32 bits."""
    return Signature("u32", (instruction.type,))


@elementwise("popc", "", count_signature)
def popc(request: Request) -> Function:
    """How many bits are set."""
    return lambda a, out: np.copyto(out, np.bitwise_count(a), casting="unsafe")


def highest_bit(a: Array) -> Array:
    """Position of the highest set bit of unsigned numbers, -1 without one."""
    spread = a.astype(np.uint64)
    for by in (1, 2, 4, 8, 16, 32):
        spread = spread | (spread >> np.uint64(by))
    return np.bitwise_count(spread).astype(np.int32) - 1


@elementwise("clz", "", count_signature)
def clz(request: Request) -> Function:
    """How many zero bits lead."""
    top = width(request.type) - 1
    return lambda a, out: np.copyto(out, (top - highest_bit(a)).view(np.uint32))


@elementwise("bfind", "shiftamt", count_signature)
def bfind(request: Request) -> Function:
    """Position of the highest bit that is not a sign; ``.shiftamt``: how far it is from the top."""
    top = width(request.type) - 1
    amount = "shiftamt" in request.modifiers

    def function(a: Array, out: Array) -> None:
        value = np.where(a < 0, ~a, a).view(unsigned(a.dtype)) if a.dtype.kind == "i" else a
        found = highest_bit(value)
        position = np.where(found < 0, -1, top - found if amount else found)
        np.copyto(out, position.astype(np.int32).view(np.uint32))

    return function


@elementwise("brev", "", alike(1))
def brev(request: Request) -> Function:
    """The bits in reverse order."""

    def function(a: Array, out: Array) -> None:
        size = a.dtype.itemsize
        octets = np.ascontiguousarray(a).view(np.uint8).reshape(-1, size)
        flipped = np.packbits(np.unpackbits(octets, axis=1, bitorder="little"), axis=1)
        np.copyto(out, np.ascontiguousarray(flipped[:, ::-1]).view(a.dtype)[:, 0])

    return function


@elementwise("prmt", "", alike(3))
def prmt(request: Request) -> Function:
    """Pick 4 bytes out of the 8 of ``{b, a}``; a selector with its high bit repeats the sign."""

    def function(a: Array, b: Array, selector: Array, out: Array) -> None:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        total = np.zeros(np.broadcast(both, selector).shape, np.uint64)
        for position in range(4):
            pick = (selector >> np.uint32(4 * position)).astype(np.uint64)
            octet = (both >> ((pick & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
            sign = np.where(octet >> np.uint64(7), np.uint64(255), np.uint64(0))
            octet = np.where(pick & np.uint64(8), sign, octet)
            total |= octet << np.uint64(8 * position)
        np.copyto(out, total, casting="unsafe")

    return function


@elementwise("lop3", "", alike(4))
def lop3(request: Request) -> Function:
    """A bitwise function of three values, given by its table of 8 results."""
    table = request.instruction.operands[4]
    if not isinstance(table, Immediate):
        raise unknown(request.instruction, "the table must be a number")
    rows = [n for n in range(8) if int(table.text, 0) >> n & 1]

    def function(a: Array, b: Array, c: Array, table: Array, out: Array) -> None:
        total = np.zeros_like(out)
        for row in rows:
            x, y, z = (v if row >> n & 1 else ~v for v, n in ((a, 2), (b, 1), (c, 0)))
            total |= x & y & z
        np.copyto(out, total)

    return function


# --- with a carry ------------------------------------------------------------------------------


def _sum(carry: Array, a: Array, b: Array) -> tuple[Array, Array]:
    first = a + b
    total = first + carry
    return total, (first < a) | (total < first)


def _difference(carry: Array, a: Array, b: Array) -> tuple[Array, Array]:
    first = a - b
    total = first - carry
    return total, (a < b) | (first < carry)


def with_carry(instruction: Instruction) -> Function:
    """``f(carry, *sources)`` of unsigned numbers that gives value and carry of add, sub or mad.

    The carry after a subtraction is the borrow.
    """
    multiply = product(instruction.modifiers)

    def multiplied(carry: Array, a: Array, b: Array, c: Array) -> tuple[Array, Array]:
        factor = np.empty(np.broadcast(a, b).shape, a.dtype)
        multiply(a, b, factor)
        return _sum(carry, factor, c)

    forms: dict[str, Function] = {"add": _sum, "sub": _difference, "mad": multiplied}
    return forms[instruction.opcode[:3]]


def integer_abs(a: Array, out: Array) -> None:
    """The absolute value; the most negative number stays."""
    np.abs(a, out)


INTEGER: dict[str, Function] = {
    "add": np.add,
    "sub": np.subtract,
    "div": divide,
    "neg": np.negative,
    "abs": integer_abs,
    "min": lambda a, b, out: np.minimum(a, b, out=out),
    "max": lambda a, b, out: np.maximum(a, b, out=out),
}
"""Integer forms of opcodes that have floating-point forms too."""


def integer_form(request: Request) -> Function:
    """The integer function of an opcode that has a floating-point form too."""
    instruction = request.instruction
    name = instruction.opcode
    if is_float(request.type):
        raise unknown(instruction)
    plain = {"mul": {"lo", "hi", "wide"}, "mad": {"lo", "hi", "wide"}}.get(name, set())
    for modifier in instruction.modifiers:
        if modifier not in DTYPES and modifier not in plain:
            raise unknown(instruction, f"modifier .{modifier} is not supported for integers")
    if name == "mul":
        return product(instruction.modifiers)
    return multiply_add(request) if name == "mad" else INTEGER[name]
