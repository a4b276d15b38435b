"""Published figures, and how ours are compared with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from nnkernels.spec import Array

Progress = Callable[[float, float, str], None]
"""Called with the work done, all of it (in epochs), and what is being done."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One published figure beside ours.

    Attributes:
        name: what it is.
        published, ours: both in print; of an array, its worst element.
        difference: absolute difference of these; None where they are words.
        accepted: largest accepted difference, in words.
        ok: whether ours is accepted.
        count: number of elements that were compared.
    """

    name: str
    published: str
    ours: str
    difference: float | None
    accepted: str
    ok: bool
    count: int = 1


@dataclass(frozen=True, slots=True)
class Section:
    """Figures of one example of a book.

    Attributes:
        title: the example.
        source: the book.
        figures: what was compared.
        skipped: why nothing, or not everything, was compared; empty when all was.
    """

    title: str
    source: str
    figures: tuple[Figure, ...]
    skipped: str = ""

    @property
    def misses(self) -> tuple[Figure, ...]:
        """The figures that are not reproduced."""
        return tuple(figure for figure in self.figures if not figure.ok)


@functools.cache
def published() -> dict[str, Any]:
    """The published figures with their recipes, sources and tolerances."""
    text = resources.files("nnkernels.reproduce").joinpath("published.json").read_text("utf-8")
    figures: dict[str, Any] = json.loads(text)
    return figures


def close(name: str, book: Any, ours: Any, tolerance: float, *, relative: bool = False) -> Figure:
    """Numbers, or arrays of one shape, that may differ by ``tolerance``."""
    wanted, got = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (book, ours))
    if wanted.shape != got.shape:
        shapes = str(wanted.shape), str(got.shape)
        return Figure(name, *shapes, None, "shape", False)
    difference = np.abs(got - wanted)
    accepted = tolerance * (np.abs(wanted) if relative else np.ones_like(wanted))
    worst = np.unravel_index(int(np.argmax(difference / np.maximum(accepted, 1e-300))), got.shape)
    return Figure(
        name,
        f"{wanted[worst]:.7g}",
        f"{got[worst]:.7g}",
        float(difference[worst]),
        f"{tolerance:g}" + (" rel." if relative else ""),
        bool((difference <= accepted).all()),
        wanted.size,
    )


def close_groups(name: str, book: Iterable[Any], ours: Iterable[Array], tolerance: float) -> Figure:
    """Several arrays compared as one figure."""
    return close(name, _joined(book), _joined(ours), tolerance)


def _joined(arrays: Iterable[Any]) -> Array:
    return np.concatenate([np.ravel(np.asarray(a, dtype=np.float64)) for a in arrays])


def digits(name: str, book: float, ours: float, places: int) -> Figure:
    """A number of which every printed digit, to ``places`` decimals, must agree."""
    wanted, got = f"{book:.{places}f}", f"{ours:.{places}f}"
    return Figure(name, wanted, got, abs(ours - book), "all digits", wanted == got)


def outcome(name: str, book: str, ours: str) -> Figure:
    """A statement that must hold word for word."""
    return Figure(name, book, ours, None, "equal", book == ours)
