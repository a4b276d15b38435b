"""Dropout in blocks that stay in the cache, and penalties."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.catalog import philox
from nnkernels.catalog.regularisation import drop_threshold, first_element
from nnkernels.spec import Array

kernels = KernelTable(blas=False)

BLOCKS = 8192
"""Philox blocks made at once: enough to hide the calls, few enough for the second-level cache."""


@kernels.kernel(workspace=f"(4,{BLOCKS})word,(2,{BLOCKS})word,({BLOCKS},4)mask,(...)mask")
def dropout(
    x: Array,
    seed: Array,
    step: Array,
    *,
    p: float,
    layer: int,
    first_row: int,
    out: tuple[Array | None, Array | None],
    work: tuple[Array, Array, Array, Array],
) -> None:
    """The mask in blocks, then two passes."""
    y, mask = out
    *scratch, spare = work
    kept = spare if mask is None else mask
    start = first_element(x.shape, first_row)
    _fill_mask(kept, start, drop_threshold(p), (layer, step.item(), seed.item()), scratch)
    if y is not None:
        dropout_backward(x, kept, p=p, out=y)


def _fill_mask(
    mask: Array, start: int, threshold: int, stream: tuple[int, int, int], scratch: list[Array]
) -> None:
    """Whether the words from ``start`` on reach ``threshold``."""
    block, lane = divmod(start, 4)
    target = mask.reshape(-1) if mask.flags.c_contiguous else mask.flat
    done = 0
    while done < mask.size:
        count = min(4 * BLOCKS - lane, mask.size - done)
        target[done : done + count] = _kept(block, lane, count, threshold, stream, scratch)
        block, lane, done = block + BLOCKS, 0, done + count


def _kept(
    block: int,
    lane: int,
    count: int,
    threshold: int,
    stream: tuple[int, int, int],
    scratch: list[Array],
) -> Array:
    blocks = -(-(lane + count) // 4)
    state, product, kept = scratch[0][:, :blocks], scratch[1][:, :blocks], scratch[2][:blocks]
    philox.fill(state, product, block, *stream)
    np.greater_equal(state, threshold, kept.T)
    return kept.reshape(-1)[lane : lane + count]


@kernels.kernel
def dropout_backward(grad: Array, mask: Array, *, p: float, out: Array) -> None:
    """Two passes: the mask, then the scale."""
    np.multiply(grad, mask, out)
    if p > 0:
        np.multiply(out, 1 / (1 - p), out)


@kernels.kernel(workspace="(...)")
def l1_penalty(w: Array, *, strength: float, out: Array, work: tuple[Array]) -> None:
    """Pairwise sum."""
    (size,) = work
    np.absolute(w, size)
    out[...] = strength * np.add.reduce(size, None)


@kernels.kernel
def l1_penalty_backward(grad: Array, w: Array, *, strength: float, out: Array) -> None:
    """Two passes."""
    np.sign(w, out)
    np.multiply(out, grad.item() * strength, out)


@kernels.kernel(workspace="(...)")
def l2_penalty(w: Array, *, strength: float, out: Array, work: tuple[Array]) -> None:
    """Pairwise sum."""
    (square,) = work
    np.multiply(w, w, square)
    out[...] = strength * np.add.reduce(square, None)


@kernels.kernel
def l2_penalty_backward(grad: Array, w: Array, *, strength: float, out: Array) -> None:
    """One pass."""
    np.multiply(w, 2 * grad.item() * strength, out)
