"""What is trained: a network, its data, the order of the samples, and what must come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.bench.harness.networks import NETWORKS, Data, Network, draw_data, draw_weights
from nnkernels.bench.harness.textbook import TextbookNetwork

EPOCHS = 4
"""Epochs whose shuffled orders are drawn; after the last, the first comes again."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A network with everything that its candidates share.

    Attributes:
        network: what to train.
        data: all samples.
        initial: weight and bias of every layer.
        order: row numbers of every batch, ``[batches, rows of a batch]``; None where the batches
            are consecutive slices of the data.
    """

    network: Network
    data: Data
    initial: Sequence[tuple[Any, Any]]
    order: Any

    @property
    def cycle(self) -> int:
        """Batches after which the first one comes again."""
        if self.order is None:
            return self.network.rows // self.network.batch
        return len(self.order)

    @property
    def targets(self) -> Any:
        """Class labels where the loss takes them, else rows of numbers."""
        return self.data.labels if self.network.takes_labels else self.data.y

    def rows(self, number: int) -> Any:
        """Index of batch ``number``: a slice, which copies nothing, or row numbers."""
        place = number % self.cycle
        if self.order is not None:
            return self.order[place]
        start = place * self.network.batch
        return slice(start, start + self.network.batch)


def network(workload: str, quick: bool) -> Network:
    """The network of a workload; ``quick`` ones have fewer rows, and W3 narrower layers."""
    return next(n for n in NETWORKS["quick" if quick else "default"] if n.name == workload)


def draw(workload: str, quick: bool, shuffled: bool) -> Problem:
    """A workload's problem: the same whenever and wherever it is drawn."""
    chosen = network(workload, quick)
    order = draw_order(chosen, EPOCHS, seed=3) if shuffled else None
    return Problem(chosen, draw_data(chosen), draw_weights(chosen), order)


def draw_order(chosen: Network, epochs: int, seed: int) -> Any:
    """Shuffled epochs in whole batches; the rows that fill none are left out, other ones each."""
    rng = np.random.default_rng(seed)
    batches = chosen.rows // chosen.batch
    drawn = [rng.permutation(chosen.rows)[: batches * chosen.batch] for _ in range(epochs)]
    return np.concatenate(drawn).reshape(epochs * batches, chosen.batch)


def reference(problem: Problem, steps: Sequence[int]) -> list[list[Any]]:
    """Weights, then biases, after each of ``steps`` (ascending): the textbook's code in float64.

    They are rounded to float32 at last, as every candidate stores them: an update of W3 is so small
    beside its weights that this alone takes two ten-thousandths of it.
    """
    trainer = TextbookNetwork(problem.network, problem.initial, np.float64)
    found = []
    for number in range(steps[-1]):
        rows = problem.rows(number)
        trainer.step(problem.data.x[rows].astype(np.float64), problem.data.y[rows])
        if number + 1 in steps:
            found.append([p.astype(np.float32) for p in (*trainer.weights, *trainer.biases)])
    return found


def update_error(found: Sequence[Any], expected: Sequence[Any], initial: Sequence[Any]) -> float:
    """Error of the update ``W_n - W_0``, relative to the update: norms over all parameters.

    Infinite where a value is not finite, or a tensor is missing or of another shape.
    """
    if [np.shape(f) for f in found] != [e.shape for e in expected]:
        return np.inf
    error = _norm(found, expected)
    update = _norm(expected, initial)
    return error / update if np.isfinite(error) else np.inf


def _norm(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Norm of the difference over all tensors, in float64."""
    differences = (
        np.subtract(f, e, dtype=np.float64) for f, e in zip(found, expected, strict=True)
    )
    with np.errstate(all="ignore"):
        return float(np.sqrt(sum(np.vdot(d, d) for d in differences)))
