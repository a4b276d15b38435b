"""Kernels that make a training step few launches: what a Program's operators are fused to.

:func:`gather_step` fetches a batch and its targets. The head is the end of the forward pass, the
beginning of the backward pass and, by its block that finishes last, what the step changes in the
State besides the parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nnkernels.backends.cupy.kernels.geometry import row_teams, tile
from nnkernels.backends.cupy.kernels.losses import targets_are
from nnkernels.backends.cupy.launching import (
    BLOCK,
    MAX_BLOCKS,
    Launch,
    Queue,
    can_vectorise,
    storage_of,
    vector_length,
)
from nnkernels.catalog.losses import divisor

BIAS_GRAD_ELEMENTS = 2**15
"""Up to this size of the logits the head's last block sums their gradient's columns by itself."""


class Scratch(NamedTuple):
    """Scratch of a head.

    Attributes:
        losses: :data:`~nnkernels.backends.cupy.launching.MAX_BLOCKS` numbers of the loss's dtype.
        hits: as many, uint32.
        arrived: one uint32, 0 when it is allocated; every launch leaves it 0.
    """

    losses: Any
    hits: Any
    arrived: Any

    @staticmethod
    def shapes(dtype: str) -> tuple[tuple[int, str], ...]:
        """Length and dtype of every array, for losses of ``dtype``."""
        return (MAX_BLOCKS, dtype), (MAX_BLOCKS, "uint32"), (1, "uint32")


class Ledger(NamedTuple):
    """What a head changes in the State: arrays of one element, None for what it leaves alone.

    A loss that is not finite sets ``diverged`` and nothing else; nor is anything changed while
    ``diverged`` is set. Without it there is no guard.

    Attributes:
        loss_sum: grows by ``weight`` times the loss (float64).
        metric: grows by the number of correct rows (float64).
        step, epoch_step: both grow by one; given together with the next two.
        learning_rate: becomes the entry ``epoch_step`` of the schedule, or its last one.
        schedule: learning rates of the epoch's steps.
        row: grows by ``advance``.
        diverged: whether a loss was not finite (int64).
    """

    loss_sum: Any = None
    metric: Any = None
    step: Any = None
    epoch_step: Any = None
    learning_rate: Any = None
    schedule: Any = None
    row: Any = None
    diverged: Any = None
    weight: float = 1.0
    advance: int = 0

    def arrays(self) -> tuple[Any, ...]:
        """The arrays, in the order of the kernels' parameters."""
        return self[:8]

    def numbers(self) -> tuple[float, int, int]:
        """The weight, the length of the schedule and the rows to advance by."""
        entries = 0 if self.schedule is None else int(self.schedule.size)
        return self.weight, entries, self.advance


def gather_step(
    queue: Queue, x: Any, targets: Any, order: Any | None, row: Any, x_out: Any, targets_out: Any
) -> None:
    """Copy a batch: rows ``order[row + i]`` of ``x`` and ``targets``, or ``row + i`` without it.

    Shapes: ``x`` (n, d); ``targets`` labels (n) int64 or rows (n, k) of the dtype of ``x``;
    ``order`` (m) int64 or None; ``row`` the counter, which is read on the device; ``x_out`` (b, d)
    and ``targets_out`` (b) or (b, k).
    """
    if not targets_out.size:
        return
    storage, (rows, columns) = storage_of(x), x_out.shape
    kernel, items = f"gather_step_{targets_are(targets)}", columns
    if can_vectorise(columns, x, targets, x_out, targets_out):
        kernel, items = f"{kernel}_vec", columns // vector_length(storage)
    shift, grid = tile(rows, items)
    target_columns = targets.shape[1] if targets.ndim == 2 else 1
    arrays = (x, targets, order, row, x_out, targets_out)
    arguments = (*arrays, rows, columns, target_columns, shift)
    queue.launch(Launch("step", kernel, storage, grid, BLOCK, arguments))


def sums_bias_grad(rows: int, columns: int) -> bool:
    """Whether the head should write the bias gradient, rather than a kernel of its own."""
    return rows * columns <= BIAS_GRAD_ELEMENTS


def head_softmax_cross_entropy(
    queue: Queue,
    logits: Any,
    targets: Any,
    *,
    loss: Any,
    scratch: Scratch,
    ledger: Ledger,
    reduction: str,
    bias: Any = None,
    biased: Any = None,
    probs: Any = None,
    d_logits: Any = None,
    bias_grad: Any = None,
) -> None:
    """Loss, hits and gradient of ``logits + bias``, and the State's bookkeeping, in one launch.

    Shapes: ``logits``, ``biased``, ``probs`` and ``d_logits`` (b, c), of which all but the first
    are written if given; ``biased``, which is ``logits + bias``, shares memory with none, the last
    two may be ``logits``; ``targets`` labels (b) int64 or probabilities (b, c); ``bias`` (c), read;
    ``bias_grad`` (c), the column sums of ``d_logits``, which must be given then; ``loss`` ().
    """
    rows, columns = logits.shape
    variant, grid = row_teams(rows, columns)
    shift, _ = tile(rows, columns)
    kernel = f"head_softmax_cross_entropy_{targets_are(targets)}{variant}"
    outputs = (biased, probs, d_logits, bias_grad, loss)
    arrays = (logits, bias, targets, *outputs, *scratch, *ledger.arrays())
    numbers = (1 / divisor(rows, reduction), *ledger.numbers(), rows, columns, shift)
    queue.launch(Launch("step", kernel, storage_of(logits), grid, BLOCK, (*arrays, *numbers)))
