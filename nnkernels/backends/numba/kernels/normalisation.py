"""Batch normalisation, whose columns are independent, and layer normalisation, whose rows are.

Columns are walked in panels: a panel's part of a row is contiguous, and a panel's rows stay in the
cache from one pass over them to the next. A sum over rows is made of sums of :data:`ROWS` rows,
which keeps its rounding error small; every column adds the same numbers in the same order whatever
panel it is in, so that its bits do not depend on how threads divide the columns.
"""

from __future__ import annotations

import numpy as np

from nnkernels.backends.numba.compiling.family import Family
from nnkernels.backends.numba.compiling.intrinsics import fma, inlined, wanted
from nnkernels.spec import Array

family = Family()

PANEL = 256
"""Columns walked together; with fewer, starting on a row costs more than its elements."""

ROWS = 32
"""Rows summed before their sum is added to the total."""


@inlined
def add_to(total: Array, block: Array) -> None:
    """``total += block``; ``block = 0``."""
    zero = block.dtype.type(0)
    for j in range(block.size):
        total[j] += block[j]
        block[j] = zero


@inlined
def copy(source: Array, target: Array) -> None:
    """``target[:] = source``; Numba's own assignment of a slice would allocate."""
    for j in range(source.size):
        target[j] = source[j]


@inlined
def sum_columns(x: Array, start: int, stop: int, block: Array, total: Array) -> None:
    """Sums of the columns ``[start, stop)``; ``block`` is scratch of as many elements."""
    zero = total.dtype.type(0)
    for j in range(total.size):
        total[j] = block[j] = zero
    for top in range(0, x.shape[0], ROWS):
        for i in range(top, min(top + ROWS, x.shape[0])):
            row = x[i, start:stop]
            for j in range(row.size):
                block[j] += row[j]
        add_to(total, block)


family.workspace("batch_norm", "block(n),centre(n),spread(n)")


@family.phase(over="n")
def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    y: Array,
    mean: Array,
    variance: Array,
    block: Array,
    centre: Array,
    spread: Array,
    eps: float,
    first: int,
) -> None:
    """``y = gamma (x - mean) / sqrt(variance + eps) + beta``.

    Three passes over a panel. The variance comes from the differences, so that nothing cancels.
    """
    kind = x.dtype.type
    rows, one, zero, small = kind(x.shape[0]), kind(1), kind(0), kind(eps)
    for start in range(0, gamma.size, PANEL):
        stop = min(start + PANEL, gamma.size)
        part, middle, wide = block[start:stop], centre[start:stop], spread[start:stop]
        sum_columns(x, first + start, first + stop, part, middle)
        for j in range(middle.size):
            middle[j] /= rows
            wide[j] = zero
        for top in range(0, x.shape[0], ROWS):
            for i in range(top, min(top + ROWS, x.shape[0])):
                row = x[i, first + start : first + stop]
                for j in range(row.size):
                    difference = row[j] - middle[j]
                    part[j] = fma(difference, difference, part[j])
            add_to(wide, part)
        for j in range(wide.size):
            wide[j] /= rows
        if wanted(mean):
            copy(middle, mean[start:stop])
        if wanted(variance):
            copy(wide, variance[start:stop])
        if wanted(y):
            scale, shift = gamma[start:stop], beta[start:stop]
            for j in range(wide.size):
                wide[j] = scale[j] * (one / np.sqrt(wide[j] + small))
            for i in range(x.shape[0]):
                row, target = x[i, first + start : first + stop], y[i, first + start : first + stop]
                for j in range(row.size):
                    target[j] = fma(row[j] - middle[j], wide[j], shift[j])


family.workspace("batch_norm_backward", "block(n),inverse(n),slope(n),level(n)")


@family.phase(over="n")
def batch_norm_backward(
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    grad_x: Array,
    grad_gamma: Array,
    grad_beta: Array,
    block: Array,
    inverse: Array,
    slope: Array,
    level: Array,
    eps: float,
    first: int,
) -> None:
    """``dx = gamma / sd (grad - mean(grad) - z mean(grad z))`` with ``z = (x - mean) / sd``.

    ``dgamma`` sums ``grad z``, ``dbeta`` sums ``grad``.
    """
    kind = x.dtype.type
    rows, one, zero, small = kind(x.shape[0]), kind(1), kind(0), kind(eps)
    for start in range(0, gamma.size, PANEL):
        stop = min(start + PANEL, gamma.size)
        part, middle, factor = block[start:stop], mean[start:stop], inverse[start:stop]
        products, sums = slope[start:stop], level[start:stop]
        sum_columns(grad, first + start, first + stop, part, sums)
        wide = variance[start:stop]
        for j in range(factor.size):
            factor[j] = one / np.sqrt(wide[j] + small)
            products[j] = zero
        for top in range(0, x.shape[0], ROWS):
            for i in range(top, min(top + ROWS, x.shape[0])):
                g, row = grad[i, first + start : first + stop], x[i, first + start : first + stop]
                for j in range(row.size):
                    part[j] = fma(g[j], (row[j] - middle[j]) * factor[j], part[j])
            add_to(products, part)
        if wanted(grad_gamma):
            copy(products, grad_gamma[start:stop])
        if wanted(grad_beta):
            copy(sums, grad_beta[start:stop])
        if wanted(grad_x):
            scale = gamma[start:stop]
            for j in range(factor.size):
                sums[j] /= rows
                products[j] = products[j] / rows * factor[j]
                factor[j] *= scale[j]
            for i in range(x.shape[0]):
                g, row = grad[i, first + start : first + stop], x[i, first + start : first + stop]
                target = grad_x[i, first + start : first + stop]
                for j in range(row.size):
                    slanted = fma(products[j], row[j] - middle[j], sums[j])
                    target[j] = factor[j] * (g[j] - slanted)


