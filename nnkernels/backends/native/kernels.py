"""The library's kernels and loops, as the parts that all compiled backends share want them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nnkernels.backend import KernelTable, Precision
from nnkernels.backends._blas import gemm_address, has_gemm
from nnkernels.backends._compiled import products
from nnkernels.backends._compiled.declare import Family
from nnkernels.backends._compiled.entry import Entry
from nnkernels.backends._compiled.epochs.engine import Engine
from nnkernels.backends._compiled.products import Multiplier, ProductCode
from nnkernels.backends.native import choice
from nnkernels.backends.native.library import Library, NativeCode

WORKSPACES = {
    "mse": "losses(b)scalar",
    "mae": "losses(b)scalar",
    "sum_squared_error": "losses(b)scalar",
    "huber": "losses(b)scalar",
    "binary_cross_entropy": "losses(b)scalar",
    "binary_cross_entropy_with_logits": "losses(b)scalar",
    "categorical_cross_entropy": "losses(b)scalar",
    "nll_loss": "losses(b)scalar",
    "softmax_cross_entropy": "losses(b)scalar",
    "count_correct": "hits(b)mask",
    "batch_norm": "block(n),centre(n),spread(n)",
    "batch_norm_backward": "block(n),inverse(n),slope(n),level(n)",
    "batch_norm_inference": "slope(n)",
    "layer_norm_backward": "block(c)",
    "l1_penalty": "partial(64)scalar",
    "l2_penalty": "partial(64)scalar",
    "clip_by_global_norm": "partial(64)scalar,factor(1)scalar",
}
"""Scratch of the operators, in the signature language, by the names that their kernels call it."""


def table_of(library: Library) -> KernelTable:
    """Every kernel of the library."""
    family = Family()
    parts: dict[str, NativeCode] = {}
    for op, code, over, makes, alternative in library.declarations():
        if op.startswith("_"):
            parts[op] = code
        else:
            family.add(op, code, over=over, makes=makes, alternative=alternative)
    for op, arrays in WORKSPACES.items():
        family.workspace(op, arrays)
    products.declare(family, _multiplier(library, parts), lambda: parts["_sums"], family)
    return family.kernels


def _multiplier(library: Library, parts: Mapping[str, NativeCode]) -> Multiplier:
    bits = library.vector_bits

    def choose(m: int, n: int, k: int, itemsize: int, precision: Precision) -> str:
        return choice.choose(bits, m, n, k, itemsize, has_gemm)

    codes = {
        "own": ProductCode(parts["_own"], "rows", 96 << 10),
        "packed": ProductCode(parts["_packed"], "strided", 4 << 20),
        "blas": ProductCode(parts["_blas"], "blas", 8 << 20),
    }
    return Multiplier(choose, codes, parts["_transpose"], gemm_address)


def engine_of(library: Library) -> Engine:
    """The library's loops over tables."""
    return Engine(
        walk=library.loop("nnk_walk", 7),
        walk_timed=library.loop("nnk_walk_timed", 3),
        lead=library.loop("nnk_lead", 8),
        serve=library.loop("nnk_serve", 1),
        reserve=library.loop("nnk_reserve", 1),
        dismiss=library.loop("nnk_dismiss", 1),
        load=_ready,
        uses_blas=_uses_blas,
    )


def _ready(entries: Iterable[Entry]) -> None:
    """The library's code is there once it is opened."""


def _uses_blas(entry: Entry) -> bool:
    return entry.name.startswith("_blas|")
