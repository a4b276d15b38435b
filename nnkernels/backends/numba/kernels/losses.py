"""Losses and their gradients.

A loss is summed in two phases. The first leaves one float64 for every row, the second adds these
up in blocks of a fixed number of rows: whichever threads computed which rows, the bits of the
result are the same. Differences are squared and added in float64, so that long rows lose nothing.

A gradient is one pass, with all that is the same for every element in one factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.backends.numba.compiling.family import Family
from nnkernels.backends.numba.compiling.intrinsics import wanted
from nnkernels.backends.numba.kernels.activations import at_least, inlined, less_both, row_maximum
from nnkernels.backends.numba.kernels.mathematics import Scalar, exp, log, log1p, logistic
from nnkernels.catalog.losses import LOG_FLOOR, PROBABILITY_FLOOR
from nnkernels.spec import Array

family = Family()

BLOCK = 32
"""Rows whose losses are added up before they are added to those of other rows."""

MEAN = 0
"""Position of ``mean`` among the choices of ``reduction``."""


def row_losses(
    op: str, *, alternative: int | None = None, makes: str = "losses", work: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the phase of ``op`` that leaves every row's loss in scratch."""
    family.workspace(op, ",".join(["losses(b)scalar", *work.split()]))
    return family.phase(op, over="b", makes=tuple(makes.split()), alternative=alternative)


@inlined
def sum_in_blocks(values: Array) -> Scalar:
    """The sum of sums of ``BLOCK`` values each."""
    total = 0.0
    for start in range(0, values.size, BLOCK):
        subtotal = 0.0
        for i in range(start, min(start + BLOCK, values.size)):
            subtotal += values[i]
        total += subtotal
    return total


@inlined
def reduced(total: Scalar, reduction: int, count: int) -> Scalar:
    """A sum, divided by the number of its terms for the mean; so is its gradient."""
    return total / count if reduction == MEAN else total


# --- by elements: one row's loss ---------------------------------------------------------------


@row_losses("mse")
@row_losses("sum_squared_error")
def squared_distances(pred: Array, target: Array, losses: Array) -> None:
    """``sum((pred - target)²)`` of every row."""
    for r in range(pred.shape[0]):
        total = 0.0
        for i in range(pred.shape[1]):
            difference = np.float64(pred[r, i]) - np.float64(target[r, i])
            total += difference * difference
        losses[r] = total


@row_losses("mae")
def distances(pred: Array, target: Array, losses: Array) -> None:
    """``sum(|pred - target|)`` of every row."""
    for r in range(pred.shape[0]):
        total = 0.0
        for i in range(pred.shape[1]):
            total += abs(np.float64(pred[r, i]) - np.float64(target[r, i]))
        losses[r] = total


@row_losses("huber")
def huber_distances(pred: Array, target: Array, delta: float, losses: Array) -> None:
    """``m (|d| - m / 2)`` with ``m = min(|d|, delta)``, which is both branches."""
    for r in range(pred.shape[0]):
        total = 0.0
        for i in range(pred.shape[1]):
            size = abs(np.float64(pred[r, i]) - np.float64(target[r, i]))
            near = delta if size > delta else size
            total += near * (size - 0.5 * near)
        losses[r] = total


@inlined
def add_rows(terms: Array, first: int, last: int, losses: Array) -> None:
    """The sums of the rows from ``first`` to ``last``."""
    for r in range(first, last):
        total = 0.0
        for i in range(terms.shape[1]):
            total += np.float64(terms[r, i])
        losses[r] = total


@row_losses("binary_cross_entropy", work="terms(b,c)")
def binary_losses(pred: Array, target: Array, terms: Array, losses: Array) -> None:
    """``-t log(p) - (1 - t) log(1 - p)``, logarithms no lower than their floor.

    Terms are computed for all elements of some rows and then added by rows: logarithms come many
    at a time, also where a row is short, and then in the dtype's full number.
    """
    one, floor = pred.dtype.type(1), pred.dtype.type(LOG_FLOOR)
    for first in range(0, pred.shape[0], BLOCK):
        last = min(first + BLOCK, pred.shape[0])
        for i in range(first * pred.shape[1], last * pred.shape[1]):
            p, t = pred.flat[i], target.flat[i]
            yes, no = at_least(log(p), floor), at_least(log1p(-p), floor)
            terms.flat[i] = -(t * yes + (one - t) * no)
        add_rows(terms, first, last, losses)


