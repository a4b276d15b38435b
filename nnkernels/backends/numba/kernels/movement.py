"""Moving and counting: rows of a batch, labels, hits."""

from __future__ import annotations

import numpy as np

from nnkernels.backends.numba.compiling.family import Family
from nnkernels.backends.numba.compiling.intrinsics import inlined
from nnkernels.spec import Array

family = Family()


BLOCK = 64
"""Elements of a row that are compared at once before any is looked at."""


@inlined
def largest(row: Array) -> int:
    """Position of the first of the largest elements, or of the first NaN.

    One comparison an element: that it is not below or equal holds for a larger one and for NaN. A
    block is first compared as a whole, in packed instructions; most hold nothing larger.
    """
    best, place = row.dtype.type(-np.inf), 0
    for start in range(0, row.size, BLOCK):
        block, larger = row[start : start + BLOCK], 0
        if row.size > BLOCK:
            for j in range(block.size):
                larger += not block[j] <= best
        if larger > 0 or row.size <= BLOCK:
            for j in range(block.size):
                if not block[j] <= best:
                    best, place = block[j], start + j
                    if best != best:
                        return place
    return place


@family.phase(over="b", alternative=0)
def gather_rows(x: Array, rows: Array, out: Array) -> None:
    """``out[i] = x[rows[i]]``."""
    for i in range(rows.size):
        row, target = x[rows[i]], out[i]
        for j in range(row.size):
            target[j] = row[j]


@family.phase("gather_rows", over="b", alternative=1)
def gather_numbers(x: Array, rows: Array, out: Array) -> None:
    """``out[i] = x[rows[i]]``."""
    for i in range(rows.size):
        out[i] = x[rows[i]]


@family.phase(over="b")
def one_hot(labels: Array, out: Array) -> None:
    """``out[i, labels[i]] = 1``, all others 0."""
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for i in range(labels.size):
        row = out[i]
        for j in range(row.size):
            row[j] = zero
        row[labels[i]] = one


@family.phase(over="b")
def argmax(x: Array, out: Array) -> None:
    """Column of the largest element of every row."""
    for i in range(out.size):
        out[i] = largest(x[i])


family.workspace("count_correct", "hits(b)mask")


@family.phase("count_correct", over="b", alternative=0)
def hits_of_labels(scores: Array, targets: Array, hits: Array) -> None:
    """Whether the class with the largest score is the label."""
    for i in range(hits.size):
        hits[i] = largest(scores[i]) == targets[i]


@family.phase("count_correct", over="b", alternative=1)
def hits_of_rows(scores: Array, targets: Array, hits: Array, threshold: float) -> None:
    """Whether both rows are largest in the same column; of one column, both above a threshold."""
    if scores.shape[1] == 1:
        for i in range(hits.size):
            hits[i] = (scores[i, 0] > threshold) == (targets[i, 0] > 0.5)
    else:
        for i in range(hits.size):
            hits[i] = largest(scores[i]) == largest(targets[i])


@family.phase(makes=())
def count_correct(hits: Array, out: Array) -> None:
    """How many rows are hits."""
    total = 0
    for i in range(hits.size):
        total += hits[i]
    out[0] = total
