"""The innermost loop of matrix products: a tile of ``out`` held in vector registers.

A tile of ``rows`` by ``vectors`` vectors is kept in registers while the loop runs over k: it loads
``vectors`` vectors of b, broadcasts one element of every row of a, and multiplies and adds. The
last vector is loaded and stored under a mask, so that any number of columns is right. The tiles
are emitted as LLVM vector instructions, of the width that the host has; nothing else of the
processor is assumed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

INT1, INT32, INT64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)

Operand = tuple[int, int, int]
OPERAND = types.containers.UniTuple(types.int64, 3)


@functools.cache
def vector_bits() -> int:
    """Width of the host's vector registers; 0 where this module has no tiles for it."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 512
    if features.get("avx2") and features.get("fma"):
        return 256
    return 128 if features.get("neon") else 0


@functools.cache
def has_pairs() -> bool:
    """Whether the host multiplies vectors of pairs of bfloat16 (AVX512_BF16)."""
    return vector_bits() == 512 and bool(llvm.get_host_cpu_features().get("avx512bf16"))


@functools.cache
def tile_rows() -> dict[int, int]:
    """Rows of a full tile by its vectors: as many as registers hold beside b and one of a."""
    if vector_bits() == 256:  # 16 registers
        return {2: 6, 1: 12}
    return {4: 6, 3: 8, 2: 12, 1: 16}  # 32 registers


@intrinsic
def lanes(typing_context, like):
    """Elements of a vector, for elements of the type of ``like``."""
    count = vector_bits() // like.bitwidth

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return INT64(count)

    return types.int64(like), generate


