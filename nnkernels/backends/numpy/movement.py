"""Moving and counting."""

from __future__ import annotations

import numpy as np

from nnkernels.backend import KernelTable
from nnkernels.spec import Array

kernels = KernelTable(blas=False)


@kernels.kernel
def gather_rows(x: Array, rows: Array, *, out: Array) -> None:
    """``mode="clip"`` writes straight to ``out`` (the indices were checked before).

    ``numpy.take`` would copy the whole of a strided ``x``; indexing copies the rows only.
    """
    if x.flags.c_contiguous:
        np.take(x, rows, 0, out, "clip")
    else:
        np.copyto(out, x[rows])


@kernels.kernel(workspace="(classes)int")
def one_hot(labels: Array, *, classes: int, dtype: str, out: Array, work: tuple[Array]) -> None:
    """Every label against every column number."""
    (columns,) = work
    columns.fill(1)
    columns[0] = 0
    np.add.accumulate(columns, out=columns)
    np.equal(labels[:, None], columns, out)


@kernels.kernel
def argmax(x: Array, *, out: Array) -> None:
    """One pass."""
    np.argmax(x, 1, out)


@kernels.kernel(workspace="(b)int,(b)int,(b)mask,(b)mask")
def count_correct(
    scores: Array,
    targets: Array,
    *,
    threshold: float,
    out: Array,
    work: tuple[Array, Array, Array, Array],
) -> None:
    """Predictions, then comparisons, into the scratch."""
    predicted, wanted, hits, positive = work
    if targets.ndim == 1:
        np.argmax(scores, 1, predicted)
        np.equal(predicted, targets, hits)
    elif scores.shape[1] == 1:
        np.greater(scores[:, 0], threshold, hits)
        np.greater(targets[:, 0], 0.5, positive)
        np.equal(hits, positive, hits)
    else:
        np.argmax(scores, 1, predicted)
        np.argmax(targets, 1, wanted)
        np.equal(predicted, wanted, hits)
    out[...] = np.count_nonzero(hits)
