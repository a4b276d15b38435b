"""The textbooks' printed figures, computed by the native backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnkernels.reproduce import reproduce


def missed(sections):
    """Figures that are not reproduced, of sections of which at least one has some."""
    sections = list(sections)
    assert sum(len(section.figures) for section in sections) >= 30
    return [(section.title, figure.name) for section in sections for figure in section.misses]


def test_figures_without_data_are_reproduced(native, monkeypatch):
    monkeypatch.delenv("NNKERNELS_MNIST", raising=False)
    assert missed(reproduce(native)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_those_of_mnist_are_reproduced(native, mnist_folder):
    sections = list(reproduce(native, mnist=Path(mnist_folder)))
    assert all(section.figures for section in sections)
    assert missed(sections) == []
