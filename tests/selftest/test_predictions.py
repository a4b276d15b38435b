from __future__ import annotations

import pytest

from nnkernels.selftest.predictions import DATA_SHEETS, H100, NETWORKS, T4, naive_calls, predict

SMALL, LARGE = (784, 512, 512, 10), (4096, 4096, 4096, 4096)


@pytest.mark.parametrize(
    ("layers", "batch", "sheet", "precision", "microseconds"),
    [
        (SMALL, 128, H100, "fp32", (6, 928, 41, 32)),
        (SMALL, 128, H100, "tf32", (5, 928, 40, 20)),
        (SMALL, 128, T4, "fp32", (90, 928, 169, 157)),
        (SMALL, 1024, H100, "fp32", (49, 928, 92, 83)),
        (SMALL, 1024, H100, "tf32", (10, 928, 40, 30)),
        (LARGE, 1024, H100, "fp32", (4103, 8727, 5999, 5990)),
        (LARGE, 1024, H100, "tf32", (671, 4182, 1454, 1446)),
    ],
)
def test_the_model_gives_the_published_predictions(layers, batch, sheet, precision, microseconds):
    times = predict(sheet, layers, batch, precision)
    assert tuple(round(t * 1e6) for t in times) == microseconds


def test_a_step_of_three_layers_is_116_calls_of_cupy():
    assert naive_calls(SMALL) == 116


@pytest.mark.parametrize("sheet", DATA_SHEETS, ids=lambda s: s.name)
@pytest.mark.parametrize(("layers", "batch"), NETWORKS)
def test_nothing_is_faster_than_the_floor(sheet, layers, batch):
    for precision in sheet.rates:
        times = predict(sheet, layers, batch, precision)
        assert times.floor <= times.graph <= times.eager <= times.naive
