"""What a selftest found: a page to read, JSON to attach to an issue."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["ok", "failed", "skipped", "measured"]

SCHEMA = 1


class Item(msgspec.Struct, frozen=True):
    """One line of a section.

    Attributes:
        name: what was looked at.
        outcome: ``measured`` for figures that cannot be wrong.
        detail: one sentence.
        values: figures, in the unit that their name ends with.
    """

    name: str
    outcome: Outcome
    detail: str = ""
    values: dict[str, float] = {}


class Section(msgspec.Struct, frozen=True):
    """One question that the selftest asks."""

    title: str
    items: list[Item]
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing in it failed."""
        return all(item.outcome != "failed" for item in self.items)


class Report(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        schema: version of this form.
        version: of nnkernels.
        identity: device, driver and versions.
        complete: False when it was interrupted.
    """

    schema: int
    version: str
    identity: dict[str, str]
    sections: list[Section]
    complete: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything was looked at and nothing failed."""
        return self.complete and bool(self.sections) and all(s.ok for s in self.sections)

    def text(self) -> str:
        """The report as one page."""
        facts = ", ".join(f"{k} {v}" for k, v in self.identity.items())
        lines = [f"nnkernels {self.version} selftest", facts]
        for section in self.sections:
            lines += ["", f"{section.title} ({section.seconds:.1f} s)"]
            lines += [_line(item) for item in section.items]
        return "\n".join([*lines, "", self.verdict()])

    def verdict(self) -> str:
        """One sentence."""
        if not self.complete:
            return "INCOMPLETE: interrupted before the end"
        bad = [i.name for s in self.sections for i in s.items if i.outcome == "failed"]
        if not self.sections:
            return "INCOMPLETE: nothing was looked at"
        return f"FAILED: {', '.join(bad)}" if bad else "OK: nothing failed"

    def json(self) -> bytes:
        """The report as JSON."""
        return msgspec.json.format(msgspec.json.encode(self))


def _line(item: Item) -> str:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in item.values.items())
    return "  ".join(
        part for part in (f"  {item.outcome:<8} {item.name}", item.detail, figures) if part
    )
