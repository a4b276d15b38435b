"""The history: curves, and drawing them."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from nnkernels.errors import InputError, MissingExtraError, UnknownNameError
from nnkernels.nn import Epoch, History


def epoch(number: int, **values: float) -> Epoch:
    norms = {"linear0.weight": 0.1, "linear0.bias": 0.2}
    return Epoch(number, 10 * (number + 1), 0.5**number, 0.25, values, norms)


@pytest.fixture
def history() -> History:
    made = History("numpy")
    made.epochs = [
        epoch(0, loss=2.0),
        epoch(1, loss=1.0, val_loss=1.5),
        epoch(2, loss=0.5, val_loss=1),
    ]
    return made


def test_curves(history):
    np.testing.assert_array_equal(history["loss"], [2, 1, 0.5])
    np.testing.assert_array_equal(history["val_loss"], [math.nan, 1.5, 1])
    np.testing.assert_array_equal(history["learning_rate"], [1, 0.5, 0.25])
    np.testing.assert_array_equal(history.gradient_norms("linear0.bias"), [0.2] * 3)
    assert history.keys() == ["loss", "val_loss", "learning_rate", "seconds"]
    assert [e.epoch for e in history] == [0, 1, 2]
    assert len(history) == 3


def test_unknown_names_get_the_nearest_match(history):
    with pytest.raises(UnknownNameError, match="'val_loss'"):
        history["val_los"]
    with pytest.raises(UnknownNameError, match=r"linear0\.bias"):
        history.gradient_norms("linear.bias")


def test_it_describes_itself(history):
    assert repr(History()) == "History(no epochs)"
    assert repr(history) == "History(3 epochs, loss 0.5, val_loss 1, running)"
    history.stop_reason = "early stopping"
    assert "early stopping" in repr(history)


def test_plot_returns_axes(history):
    axes_type = pytest.importorskip("matplotlib.axes").Axes
    ax = history.plot()
    assert isinstance(ax, axes_type)
    assert [line.get_label() for line in ax.lines] == ["loss", "val_loss"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [2, 1, 0.5])
    assert history.plot(["learning_rate"], ax=ax, log=True) is ax
    assert ax.get_yscale() == "log"


def test_plots_are_labelled_and_tick_at_whole_epochs(history):
    pytest.importorskip("matplotlib")
    for ax, label in (
        (history.plot(), "loss"),
        (history.plot("learning_rate"), "learning_rate"),
        (history.plot_gradient_norms(), "gradient norm"),
    ):
        ticks = ax.get_xticks()
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", label)
        np.testing.assert_array_equal(ticks, np.round(ticks))


@pytest.mark.parametrize("plot", [History.plot, History.plot_gradient_norms])
def test_nothing_cannot_be_plotted(plot):
    with pytest.raises(InputError, match="no epoch yet; train"):
        plot(History())


def test_plot_of_the_gradient_norms(history):
    pytest.importorskip("matplotlib")
    ax = history.plot_gradient_norms()
    assert [line.get_label() for line in ax.lines] == ["linear0.weight", "linear0.bias"]
    assert ax.get_yscale() == "log"


def test_a_single_epoch_is_a_visible_point(history):
    pytest.importorskip("matplotlib")
    history.epochs = history.epochs[:1]
    (line,) = history.plot().lines
    assert line.get_marker() == "o"


def test_plot_without_matplotlib_says_what_to_install(history, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"nnkernels\[report\]"):
        history.plot()
