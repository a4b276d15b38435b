"""The arena: arrays that live at the same time lie apart, the others share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nnkernels.backends.cupy.steps.groups import Scratch
from nnkernels.backends.cupy.steps.memory import (
    ALIGNMENT,
    Need,
    arena_bytes,
    kept_bytes,
    needs,
    place,
    rows_that_fit,
)
from nnkernels.backends.cupy.steps.plan import make_plan
from nnkernels.nn import MLP, Adam
from nnkernels.program import specialise


def need(key, nbytes, first, last):
    return Need(key, Scratch((nbytes,), "uint8"), first, last)


def overlaps(wanted, offsets):
    """Pairs of arrays that are needed at the same time and share bytes."""
    return [
        (a.key, b.key)
        for a, b in itertools.combinations(wanted, 2)
        if a.first <= b.last
        and b.first <= a.last
        and offsets[a.key] < offsets[b.key] + b.array.nbytes
        and offsets[b.key] < offsets[a.key] + a.array.nbytes
    ]


def test_arrays_share_bytes_only_one_after_the_other():
    offsets, size = place([need("a", 512, 0, 1), need("b", 256, 1, 2), need("c", 512, 2, 3)])
    assert offsets == {"a": 0, "c": 0, "b": 512}
    assert size == 768


def test_nothing_needs_nothing():
    assert place([]) == ({}, 0)


def test_random_needs_are_placed_apart_aligned_and_tightly():
    draw = np.random.default_rng(3)
    for _ in range(20):
        spans = np.sort(draw.integers(0, 12, (30, 2)), axis=1)
        sizes = draw.integers(0, 5000, 30)
        wanted = [
            need(n, int(size), int(a), int(b))
            for n, (size, (a, b)) in enumerate(zip(sizes, spans, strict=True))
        ]
        offsets, size = place(wanted)
        assert not overlaps(wanted, offsets)
        assert not any(offset % ALIGNMENT for offset in offsets.values())
        alive = max(
            sum(n.array.nbytes for n in wanted if n.first <= at <= n.last) for at in range(12)
        )
        assert alive <= size <= 1.3 * alive + 30 * ALIGNMENT


@pytest.fixture
def plan(outlined, step_of):
    def plan(rows, epilogues=True):
        model = MLP([32, 64, 64, 10], loss="softmax_cross_entropy")
        program = specialise(step_of(model, Adam(), rows), outlined)
        return make_plan(program, outlined, epilogues=epilogues)

    return plan


@pytest.mark.parametrize("epilogues", [True, False])
def test_a_step_has_room_for_all_that_it_touches(plan, epilogues):
    found = plan(16, epilogues)
    wanted = needs(found)
    offsets, _ = place(wanted)
    assert not overlaps(wanted, offsets)
    kept = {n.key: n for n in wanted}
    for role in ("loss", "prediction"):
        assert kept[found.program.outputs[role]].last == len(found.groups)


def test_a_fused_step_needs_less_than_every_array_by_itself(plan):
    wanted = needs(plan(64, False))
    assert place(wanted)[1] < 0.85 * sum(n.array.nbytes for n in wanted)


def test_the_batch_that_fits_needs_as_much_as_there_is(plan):
    for rows in (64, 150, 230):
        found = plan(rows, False)
        size = arena_bytes(found) + kept_bytes(found)
        fitting = rows_that_fit(plan(256, False), size)
        assert fitting == pytest.approx(rows, rel=0.05)
    assert rows_that_fit(plan(64), 0) == 0
