"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Status = Literal["ok", "warn", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """The outcome of a check.

    Attributes:
        check: its name.
        status: ``warn`` where numbers measured here will be wrong, or mean less.
        text: what was found, with the measured figure.
        remedy: what to do about it; None where nothing has to be done.
        figures: what was measured, for programs; None is not measured.
    """

    check: str
    status: Status
    text: str
    remedy: str | None = None
    figures: dict[str, float | None] = {}


def judged(
    check: str, *, bad: bool, text: str, remedy: str, figures: Mapping[str, float | None]
) -> Finding:
    """A finding that warns, and comes with its remedy, where it is ``bad``."""
    return Finding(check, "warn" if bad else "ok", text, remedy if bad else None, dict(figures))
