"""Comparing a published figure with ours."""

from __future__ import annotations

import math

import pytest

from nnkernels.reproduce import Section, published
from nnkernels.reproduce.figures import close, close_groups, digits, outcome


def test_every_published_entry_names_its_source():
    entries = {k: v for k, v in published().items() if k != "about"}
    assert len(entries) == 9
    assert all(entry["source"] for entry in entries.values())
    assert len(published()["mnist_mlp"]["trace"]) == 29


@pytest.mark.parametrize(("ours", "ok"), [(1.5, True), (0.5, True), (1.75, False), (0.25, False)])
def test_close_accepts_up_to_the_tolerance(ours, ok):
    figure = close("x", 1.0, ours, 0.5)
    assert (figure.ok, figure.count, figure.difference) == (ok, 1, abs(ours - 1))


def test_close_shows_the_worst_element():
    figure = close("x", [[1, 2, 3]], [[1, 2.5, 3.25]], 0.3)
    assert (figure.published, figure.ours, figure.count, figure.ok) == ("2", "2.5", 3, False)


def test_a_relative_tolerance_picks_the_relatively_worst():
    figure = close("x", [100, 1], [101, 1.05], 0.02, relative=True)
    assert (figure.published, figure.ok) == ("1", False)
    assert figure.accepted == "0.02 rel."


@pytest.mark.parametrize("ours", [math.nan, math.inf])
def test_close_never_accepts_what_is_not_finite(ours):
    assert not close("x", [1, 2], [1, ours], 1e9).ok


def test_close_refuses_another_shape():
    assert not close("x", [1, 1], [[1], [1]], 9).ok


def test_groups_are_compared_as_one_figure():
    assert close_groups("x", [[1, 2], [[3]]], [[1, 2], [[3.5]]], 1).count == 3
    assert not close_groups("x", [[1, 2], [[3]]], [[1, 2], [[3.5]]], 0.1).ok


@pytest.mark.parametrize(
    ("ours", "ok"), [(1.0969775517, True), (1.09697749, False), (1.0969785001, False)]
)
def test_digits_wants_every_printed_digit(ours, ok):
    assert digits("x", 1.096978, ours, 6).ok is ok


def test_a_trailing_zero_is_a_printed_digit():
    assert digits("x", 0.114770, 0.1147704, 6).published == "0.114770"
    assert not digits("x", 0.114770, 0.114769, 6).ok


def test_outcomes_are_equal_or_missed():
    assert outcome("x", "learned", "learned").ok
    section = Section("s", "book", (outcome("x", "learned", "not learned"), close("y", 1, 1, 0)))
    assert [figure.name for figure in section.misses] == ["x"]