class _Emitter:
    """Emits one tile; the names of arguments are those of :func:`tile`."""

    def __init__(self, builder: Any, element: Any, rows: int, vectors: int) -> None:
        self.builder, self.rows, self.vectors = builder, rows, vectors
        self.bits = 32 if isinstance(element, ir.FloatType) else 64
        self.lanes = vector_bits() // self.bits
        self.element = element
        self.vector = ir.VectorType(element, self.lanes)
        self.mask_type = ir.VectorType(INT1, self.lanes)
        self.suffix = f"v{self.lanes}f{self.bits}"

    def splat(self, value: Any, kind: Any) -> Any:
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, INT32(0))
        order = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, order)

    def mask(self, columns: Any) -> Any:
        """Which lanes of the last vector exist."""
        kind = ir.VectorType(INT64, self.lanes)
        left = self.builder.sub(columns, INT64(self.lanes * (self.vectors - 1)))
        order = ir.Constant(kind, list(range(self.lanes)))
        return self.builder.icmp_signed(">", self.splat(left, kind), order)

    def place(self, address: Any, column: int) -> Any:
        offset = INT64(column * self.lanes * self.bits // 8)
        return self.builder.inttoptr(self.builder.add(address, offset), self.vector.as_pointer())

    def load(self, address: Any, column: int, mask: Any) -> Any:
        pointer = self.place(address, column)
        if column < self.vectors - 1:
            loaded = self.builder.load(pointer)
            loaded.align = self.bits // 8
            return loaded
        kind = ir.FunctionType(self.vector, [pointer.type, INT32, self.mask_type, self.vector])
        function = self._declared(kind, f"llvm.masked.load.{self.suffix}.p0")
        zeros = ir.Constant(self.vector, [0.0] * self.lanes)
        return self.builder.call(function, [pointer, INT32(self.bits // 8), mask, zeros])

    def store(self, value: Any, address: Any, column: int, mask: Any) -> None:
        pointer = self.place(address, column)
        if column < self.vectors - 1:
            self.builder.store(value, pointer).align = self.bits // 8
            return
        kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, INT32, self.mask_type])
        function = self._declared(kind, f"llvm.masked.store.{self.suffix}.p0")
        self.builder.call(function, [value, pointer, INT32(self.bits // 8), mask])

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return self.builder.call(self._declared(kind, f"llvm.fma.{self.suffix}"), [a, b, c])

    def broadcast(self, address: Any) -> Any:
        loaded = self.builder.load(self.builder.inttoptr(address, self.element.as_pointer()))
        loaded.align = self.bits // 8
        return self.splat(loaded, self.vector)

    def exchanged(self, rows: list[Any]) -> list[Any]:
        """The columns of a square of vectors."""
        kind = ir.VectorType(INT32, self.lanes)
        bit = 1
        while bit < self.lanes:
            low = [i if not i & bit else self.lanes + i - bit for i in range(self.lanes)]
            high = [i + bit if not i & bit else self.lanes + i for i in range(self.lanes)]
            for i in range(self.lanes):
                if not i & bit:
                    pair = rows[i], rows[i + bit]
                    rows[i], rows[i + bit] = (
                        self.builder.shuffle_vector(*pair, ir.Constant(kind, order))
                        for order in (low, high)
                    )
            bit *= 2
        return rows

    def _declared(self, kind: Any, name: str) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, kind, name)

    # --- the tile ------------------------------------------------------------------------------

    def products(self, k: Any, a: Sequence[Any], b: Sequence[Any], mask: Any) -> Any:
        """The loop over k; returns the accumulators by row and column."""
        build = self.builder
        before = build.basic_block
        loop, after = build.append_basic_block("k"), build.append_basic_block("tile")
        zeros = ir.Constant(self.vector, [0.0] * self.lanes)
        build.branch(loop)
        build.position_at_end(loop)
        count, at_a, at_b = (self._phi(INT64, start, before) for start in (INT64(0), a[0], b[0]))
        sums = [
            [self._phi(self.vector, zeros, before) for _ in range(self.vectors)]
            for _ in range(self.rows)
        ]
        columns = [self.load(at_b, j, mask) for j in range(self.vectors)]
        address, added = at_a, []
        for row in sums:
            element = self.broadcast(address)
            added.append([self.fma(element, c, s) for c, s in zip(columns, row, strict=True)])
            address = build.add(address, a[1])
        following = build.add(count, INT64(1))
        moved = [(count, following), (at_a, build.add(at_a, a[2])), (at_b, build.add(at_b, b[1]))]
        for row, new in zip(sums, added, strict=True):
            moved += zip(row, new, strict=True)
        for phi, value in moved:
            phi.add_incoming(value, loop)
        build.cbranch(build.icmp_signed("<", following, k), loop, after)
        build.position_at_end(after)
        return added

    def _phi(self, kind: Any, start: Any, block: Any) -> Any:
        phi = self.builder.phi(kind)
        phi.add_incoming(start, block)
        return phi

    def finish(self, sums: Any, out: Sequence[Any], addend: Sequence[Any], mask: Any) -> None:
        """Store the tile, with what lies at ``addend`` added where that is not 0."""
        build = self.builder
        with build.if_else(build.icmp_signed("==", addend[0], INT64(0))) as (alone, added):
            with alone:
                self._store_rows(sums, out, mask)
            with added:
                address, totals = addend[0], []
                for row in sums:
                    there = [self.load(address, j, mask) for j in range(self.vectors)]
                    totals.append([build.fadd(s, t) for s, t in zip(row, there, strict=True)])
                    address = build.add(address, addend[1])
                self._store_rows(totals, out, mask)

    def _store_rows(self, rows: Any, out: Sequence[Any], mask: Any) -> None:
        address = out[0]
        for row in rows:
            for j, value in enumerate(row):
                self.store(value, address, j, mask)
            address = self.builder.add(address, out[1])


class _PairEmitter(_Emitter):
    """The same for operands whose float32 elements are pairs of bfloat16, neighbours along k."""

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        pairs = ir.VectorType(INT32, self.lanes)  # LLVM reads them as vectors of bfloat
        kind = ir.FunctionType(self.vector, [self.vector, pairs, pairs])
        function = self._declared(kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        a, b = (self.builder.bitcast(value, pairs) for value in (a, b))
        return self.builder.call(function, [c, a, b])


@functools.cache
def tile(rows: int, vectors: int, *, pairs: bool = False) -> Any:
    """The tile of ``rows`` by ``vectors``, to be called in compiled code.

    ``tile(k, a, b, out, addend, columns, like)`` computes ``out = a b + addend`` for k >= 1. The
    operands are triples: address, bytes from row to row, bytes from column to column (which only a
    needs). An ``addend`` at address 0 is left out; one with 0 bytes from row to row is the same
    for all, a bias. ``columns`` says how many there are, ``like`` has the elements' type. With
    ``pairs`` the elements of a and b are pairs of bfloat16, and k counts these; only processors
    with :func:`has_pairs` compute that.
    """
    emitter_of = _PairEmitter if pairs else _Emitter

    @intrinsic
    def emit(typing_context, k, a, b, out, addend, columns, like):
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emitter = emitter_of(builder, context.get_value_type(like), rows, vectors)
            k, *operands, columns, _ = values
            a, b, out, addend = (cgutils.unpack_tuple(builder, o, 3) for o in operands)
            mask = emitter.mask(columns)
            emitter.finish(emitter.products(k, a, b, mask), out, addend, mask)
            return context.get_dummy_value()

        return types.void(types.int64, *[OPERAND] * 4, types.int64, like), generate

    return emit


@njit(inline="always")
def below(operand: Operand, rows: int) -> Operand:
    """The operand from another row on."""
    return operand[0] + rows * operand[1], operand[1], operand[2]


@functools.cache
def cover(vectors: int, *, pairs: bool = False) -> Any:
    """A compiled loop that covers any number of rows with tiles of ``vectors`` vectors."""
    height = tile_rows()[vectors]
    full, four, two, one = (tile(rows, vectors, pairs=pairs) for rows in (height, 4, 2, 1))

    @njit
    def loop(rows, k, a, b, out, addend, columns, like):
        i = 0
        while i + height <= rows:
            full(k, below(a, i), b, below(out, i), below(addend, i), columns, like)
            i += height
        while i + 4 <= rows:
            four(k, below(a, i), b, below(out, i), below(addend, i), columns, like)
            i += 4
        while i + 2 <= rows:
            two(k, below(a, i), b, below(out, i), below(addend, i), columns, like)
            i += 2
        while i < rows:
            one(k, below(a, i), b, below(out, i), below(addend, i), columns, like)
            i += 1

    return loop


@intrinsic
def transpose_square(typing_context, a, a_row, out, out_row, like):
    """Write a square of as many rows and columns as a vector has elements, transposed.

    ``a`` and ``out`` are addresses, the steps from row to row are in bytes. In round r, rows that
    differ in bit r of their number exchange the elements whose columns differ in it.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, a_row, out, out_row, _ = values
        emitter = _Emitter(builder, context.get_value_type(like), 1, 2)
        rows = []
        for _ in range(emitter.lanes):
            rows.append(emitter.load(a, 0, None))
            a = builder.add(a, a_row)
        for row in emitter.exchanged(rows):
            emitter.store(row, out, 0, None)
            out = builder.add(out, out_row)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, like), generate