@row_losses("binary_cross_entropy_with_logits", work="terms(b,c)")
def logits_losses(logits: Array, target: Array, terms: Array, losses: Array) -> None:
    """``x ((x > 0) - t) + log1p(exp(-|x|))``: no term is negative, so that none cancels another."""
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    for first in range(0, logits.shape[0], BLOCK):
        last = min(first + BLOCK, logits.shape[0])
        for i in range(first * logits.shape[1], last * logits.shape[1]):
            x = logits.flat[i]
            missed = x * ((one if x > zero else zero) - target.flat[i])
            terms.flat[i] = missed + log1p(exp(-abs(x)))
        add_rows(terms, first, last, losses)


@family.phase("mse")
@family.phase("mae")
@family.phase("huber")
@family.phase("binary_cross_entropy")
@family.phase("binary_cross_entropy_with_logits")
def over_elements(losses: Array, reduction: int, b_size: int, c_size: int, out: Array) -> None:
    """The rows' sums in one, divided by the number of elements for the mean."""
    out[0] = reduced(sum_in_blocks(losses), reduction, b_size * c_size)


@family.phase("sum_squared_error")
def over_batch(losses: Array, b_size: int, out: Array) -> None:
    """The rows' sums in one, divided by the number of rows."""
    out[0] = reduced(sum_in_blocks(losses), MEAN, b_size)


# --- by elements: gradients --------------------------------------------------------------------


@inlined
def scaled_difference(pred: Array, target: Array, scale: float, out: Array) -> None:
    """``scale (pred - target)``."""
    factor = pred.dtype.type(scale)
    for i in range(pred.size):
        out.flat[i] = factor * (pred.flat[i] - target.flat[i])


@family.phase(over="b")
def mse_backward(
    grad: Array, pred: Array, target: Array, reduction: int, b_size: int, c_size: int, out: Array
) -> None:
    """``2 grad (pred - target)``."""
    scaled_difference(pred, target, reduced(2.0 * grad[0], reduction, b_size * c_size), out)


@family.phase(over="b")
def sum_squared_error_backward(
    grad: Array, pred: Array, target: Array, b_size: int, out: Array
) -> None:
    """``2 grad (pred - target) / b``."""
    scaled_difference(pred, target, reduced(2.0 * grad[0], MEAN, b_size), out)


@family.phase(over="b")
def mae_backward(
    grad: Array, pred: Array, target: Array, reduction: int, b_size: int, c_size: int, out: Array
) -> None:
    """``grad sign(pred - target)``; a difference that is 0 or NaN is its own sign."""
    factor, zero = (
        pred.dtype.type(reduced(np.float64(grad[0]), reduction, b_size * c_size)),
        pred.dtype.type(0),
    )
    for i in range(pred.size):
        d = pred.flat[i] - target.flat[i]
        out.flat[i] = factor if d > zero else (-factor if d < zero else factor * d)


@family.phase(over="b")
def huber_backward(
    grad: Array,
    pred: Array,
    target: Array,
    delta: float,
    reduction: int,
    b_size: int,
    c_size: int,
    out: Array,
) -> None:
    """``grad`` times the difference, cut off at ±delta."""
    factor = pred.dtype.type(reduced(np.float64(grad[0]), reduction, b_size * c_size))
    high = pred.dtype.type(delta)
    for i in range(pred.size):
        d = pred.flat[i] - target.flat[i]
        out.flat[i] = factor * (high if d > high else (-high if d < -high else d))


@family.phase(over="b")
def binary_cross_entropy_backward(
    grad: Array, pred: Array, target: Array, reduction: int, b_size: int, c_size: int, out: Array
) -> None:
    """``grad (p - t) / max(p (1 - p), 1e-12)``."""
    factor = pred.dtype.type(reduced(np.float64(grad[0]), reduction, b_size * c_size))
    one, floor = pred.dtype.type(1), pred.dtype.type(PROBABILITY_FLOOR)
    for i in range(pred.size):
        p = pred.flat[i]
        out.flat[i] = factor * (p - target.flat[i]) / at_least(p * (one - p), floor)


