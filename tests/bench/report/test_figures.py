"""Charts: round numbers at the axes, any data drawn."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import runs
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from nnkernels.bench import rows
from nnkernels.bench.report import figures


@given(st.floats(1e-6, 1.0), st.floats(1.0, 1e6))
@example(0.8, 1.2)
@example(0.36, 1.45)
def test_ticks_of_a_ratio_are_few_round_and_inside(low, high):
    ticks = figures._ratio_ticks(low, max(high, low * 1.02))
    assert len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert all(low * 0.999 <= tick <= max(high, low * 1.02) * 1.001 for tick in ticks)
    gaps = [math.log(b / a) for a, b in pairwise(ticks)]
    assert not gaps or min(gaps) > math.log(max(high, low * 1.02) / low) / 25


@pytest.mark.parametrize("width", [figures.WIDE, figures.NARROW])
@pytest.mark.parametrize("ratio", [1e-4, 0.999, 1.0, 1e4])
def test_any_ratio_is_drawn(width, ratio):
    row = replace(runs.comparison(), ratio=ratio, ci_low=ratio * 0.9, ci_high=ratio * 1.1)
    assert figures.image(figures.forest([row], width), ".svg").startswith(b"<?xml")


def test_workloads_have_one_number_whoever_ran_them():
    found = [runs.result(w, "1", b) for w in ("relu", "tanh") for b in ("numpy", "numba")]
    skipped = runs.result("add", median=None, status="skipped")
    numbers = figures.numbered([*found, skipped])
    assert [(number, r.workload) for number, r in numbers] == [
        (1, "relu"),
        (1, "relu"),
        (2, "tanh"),
        (2, "tanh"),
    ]


def test_labels_of_a_roofline_keep_apart():
    found = [runs.result(f"workload{n}", "1") for n in range(10)]
    figure = figures.roofline([runs.ceiling("gemm_flops", 1e12)], found, figures.WIDE)
    figure.draw_without_rendering()
    boxes = [
        text.get_window_extent() for text in figure.axes[0].texts if "workload" in text.get_text()
    ]
    assert len(boxes) == 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_same_figure_is_the_same_file():
    times = rows.cases(runs.bench())
    one, two = (
        figures.image(figures.speeds(times, "numpy", ["numba"], 6.0), ".png") for _ in range(2)
    )
    assert one == two
