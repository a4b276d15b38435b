"""Moving and counting: rows of a batch, labels, hits."""

from __future__ import annotations

import numpy as np

from nnkernels.spec import Array, Error, op

__all__ = ["argmax", "count_correct", "gather_rows", "one_hot"]


@op("(n,d),(b)int[0,n)->(b,d) | (n)int,(b)int[0,n)->(b)int", error=Error(0))
def gather_rows(x: Array, rows: Array, *, out: Array | None = None) -> Array:
    """Copy the rows ``x[rows]`` (a shuffled batch).

    Shapes: ``x`` (n, d) floating or (n) int64; ``rows`` (b) of indices in [0, n), repeats allowed;
    result (b, d) or (b).
    """
    taken: Array = x[rows]
    return taken


@op("(b)int[0,classes)->(b,classes)", error=Error(0), limits={"classes": "[1,inf)"})
def one_hot(
    labels: Array, *, classes: int, dtype: str = "float32", out: Array | None = None
) -> Array:
    """One row a label, 1 in the label's column and 0 elsewhere.

    Shapes: ``labels`` (b) in [0, classes); result (b, classes) of ``dtype``.
    """
    rows: Array = np.eye(classes, dtype=dtype)[labels]
    return rows


@op("(b,c+)->(b)int[0,c)", error=Error(0))
def argmax(x: Array, *, out: Array | None = None) -> Array:
    """Column of the largest value of every row; the first one of equals, or of NaNs.

    Shapes: ``x`` (b, c) with c >= 1; result (b) int64.
    """
    columns: Array = x.argmax(1)
    return columns


@op(
    "(b,c+),(b)int[0,c)->()int | (b,c+),(b,c+)->()int",
    error=Error(0),
    limits={"threshold": "(-inf,inf)"},
)
def count_correct(
    scores: Array, targets: Array, *, threshold: float = 0.5, out: Array | None = None
) -> Array:
    """Number of rows whose prediction agrees with the target.

    Shapes: ``scores`` (b, c); ``targets`` class labels (b), or rows (b, c) whose largest entry
    marks the class; result () int64. With a single column (binary classification) a score, or a
    target, above ``threshold`` or 0.5 stands for class 1.
    """
    if targets.ndim == 1:
        return np.asarray((scores.argmax(1) == targets).sum())
    if scores.shape[1] == 1:
        return np.asarray(((scores > threshold) == (targets > 0.5)).sum())
    return np.asarray((scores.argmax(1) == targets.argmax(1)).sum())