@family.phase(over="b")
def binary_cross_entropy_with_logits_backward(
    grad: Array, logits: Array, target: Array, reduction: int, b_size: int, c_size: int, out: Array
) -> None:
    """``grad (s(x) - t)`` with the logistic function s."""
    factor = logits.dtype.type(reduced(np.float64(grad[0]), reduction, b_size * c_size))
    for i in range(logits.size):
        out.flat[i] = factor * (logistic(logits.flat[i]) - target.flat[i])


# --- by classes: one row's loss, for a label or for a row of probabilities ---------------------


@row_losses("categorical_cross_entropy", alternative=0, work="terms(b,c)")
def label_losses(probs: Array, target: Array, losses: Array) -> None:
    """``-log(p)`` at the label, no lower than its floor."""
    for r in range(probs.shape[0]):
        losses[r] = -at_least(np.float64(log(probs[r, target[r]])), LOG_FLOOR)


@row_losses("categorical_cross_entropy", alternative=1, work="terms(b,c)")
def expected_losses(probs: Array, target: Array, terms: Array, losses: Array) -> None:
    """``-sum(t log(p))``, logarithms no lower than their floor."""
    floor = probs.dtype.type(LOG_FLOOR)
    for first in range(0, probs.shape[0], BLOCK):
        last = min(first + BLOCK, probs.shape[0])
        for i in range(first * probs.shape[1], last * probs.shape[1]):
            terms.flat[i] = -target.flat[i] * at_least(log(probs.flat[i]), floor)
        add_rows(terms, first, last, losses)


@row_losses("nll_loss", alternative=0)
def label_values(log_probs: Array, target: Array, losses: Array) -> None:
    """Minus the value at the label."""
    for r in range(log_probs.shape[0]):
        losses[r] = -log_probs[r, target[r]]


@row_losses("nll_loss", alternative=1)
def expected_values(log_probs: Array, target: Array, losses: Array) -> None:
    """``-sum(t log_p)``."""
    for r in range(log_probs.shape[0]):
        total = 0.0
        for i in range(log_probs.shape[1]):
            total -= np.float64(target[r, i]) * np.float64(log_probs[r, i])
        losses[r] = total


@inlined
def softmax_row(logits: Array, r: int, probs: Array, keep: bool) -> tuple[Scalar, Scalar]:
    """The maximum of row ``r`` and the logarithm of its sum of exps; its softmax if ``keep``."""
    top, total = row_maximum(logits, r), logits.dtype.type(0)
    if keep:
        for i in range(logits.shape[1]):
            e = exp(logits[r, i] - top)
            total += e
            probs[r, i] = e
        scale = logits.dtype.type(1) / total
        for i in range(logits.shape[1]):
            probs[r, i] *= scale
    else:
        for i in range(logits.shape[1]):
            total += exp(logits[r, i] - top)
    return np.float64(top), np.float64(log(total))


@row_losses("softmax_cross_entropy", makes="probs losses", alternative=0)
def softmax_label_losses(logits: Array, target: Array, probs: Array, losses: Array) -> None:
    """``log(sum(exp(x - top))) - (x - top)`` at the label: neither term is negative."""
    keep = wanted(probs)
    for r in range(logits.shape[0]):
        top, excess = softmax_row(logits, r, probs, keep)
        losses[r] = -less_both(np.float64(logits[r, target[r]]), top, excess)


@row_losses("softmax_cross_entropy", makes="probs losses", alternative=1)
def softmax_expected_losses(logits: Array, target: Array, probs: Array, losses: Array) -> None:
    """The same, weighted by the row's targets."""
    keep = wanted(probs)
    for r in range(logits.shape[0]):
        top, excess = softmax_row(logits, r, probs, keep)
        total = 0.0
        for i in range(logits.shape[1]):
            total -= np.float64(target[r, i]) * less_both(np.float64(logits[r, i]), top, excess)
        losses[r] = total


