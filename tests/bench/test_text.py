"""Numbers and texts for people."""

import msgspec
import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.bench import text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1.5e-9, "1.50 ns"), (88.12e-6, "88.1 us"), (0.0102, "10.2 ms"), (250.0, "250 s")],
)
def test_durations(seconds, shown):
    assert text.duration(seconds) == shown
    assert text.amount(seconds, "s") == shown


def test_quantities():
    assert text.amount(2.09e11, "FLOP/s") == "209 GFLOP/s"
    assert text.quantity(0.5, "B") == "0.50 B"
    assert text.counted(1, "run") == "1 run" and text.counted(2000, "run") == "2,000 runs"


@pytest.mark.parametrize(
    ("fraction", "shown"), [(0.03, "3 %"), (0.0412, "4.12 %"), (1.0, "100 %"), (0.5, "50 %")]
)
def test_percentages(fraction, shown):
    assert text.percent(fraction) == shown


def test_lists():
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b", "c"]) == "a, b and c"
    assert text.listed(list("abcdef"), 4) == "a, b, c and 3 more"


@given(st.text())
def test_a_legible_record_has_no_control_characters(name):
    shown = text.legible(runs.comparison(name)).workload
    assert all(c == " " or c.isprintable() or ord(c) > 0xA0 for c in shown)
    assert text.legible(runs.comparison(shown)).workload == shown


def test_legible_changes_nothing_else():
    run = runs.bench()
    assert text.legible(run) == run
    assert msgspec.json.encode(text.legible(run)) == msgspec.json.encode(run)
