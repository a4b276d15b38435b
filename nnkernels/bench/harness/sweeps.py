"""Workloads at any size: what changes along a sweep is one whole number."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from . import operators, registry, training
from .networks import Network
from .workload import MAIN, Case, Sweep


def sweeps() -> list[Sweep]:
    """Training steps over batch and width, every operator that has a size to grow, users' own."""
    return [*_training_sweeps(), *_operator_sweeps(), *registry.user_sweeps()]


def sweep(id: str) -> Sweep:
    """The sweep of this id.

    Raises:
        ValueError: there is none.
    """
    for found in sweeps():
        if found.id == id:
            return found
    raise ValueError(f"unknown sweep {id!r}")


# --- training steps ----------------------------------------------------------------------------

BATCH, WIDTH, ROWS = 64, 128, 1024
"""Of the network whose other sizes grow; rows of the data set, of which it has two batches more."""


def _training_sweeps() -> Iterator[Sweep]:
    tags = ("train", "mlp_step", MAIN)
    yield Sweep("mlp_step", "batch", 1, 2048, tags, lambda n: training.case_of(_network(n, WIDTH)))
    yield Sweep("mlp_step", "width", 8, 1024, tags, lambda n: training.case_of(_network(BATCH, n)))


def _network(batch: int, width: int) -> Network:
    """784-w-w-10 with sigmoids, softmax and SGD.

    Not with ReLU: of a large batch's many sums some are so near to its kink that rounding decides
    on which side they are, and with them on a noticeable part of the small mean gradient.
    """
    return Network(
        name="mlp_step",
        layers=(784, width, width, 10),
        activation="sigmoid",
        output_activation=None,
        loss="softmax_cross_entropy",
        optimizer="sgd",
        learning_rate=0.1,
        batch=batch,
        rows=batch * max(2, ROWS // batch),
        checked=2,
    )


# --- operators ---------------------------------------------------------------------------------


def _operator_sweeps() -> Iterator[Sweep]:
    for op in operators.catalogue():
        found = _grows(operators.labels(op))
        if found is not None:
            over, low, high, labels = found
            make = functools.partial(_operator_at, op, over, labels)
            tags = operators.case_of(op, operators.SIZES["quick"][0]).tags
            yield Sweep(op.name, over, low, high, tags, make)


def _grows(labels: frozenset[str]) -> tuple[str, int, int, frozenset[str]] | None:
    """What grows of an operator with these dimensions, from where to where, and which of them."""
    if labels == {"..."}:
        return "elements", 64, 1 << 22, labels
    if labels >= {"k", "n"}:
        return "n", 8, 1024, labels
    rows = labels & {"b", "..."}
    return ("rows", 1, 1 << 15, frozenset({"b"})) if rows else None


def _operator_at(op: Any, over: str, labels: frozenset[str], size: int) -> Case:
    grown: Any = (size,) if over == "elements" else size
    return operators.case_of(op, {**operators.SIZES["default"][0], **dict.fromkeys(labels, grown)})