@family.phase("categorical_cross_entropy")
@family.phase("nll_loss")
def over_rows(losses: Array, reduction: int, b_size: int, out: Array) -> None:
    """The rows' losses in one, divided by their number for the mean."""
    out[0] = reduced(sum_in_blocks(losses), reduction, b_size)


@family.phase("softmax_cross_entropy", makes=("loss",))
def loss_over_rows(losses: Array, reduction: int, b_size: int, loss: Array) -> None:
    """The rows' losses in one, divided by their number for the mean."""
    loss[0] = reduced(sum_in_blocks(losses), reduction, b_size)


# --- by classes: gradients ---------------------------------------------------------------------


@family.phase("categorical_cross_entropy_backward", over="b", alternative=0)
def label_losses_backward(
    grad: Array, probs: Array, target: Array, reduction: int, b_size: int, out: Array
) -> None:
    """``-grad / max(p, 1e-12)`` at the label, 0 elsewhere."""
    factor = probs.dtype.type(-reduced(np.float64(grad[0]), reduction, b_size))
    zero, floor = probs.dtype.type(0), probs.dtype.type(PROBABILITY_FLOOR)
    for i in range(out.size):
        out.flat[i] = zero
    for r in range(out.shape[0]):
        out[r, target[r]] = factor / at_least(probs[r, target[r]], floor)


@family.phase("categorical_cross_entropy_backward", over="b", alternative=1)
def expected_losses_backward(
    grad: Array, probs: Array, target: Array, reduction: int, b_size: int, out: Array
) -> None:
    """``-grad t / max(p, 1e-12)``."""
    factor = probs.dtype.type(-reduced(np.float64(grad[0]), reduction, b_size))
    floor = probs.dtype.type(PROBABILITY_FLOOR)
    for i in range(probs.size):
        out.flat[i] = factor * target.flat[i] / at_least(probs.flat[i], floor)


@family.phase("nll_loss_backward", over="b", alternative=0)
def label_values_backward(
    grad: Array, target: Array, reduction: int, b_size: int, out: Array
) -> None:
    """``-grad`` at the label, 0 elsewhere."""
    factor, zero = -reduced(np.float64(grad[0]), reduction, b_size), out.dtype.type(0)
    for i in range(out.size):
        out.flat[i] = zero
    for r in range(out.shape[0]):
        out[r, target[r]] = factor


@family.phase("nll_loss_backward", over="b", alternative=1)
def expected_values_backward(
    grad: Array, target: Array, reduction: int, b_size: int, out: Array
) -> None:
    """``-grad t``."""
    factor = out.dtype.type(-reduced(np.float64(grad[0]), reduction, b_size))
    for i in range(out.size):
        out.flat[i] = factor * target.flat[i]


@family.phase("softmax_cross_entropy_backward", over="b", alternative=0)
def softmax_label_losses_backward(
    grad: Array, probs: Array, target: Array, reduction: int, b_size: int, out: Array
) -> None:
    """``grad probs``, and ``grad (probs - 1)`` at the label."""
    factor = probs.dtype.type(reduced(np.float64(grad[0]), reduction, b_size))
    one = probs.dtype.type(1)
    for i in range(out.size):
        out.flat[i] = factor * probs.flat[i]
    for r in range(out.shape[0]):
        out[r, target[r]] = factor * (probs[r, target[r]] - one)


@family.phase("softmax_cross_entropy_backward", over="b", alternative=1)
def softmax_expected_losses_backward(
    grad: Array, probs: Array, target: Array, reduction: int, b_size: int, out: Array
) -> None:
    """``grad (probs sum(t) - t)``: the sum is that of the targets in the row's loss."""
    factor = probs.dtype.type(reduced(np.float64(grad[0]), reduction, b_size))
    for r in range(probs.shape[0]):
        total = probs.dtype.type(0)
        for i in range(probs.shape[1]):
            total += target[r, i]
        for i in range(probs.shape[1]):
            out[r, i] = factor * (probs[r, i] * total - target[r, i])
