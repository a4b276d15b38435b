"""What the recipes of a step's kernels launch."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.kernels import step
from nnkernels.backends.cupy.launching import Recording


@pytest.fixture
def queue():
    return Recording()


def argument(launch, name):
    names = [p.name for p in sources.signatures(launch.module)[launch.kernel].parameters]
    return launch.arguments[names.index(name)]


@pytest.fixture
def head(cp, queue):
    def call(shape, **given):
        logits, loss = cp.zeros(shape, np.float32), cp.zeros((), np.float32)
        labels = cp.zeros(shape[:1], np.int64)
        scratch = step.Scratch(*(cp.zeros(n, d) for n, d in step.Scratch.shapes("float32")))
        given = {"ledger": step.Ledger(), "reduction": "mean", **given}
        step.head_softmax_cross_entropy(queue, logits, labels, loss=loss, scratch=scratch, **given)
        (launch,) = queue.taken
        return launch

    return call


@pytest.mark.parametrize(("columns", "variant"), [(10, "warp"), (129, "block")])
def test_a_head_is_one_launch(head, columns, variant):
    assert head((4, columns)).kernel == f"head_softmax_cross_entropy_labels_{variant}"


@pytest.mark.parametrize(("reduction", "scale"), [("mean", 0.25), ("sum", 1.0)])
def test_a_head_scales_by_the_reduction(head, reduction, scale):
    assert argument(head((4, 10), reduction=reduction), "scale") == scale


def test_a_head_learns_the_length_of_the_schedule(cp, head):
    ledger = step.Ledger(schedule=cp.zeros(77, np.float64))
    assert argument(head((4, 10), ledger=ledger), "entries") == 77


def test_only_a_small_head_sums_the_bias_gradient():
    assert step.sums_bias_grad(128, 10)
    assert not step.sums_bias_grad(1024, 1000)


@pytest.mark.parametrize(("columns", "suffix"), [(784, "_vec"), (10, "")])
def test_a_batch_and_its_labels_are_one_launch(cp, queue, columns, suffix):
    x, labels = cp.zeros((9, columns), np.float32), cp.zeros(9, np.int64)
    row, out, labels_out = cp.zeros((), np.int64), x[:4], labels[:4]
    step.gather_step(queue, x, labels, None, row, out, labels_out)
    assert [launch.kernel for launch in queue.taken] == [f"gather_step_labels{suffix}"]


def test_an_empty_batch_is_no_launch(cp, queue):
    x, labels = cp.zeros((9, 4), np.float32), cp.zeros(9, np.int64)
    step.gather_step(queue, x, labels, None, cp.zeros((), np.int64), x[:0], labels[:0])
    assert not queue.taken
