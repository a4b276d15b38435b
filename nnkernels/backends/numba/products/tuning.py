"""Measuring where BLAS overtakes our own product on this machine, for ``nnkernels tune``.

Right operands of growing size are multiplied by both, in turns, on one thread. Of a training step's
three products with a weight matrix one needs, if it is the unpacked one of ours, a transposed copy
of it; so a third of the copy's time counts for each. The limit is the size up to which our own
loses least against BLAS, over all sizes at once: a single disturbed measurement moves it little.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nnkernels.backends._blas import blas_threads, gemm_address
from nnkernels.backends._compiled.declare import Call, Step
from nnkernels.backends._compiled.products import Product
from nnkernels.backends.numba.compiling import linking
from nnkernels.backends.numba.kernels.linear import MULTIPLIER
from nnkernels.backends.numba.products import choice
from nnkernels.backends.numba.products.microkernel import vector_bits
from nnkernels.spec import get_op

MIB = 1 << 20

PRODUCTS_A_COPY = 3
"""Products that share one transposed copy."""


@dataclass(frozen=True)
class Ladder:
    """What is measured.

    Attributes:
        sizes: bytes of the right operands, rising.
        rows: of the left operands.
        aspects: columns of the right operands over their rows.
        repeats: samples of each product.
        sample_s: seconds of a sample, at least.
    """

    sizes: tuple[int, ...]
    rows: tuple[int, ...]
    aspects: tuple[int, ...]
    repeats: int
    sample_s: float


FULL = Ladder(
    tuple(MIB * n // 4 for n in (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)),
    (128, 512),
    (1, 4),
    5,
    0.004,
)
QUICK = Ladder(tuple(MIB * n // 4 for n in (1, 2, 4, 8, 16, 32, 64)), (128,), (1, 4), 3, 0.002)


class Rung(NamedTuple):
    """One size of right operand, all shapes together.

    Attributes:
        dtype: of the matrices.
        nbytes: of the largest right operand.
        shapes: (m, k, n) of the products.
        flop: of one product of each shape.
        own, blas: seconds of one product of each shape; own with its part of the copies.
    """

    dtype: str
    nbytes: int
    shapes: tuple[tuple[int, int, int], ...]
    flop: float
    own: float
    blas: float


def has_tiles() -> bool:
    """Whether there is a choice: without tiles of ours BLAS computes everything."""
    return bool(vector_bits())


def measure(
    dtype: str, ladder: Ladder, progress: Callable[[int], None] = lambda rungs: None
) -> list[Rung]:
    """Time both on every rung of the ladder; ``progress`` is told how many are done."""
    rungs = []
    gemm_address(dtype)  # loads the library that is to be held to one thread
    with blas_threads(1):
        for number, size in enumerate(ladder.sizes):
            progress(number)
            rungs.append(_rung(dtype, size, ladder))
    progress(len(ladder.sizes))
    return rungs


def limit(rungs: Sequence[Rung]) -> int:
    """Bytes of the largest right operand that our own product should get; 0 for none.

    Of all limits the one with the least product of times relative to those of BLAS. Beyond the
    largest size that was measured the default holds.
    """
    best, lost, total = 0, 0.0, 0.0
    for rung in sorted(rungs, key=lambda r: r.nbytes):
        total += math.log(rung.own / rung.blas)
        if total <= lost:
            best, lost = rung.nbytes, total
    largest = max((rung.nbytes for rung in rungs), default=0)
    return max(best, choice.OWN_BYTES) if 0 < best == largest else best


def _rung(dtype: str, size: int, ladder: Ladder) -> Rung:
    item = np.dtype(dtype).itemsize
    rights = [right_operand(size // item, aspect) for aspect in ladder.aspects]
    shapes = tuple((m, k, n) for k, n in rights for m in ladder.rows)
    own = blas = flop = 0.0
    for m, k, n in shapes:
        times = _both(Products(m, k, n, dtype), ladder)
        own += times["ours"] + times.get("copy", 0.0) / PRODUCTS_A_COPY
        blas += times["blas"]
        flop += 2.0 * m * n * k
    return Rung(dtype, max(k * n for k, n in rights) * item, shapes, flop, own, blas)


def right_operand(elements: int, aspect: int) -> tuple[int, int]:
    """Rows and columns, multiples of 16, of about so many elements."""
    k = max(round(math.sqrt(elements / aspect) / 16), 1) * 16
    return k, max(round(elements / k / 16), 1) * 16


def _both(products: Products, ladder: Ladder) -> dict[str, float]:
    """Medians of both and of the transposed copy, taking turns."""
    loops = {}
    for name in products.steps:
        products.run(name)  # warm
        loops[name] = max(1, math.ceil(ladder.sample_s / max(products.seconds(name, 1), 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in products.steps}
    for _ in range(ladder.repeats):
        for name, found in samples.items():
            found.append(products.seconds(name, loops[name]))
    return {name: statistics.median(found) for name, found in samples.items()}


class Products:
    """The product ``out = a b`` of an (m, k) and a (k, n) matrix.

    Attributes:
        arrays: the matrices, and ``turned``, the place of a transposed b.
        steps: ``ours`` and ``blas`` compute the product; ``copy`` transposes b, where ours is the
            one that needs it.
    """

    def __init__(self, m: int, k: int, n: int, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.arrays = {
            "a": rng.random((m, k), np.float32).astype(dtype),
            "b": rng.random((k, n), np.float32).astype(dtype),
            "turned": np.zeros((n, k), dtype),
            "out": np.zeros((m, n), dtype),
        }
        code = choice.ours(m, self.arrays["b"].nbytes)
        self.steps = {
            "ours": product_step(code, m, k, n, dtype),
            "blas": product_step("blas", m, k, n, dtype),
        }
        if code == "own":
            copy = MULTIPLIER.transposition({"rows": k, "columns": n}, dtype)
            self.steps["copy"] = copy.renamed({"a": "b", "out": "turned"})
        linking.load([step.entry for step in self.steps.values()])
        addresses = {name: array.ctypes.data for name, array in self.arrays.items()}
        self._records = {
            name: np.array(step.fill(addresses), np.int64) for name, step in self.steps.items()
        }

    def run(self, name: str, loops: int = 1) -> None:
        """Run a step so often."""
        step, address = self.steps[name], self._records[name].ctypes.data
        call, items = step.entry.call, step.items
        for _ in range(loops):
            call(address, 0, items)

    def seconds(self, name: str, loops: int) -> float:
        """Seconds of a step, as a mean of ``loops``."""
        began = time.perf_counter()
        self.run(name, loops)
        return (time.perf_counter() - began) / loops


def product_step(code: str, m: int, k: int, n: int, dtype: str) -> Step:
    """The step of ``out = a b``, whoever the rule would choose."""
    op = get_op("matmul")
    params = {"transpose_a": False, "transpose_b": False}
    sizes = {"m": m, "k": k, "n": n}
    names = frozenset({"a", "b", "out"})
    call = Call(op, op.signatures(params)[0], "", params, sizes, dtype, names)
    return Product(MULTIPLIER, "a", "b", "out", "m", "n", "k").step(call, code, "b")


def own_seconds(m: int, k: int, n: int, dtype: str, samples: int = 200) -> float:
    """The shortest of many times of our own product."""
    products = Products(m, k, n, dtype)
    return min(products.seconds("ours", 1) for _ in range(samples))
