from __future__ import annotations

import msgspec
import pytest

from nnkernels.selftest.report import SCHEMA, Item, Report, Section

GOOD = Section("Operators", [Item("conformance", "ok", "12 cases"), Item("x", "skipped")], 1.5)
BAD = Section("Products", [Item("product", "failed", "disagrees", {"error": 3.0})])
SPEED = Section("Speed", [Item("copying", "measured", "", {"GB/s": 2900.0})])


def report(*sections, complete=True):
    return Report(SCHEMA, "1.2", {"device": "a GPU"}, list(sections), complete)


@pytest.mark.parametrize(
    ("made", "ok", "verdict"),
    [
        (report(GOOD, SPEED), True, "OK"),
        (report(GOOD, BAD), False, "FAILED: product"),
        (report(GOOD, complete=False), False, "INCOMPLETE: interrupted"),
        (report(), False, "INCOMPLETE: nothing"),
    ],
)
def test_the_verdict(made, ok, verdict):
    assert made.ok is ok
    assert made.verdict().startswith(verdict)


def test_the_page_shows_every_item_and_figure():
    page = report(GOOD, BAD, SPEED).text()
    for part in ("a GPU", "Operators (1.5 s)", "12 cases", "failed   product", "GB/s 2900"):
        assert part in page


def test_the_json_can_be_read_back():
    made = report(GOOD, BAD)
    assert msgspec.json.decode(made.json(), type=Report) == made
