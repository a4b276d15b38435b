"""Numbers for people: the same three digits in the terminal, in reports and in plots."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

R = TypeVar("R", bound=msgspec.Struct)

_SPACE = re.compile(r"\s+")
_ILLEGIBLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def counted(count: int, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """Three digits with a unit: ``88.1 us``."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{digits(seconds / factor)} {unit}"
    return f"{digits(seconds / 1e-9)} ns"


def quantity(value: float, unit: str) -> str:
    """Three digits with a prefix: ``363 ksamples/s``."""
    for factor, prefix in _PREFIXES:
        if value >= factor:
            return f"{digits(value / factor)} {prefix}{unit}"
    return f"{digits(value)} {unit}"


def amount(value: float, unit: str) -> str:
    """A quantity; in the unit ``s``, a duration."""
    return duration(value) if unit == "s" else quantity(value, unit)


def digits(value: float) -> str:
    """Three significant digits, never in exponential form."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def percent(fraction: float) -> str:
    """``0.034`` as ``3.4 %``: three digits without closing zeros."""
    text = digits(100 * fraction)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def listed(names: list[str], most: int = 8) -> str:
    """``a, b and c``; beyond ``most`` names, how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def legible(record: R) -> R:
    """``record`` with every text in it on one line, without what no screen and no XML can show.

    Names and reasons come from files: an escape sequence in one must not reach a terminal.
    """
    return msgspec.convert(_legible(msgspec.to_builtins(record)), type(record))


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return _ILLEGIBLE.sub("\ufffd", _SPACE.sub(" ", value))
    if isinstance(value, list | tuple):
        return [_legible(item) for item in value]
    if isinstance(value, dict):
        return {_legible(key): _legible(item) for key, item in value.items()}
    return value