family.workspace("batch_norm_inference", "slope(n)")


@family.phase("batch_norm_inference", over="n", makes=())
def slopes(gamma: Array, running_var: Array, slope: Array, eps: float) -> None:
    """``gamma / sqrt(var + eps)``, once a column."""
    one, small = gamma.dtype.type(1), gamma.dtype.type(eps)
    for j in range(slope.size):
        slope[j] = gamma[j] * (one / np.sqrt(running_var[j] + small))


@family.phase(over="b")
def batch_norm_inference(
    x: Array, beta: Array, running_mean: Array, slope: Array, out: Array
) -> None:
    """``(x - mean) slope + beta``."""
    for i in range(x.shape[0]):
        row, target = x[i], out[i]
        for j in range(row.size):
            target[j] = fma(row[j] - running_mean[j], slope[j], beta[j])


@family.phase(over="n")
def update_running_statistics(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    variance: Array,
    rows: int,
    momentum: float,
) -> None:
    """``running = (1 - momentum) running + momentum batch``."""
    kind = mean.dtype.type
    keep, take = kind(1 - momentum), kind(momentum)
    for j in range(mean.size):
        running_mean[j] = fma(keep, running_mean[j], take * mean[j])
    if rows > 1:
        unbiased = kind(momentum * rows / (rows - 1))
        for j in range(mean.size):
            running_var[j] = fma(keep, running_var[j], unbiased * variance[j])


@family.phase(over="...")
def layer_norm(
    x: Array, gamma: Array, beta: Array, y: Array, mean: Array, variance: Array, eps: float
) -> None:
    """``y = gamma (x - mean) / sqrt(variance + eps) + beta``: three passes over a row."""
    kind = x.dtype.type
    columns, one, zero, small = kind(x.shape[1]), kind(1), kind(0), kind(eps)
    with_y, with_mean, with_variance = wanted(y), wanted(mean), wanted(variance)
    for i in range(x.shape[0]):
        row = x[i]
        total = zero
        for j in range(row.size):
            total += row[j]
        middle = total / columns
        total = zero
        for j in range(row.size):
            total += (row[j] - middle) * (row[j] - middle)
        wide = total / columns
        if with_mean:
            mean[i] = middle
        if with_variance:
            variance[i] = wide
        if with_y:
            target, inverse = y[i], one / np.sqrt(wide + small)
            for j in range(row.size):
                target[j] = fma((row[j] - middle) * inverse, gamma[j], beta[j])


family.workspace("layer_norm_backward", "block(c)")


@family.phase("layer_norm_backward", over="c")
def layer_norm_sums(
    grad: Array,
    x: Array,
    mean: Array,
    variance: Array,
    grad_gamma: Array,
    grad_beta: Array,
    block: Array,
    eps: float,
    first: int,
) -> None:
    """``dgamma`` sums ``grad z`` with ``z = (x - mean) / sd`` over the rows, ``dbeta`` ``grad``."""
    kind = x.dtype.type
    one, zero, small = kind(1), kind(0), kind(eps)
    for start in range(0, block.size, PANEL):
        stop = min(start + PANEL, block.size)
        part = block[start:stop]
        if wanted(grad_beta):
            sum_columns(grad, first + start, first + stop, part, grad_beta[start:stop])
        if wanted(grad_gamma):
            products = grad_gamma[start:stop]
            for j in range(part.size):
                products[j] = part[j] = zero
            for top in range(0, x.shape[0], ROWS):
                for i in range(top, min(top + ROWS, x.shape[0])):
                    g = grad[i, first + start : first + stop]
                    row = x[i, first + start : first + stop]
                    middle, factor = mean[i], one / np.sqrt(variance[i] + small)
                    for j in range(row.size):
                        part[j] = fma(g[j], (row[j] - middle) * factor, part[j])
                add_to(products, part)


@family.phase(over="...")
def layer_norm_backward(
    grad: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    grad_x: Array,
    eps: float,
) -> None:
    """``dx = (g - mean(g) - z mean(g z)) / sd`` with ``g = grad gamma``: two passes over a row."""
    kind = x.dtype.type
    columns, one, zero, small = kind(x.shape[1]), kind(1), kind(0), kind(eps)
    for i in range(x.shape[0]):
        row, g, target = x[i], grad[i], grad_x[i]
        middle, inverse = mean[i], one / np.sqrt(variance[i] + small)
        level = slope = zero
        for j in range(row.size):
            level += g[j] * gamma[j]
            slope += g[j] * gamma[j] * ((row[j] - middle) * inverse)
        level, slope = level / columns, slope / columns
        for j in range(row.size):
            slanted = fma((row[j] - middle) * inverse, slope, level)
            target[j] = inverse * fma(g[j], gamma[j], -slanted)
