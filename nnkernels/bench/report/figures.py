"""The charts, drawn by matplotlib without any global state.

Colours come from a palette that people with each kind of colour blindness can tell apart (Okabe and
Ito, 2008); what a colour says, a shape or a word says too. Every function takes the width that it
is drawn for, in inches, and returns a Figure; :func:`image` makes a file of it, and
:mod:`nnkernels.bench.report.svg` a part of a page.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

from nnkernels.bench import conclusions, history, rows
from nnkernels.bench.results import (
    CalibrationRow,
    Ceiling,
    Comparison,
    Crossover,
    Power,
    Result,
    Times,
)
from nnkernels.bench.roofline import BANDWIDTH_CEILINGS, COMPUTE_CEILINGS
from nnkernels.bench.text import duration, percent, quantity
from nnkernels.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2328", "#656d76", "#d8dee5", "#ffffff"
BAND = "#eef1f5"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P")
SLOWER, FASTER, SAME, UNSURE = SERIES[1], SERIES[0], MUTED, SERIES[4]
VERDICTS: Mapping[str, tuple[str, str, bool]] = {
    "slower": (SLOWER, ">", True),
    "faster": (FASTER, "<", True),
    "same": (SAME, "o", True),
    "unsure": (UNSURE, "o", False),
}
"""Colour, marker, and whether it is filled."""

WIDE, NARROW = 11.6, 3.75
"""Inches; a page shows an inch as 96 pixels."""

MOST = 40
"""Rows of a chart; the table beside it has all."""

NAMED = 12
"""Workloads of a roofline that are named; more have only the number that stands in the table."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from files: a dollar is a dollar
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings within a block.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise missing_extra("drawing", "matplotlib", "report") from None
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Characters that matplotlib's own font lacks are drawn by the reader's.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def image(figure: Figure, suffix: str) -> bytes:
    """``figure`` as a file of the kind that ``suffix`` names: ``.png``, ``.svg``, ``.pdf``."""
    target = io.BytesIO()
    kind = suffix.lower().lstrip(".")
    # Without its date, the same figure is the same file.
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with style():
        figure.savefig(target, format=kind, dpi=160, metadata=dated.get(kind))
    return target.getvalue()


def _figure(
    width: float, height: float, panels: int = 1, columns: int = 1
) -> tuple[Figure, list[Any]]:
    """A new figure with ``panels`` axes in ``columns``; those that are left over are removed."""
    from matplotlib.figure import Figure

    lines = math.ceil(panels / columns)
    figure = Figure(figsize=(width, height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for unused in grid[panels:]:
        unused.remove()
    return figure, list(grid[:panels])


def _ratio_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of ratios, with a line at one, readable ticks and room for ``values``."""
    low, high = min([*values, 1.0]), max([*values, 1.0])
    room = (high / low) ** 0.06 * 1.01
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    axes.set_xticks(_ratio_ticks(low / room, high * room))
    _plain(axes.xaxis)
    axes.axvline(1.0, color=INK, linewidth=1, zorder=1)
    axes.grid(axis="x")


def _plain(axis: Any, unit: str | None = None) -> None:
    """Numbers as people write them at the main ticks of a logarithmic axis, no others between."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    def written(value: float, _: object) -> str:
        if unit is not None:
            return quantity(value, unit)
        return f"{value:,.0f}" if value >= 1000 else f"{value:g}"

    axis.set_major_formatter(FuncFormatter(written))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


_DIGITS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,))
"""First digits of round numbers, from many a decade to one."""


def _ratio_ticks(low: float, high: float) -> list[float]:
    """At most seven round numbers between ``low`` and ``high``, one among them."""
    if high / low < 1.8:  # where a logarithmic axis is nearly a linear one
        step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if high - low <= 7 * step)
        first = math.ceil(low / step)
        return [round(step * k, 6) for k in range(first, math.floor(high / step) + 1)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in _DIGITS:
        ticks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(ticks) <= 7:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 7)]


def _short(text: str, most: int = 44) -> str:
    """``text``, or its beginning and its end; the table has all of it."""
    return text if len(text) <= most else f"{text[: most - 12]}…{text[-11:]}"


class _Lines:
    """Rows of a chart, from above; in a narrow one a row's name stands over its marks."""

    def __init__(self, width: float, names: Sequence[str], header: float = 0.35) -> None:
        self.narrow = width < 6
        names = [_short(name) for name in names]
        pitch = 0.46 if self.narrow else 0.3
        self.figure, (self.axes,) = _figure(width, 0.62 + header + pitch * len(names))
        axes = self.axes
        axes.set_ylim(len(names) - 0.45, -0.75 if self.narrow else -0.6)
        if self.narrow:
            axes.set_yticks([])
            for number, name in enumerate(names):
                axes.text(0, number - 0.22, name, transform=axes.get_yaxis_transform(), va="bottom")
        else:
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(axis="y", labelcolor=INK)

    def mark(
        self, number: int, value: float, interval: tuple[float, float] | None, look: Any
    ) -> None:
        """A point with its interval in one row; ``look`` is colour, marker, filled."""
        color, marker, filled = look
        if interval is not None:
            self.axes.plot(interval, (number, number), color=color, linewidth=2, zorder=2)
        face = color if filled else PAPER
        self.axes.plot(
            [value], [number], marker, color=color, markerfacecolor=face, markersize=6.5, zorder=3
        )

    def remark(self, number: int, text: str) -> None:
        """Words at the right end of a row: of a wide chart outside, of a narrow one above."""
        where = (1.0, number - 0.22) if self.narrow else (1.015, number)
        self.axes.text(
            *where,
            text,
            transform=self.axes.get_yaxis_transform(),
            ha="right" if self.narrow else "left",
            va="bottom" if self.narrow else "center",
        )


# --- results ------------------------------------------------------------------------------------


def speeds(
    times: Mapping[str, Mapping[str, Times]], base: str, names: Sequence[str], width: float
) -> Figure:
    """How many times as fast as ``base`` the other candidates are, for each workload.

    Args:
        times: by workload, of every candidate.
        base: the candidate that is one.
        names: the others, in the order of their colours.
        width: inches.
    """
    compared = [(title, t) for title, t in times.items() if base in t and t.keys() & set(names)]
    shown = dict(compared[:MOST])
    with style():
        lines = _Lines(width, list(shown))
        values = [1.0]
        for number, found in enumerate(shown.values()):
            for which, name in enumerate(names):
                if name in found:
                    interval = _speed(found[base], found[name])
                    values += interval
                    color, marker = SERIES[which % len(SERIES)], MARKERS[which % len(MARKERS)]
                    middle = found[base].median / found[name].median
                    lines.mark(number, middle, interval, (color, marker, True))
        _ratio_axis(lines.axes, values)
        lines.axes.set_xlabel(f"times as fast as {base}")
        _legend(lines.axes, names)
    return lines.figure


def _speed(base: Times, other: Times) -> tuple[float, float]:
    """The interval of a ratio of medians, from the ends of both intervals."""
    return base.ci[0] / other.ci[1], base.ci[1] / other.ci[0]


def _legend(axes: Axes, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, label=_short(name, 32))
        for name, color, marker in zip(names, cycle(SERIES), cycle(MARKERS), strict=False)
    ]
    columns = 2 if axes.figure.get_figwidth() < 6 else 6  # type: ignore[union-attr]
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)


# --- comparisons --------------------------------------------------------------------------------


def forest(found: Sequence[Comparison], width: float) -> Figure:
    """Ratios with their intervals, the margin as a band, and the verdicts in words."""
    shown = [c for c in found if c.ratio is not None and c.verdict is not None][:MOST]
    with style():
        lines = _Lines(width, [conclusions.comparison_name(c) for c in shown], header=0.0)
        values = []
        for number, row in enumerate(shown):
            ratio, verdict = row.ratio or 1.0, row.verdict or "unsure"
            interval = (row.ci_low or ratio, row.ci_high or ratio)
            values += [*interval, 1 - row.margin, 1 + row.margin]
            lines.mark(number, ratio, interval, VERDICTS[verdict])
            lines.remark(number, f"{ratio:.3f}  {verdict.upper()}")
        margin = min(row.margin for row in shown)
        a, b = (_short(label, 40 if width >= 6 else 16) for label in (shown[0].a, shown[0].b))
        lines.axes.axvspan(1 / (1 + margin), 1 + margin, color=BAND, zorder=0)
        _ratio_axis(lines.axes, values)
        lines.axes.set_xlabel(
            f"time of {b} / time of {a}   (band: within {percent(margin)})"
            if width >= 6
            else f"{b} / {a}, band: within {percent(margin)}"
        )
    return lines.figure


# --- the roofline -------------------------------------------------------------------------------


def roofline(ceilings: Sequence[Ceiling], results: Sequence[Result], width: float) -> Figure:
    """Rates over intensity under the measured ceilings of one device."""
    placed = numbered(results)
    compute, bandwidth = _roofs(ceilings)
    with style():
        figure, (axes,) = _figure(width, 4.6 if width >= 6 else 4.0)
        low, high = _span([_intensity(r) for _, r in placed], compute, bandwidth)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _draw_roofs(axes, compute, bandwidth, low, high)
        _draw_points(axes, [r for _, r in placed])
        axes.set_xlim(low, high)
        axes.set_xlabel("FLOP per byte of compulsory traffic")
        _plain(axes.xaxis)
        _plain(axes.yaxis, "FLOP/s")
        axes.grid(which="major")
        _label_points(axes, placed, named=width >= 6)
    return figure


def numbered(results: Sequence[Result]) -> list[tuple[int, Result]]:
    """Results that have a place under the roofline, with the numbers that the chart shows.

    A workload at one size has one number, whoever ran it.
    """
    placed = [r for r in results if r.rates.flop_s and r.cost.bytes and r.cost.flop]
    cases = [(r.workload, rows.size_of(r), r.dtype) for r in placed]
    numbers = {case: number for number, case in enumerate(dict.fromkeys(cases), 1)}
    return [(numbers[case], result) for case, result in zip(cases, placed, strict=True)]


def _intensity(found: Result) -> float:
    return found.cost.flop / found.cost.bytes


def _roofs(ceilings: Sequence[Ceiling]) -> tuple[list[Ceiling], list[Ceiling]]:
    """The best of each dtype's arithmetic, and of each memory's traffic, the fastest first."""
    best: dict[tuple[str, str, str | None], Ceiling] = {}
    for ceiling in ceilings:
        of = ceiling.dtype if ceiling.unit == "FLOP/s" else ceiling.level or ceiling.what
        key = (ceiling.device, ceiling.unit, of)
        if key not in best or best[key].value < ceiling.value:
            best[key] = ceiling
    ordered = sorted(best.values(), key=lambda c: -c.value)
    return (
        [c for c in ordered if c.what in COMPUTE_CEILINGS],
        [c for c in ordered if c.what in BANDWIDTH_CEILINGS],
    )


def _span(
    intensities: Sequence[float], compute: Sequence[Ceiling], bandwidth: Sequence[Ceiling]
) -> tuple[float, float]:
    """Intensities from left of all points to right of the ridges."""
    ridges = [c.value / b.value for c in compute[:1] for b in bandwidth]
    values = [*intensities, *ridges, 1.0]
    return min(values) / 4, max(values) * 8


def _draw_roofs(
    axes: Axes,
    compute: Sequence[Ceiling],
    bandwidth: Sequence[Ceiling],
    low: float,
    high: float,
) -> None:
    top = compute[0].value if compute else math.inf
    for ceiling in compute:
        start = max(low, ceiling.value / bandwidth[0].value if bandwidth else low)
        axes.plot((start, high), (ceiling.value, ceiling.value), color=INK, linewidth=1.3)
        text = f"{quantity(ceiling.value, 'FLOP/s')} {ceiling.dtype or ''}"
        axes.text(high, ceiling.value, text.strip(), ha="right", va="bottom")
    for number, ceiling in enumerate(bandwidth):
        end = min(high, top / ceiling.value)
        xs = (low, end)
        axes.plot(xs, [x * ceiling.value for x in xs], color=MUTED, linewidth=1.0)
        at = low * (end / low) ** (0.35 * (number % 2) + 0.02)  # neighbours' labels stay apart
        axes.text(
            at,
            at * ceiling.value,
            f"{ceiling.level or ceiling.what} {quantity(ceiling.value, 'B/s')}",
            va="center",
            color=MUTED,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )


def _draw_points(axes: Axes, placed: Sequence[Result]) -> None:
    backends = list(dict.fromkeys(r.backend for r in placed))
    for result in placed:
        which = backends.index(result.backend)
        color, marker = SERIES[which % len(SERIES)], MARKERS[which % len(MARKERS)]
        point = [_intensity(result)], [result.rates.flop_s or 0.0]
        axes.plot(*point, marker, color=color, markersize=6.5, zorder=4)
    if backends:
        _legend(axes, backends)


def _label_points(axes: Axes, placed: Sequence[tuple[int, Result]], *, named: bool) -> None:
    """The number of each workload above its highest point, or higher where another label is."""
    tops: dict[int, Result] = {}
    for number, result in placed:
        best = tops.setdefault(number, result)
        if (result.rates.flop_s or 0.0) > (best.rates.flop_s or 0.0):
            tops[number] = result
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    taken: list[Any] = []
    for number, result in sorted(tops.items(), key=lambda top: -(top[1].rates.flop_s or 0.0)):
        name = f" {_short(result.workload, 28)}" if named and len(tops) <= NAMED else ""
        label = axes.annotate(
            f"{number}{name}",
            (_intensity(result), result.rates.flop_s or 0.0),
            (0, 5),
            textcoords="offset points",
            ha="center",
            zorder=5,
        )
        while any(label.get_window_extent().overlaps(box) for box in taken):
            label.xyann = (0, label.xyann[1] + 3)
        taken.append(label.get_window_extent())


# --- crossovers ---------------------------------------------------------------------------------


def crossovers(found: Sequence[Crossover], width: float) -> Figure:
    """The ratio over the size, its interval as a band, and the crossover with its own."""
    shown = [c for c in found if c.points][:MOST]
    columns = 1 if width < 6 else 3
    with style():
        figure, panels = _figure(width, 2.3, len(shown), columns)
        for axes, crossover in zip(panels, shown, strict=True):
            _draw_crossover(axes, crossover)
    return figure


def _draw_crossover(axes: Axes, found: Crossover) -> None:
    points = sorted(found.points, key=lambda p: p.size)
    sizes = [p.size for p in points]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.fill_between(
        sizes, [p.ci[0] for p in points], [p.ci[1] for p in points], color=GRID, linewidth=0
    )
    axes.plot(sizes, [p.ratio for p in points], "-o", color=SERIES[0], markersize=3.5)
    axes.axhline(1.0, color=INK, linewidth=1)
    if found.interval is not None:
        axes.axvspan(*found.interval, color=SERIES[5], alpha=0.35, linewidth=0)
    if found.size is not None:
        axes.axvline(found.size, color=SERIES[1], linewidth=1.2)
        axes.annotate(
            f"{_short(found.sweep, 16)} = {found.size:,.0f}",
            (found.size, 0.97),
            (4, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            color=SERIES[1],
        )
    name = f"{_short(found.workload, 24)} {found.dtype}"
    axes.set_title(f"{name}, {conclusions.SCENARIOS[found.scenario]}")
    axes.set_xlabel(_short(found.sweep))
    axes.set_ylabel(f"{_short(found.b, 16)} / {_short(found.a, 16)}")
    axes.spines["left"].set_visible(True)
    low, high = min(p.ci[0] for p in points), max(p.ci[1] for p in points)
    axes.set_yticks(_ratio_ticks(min(low, 0.9), max(high, 1.1)))
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    axes.grid()


# --- calibration --------------------------------------------------------------------------------


def power(found: Sequence[CalibrationRow], width: float) -> Figure:
    """For each workload, how often each injected slowdown was called slower, with intervals."""
    from scipy import stats

    injected = sorted({p.inject for row in found for p in row.power})
    shown = found[:MOST]
    with style():
        lines = _Lines(width, [f"{row.workload} {row.backend}" for row in shown])
        for number, row in enumerate(shown):
            for measured in _merged(row.power):
                which = injected.index(measured.inject)
                test = stats.binomtest(measured.slower, measured.comparisons)
                interval = test.proportion_ci(0.95, "exact")
                look = (SERIES[which % len(SERIES)], MARKERS[which % len(MARKERS)], True)
                rate = measured.slower / measured.comparisons
                lines.mark(number, 100 * rate, (100 * interval.low, 100 * interval.high), look)
        lines.axes.set_xlim(-3, 103)
        lines.axes.set_xlabel("% of comparisons called slower, by the slowdown injected")
        lines.axes.grid(axis="x")
        _legend(lines.axes, [percent(inject) if inject else "none" for inject in injected])
    return lines.figure


def _merged(found: Sequence[Power]) -> list[Power]:
    """One for each injection: the one that rests on more comparisons."""
    best: dict[float, Power] = {}
    for one in found:
        if one.comparisons > (best[one.inject].comparisons if one.inject in best else 0):
            best[one.inject] = one
    return list(best.values())


# --- history ------------------------------------------------------------------------------------


def trends(
    found: Sequence[history.Trend], steps: Sequence[Sequence[history.Step]], width: float = WIDE
) -> Figure:
    """Medians over the runs, one panel a row, with the steps that were found."""
    shown = list(zip(found, steps, strict=True))[:MOST]
    with style():
        figure, panels = _figure(width, 2.1, len(shown), 1 if width < 6 else min(2, len(shown)))
        for axes, (trend, changes) in zip(panels, shown, strict=True):
            _draw_trend(axes, trend, changes)
    return figure


def _draw_trend(axes: Axes, trend: history.Trend, changes: Sequence[history.Step]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    numbers = range(len(trend.points))
    low, high = ([point.ci[end] for point in trend.points] for end in (0, 1))
    axes.vlines(numbers, low, high, color=GRID, linewidth=2)
    axes.plot(numbers, trend.medians, "-o", color=SERIES[0], markersize=4, linewidth=1)
    for step in changes:
        axes.axvline(step.index - 0.5, color=SERIES[1], linewidth=1.2)
        axes.annotate(
            f"{step.ratio:.2f}x  {step.entry.revision}",
            (step.index - 0.5, 0.98),
            (4, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            color=SERIES[1],
        )
    axes.set_title(_short(str(trend.row), 60))
    room = 0.15 * (max(high) - min(low)) or 0.05 * max(high)
    axes.set_ylim(min(low) - room, max(high) + 2 * room)
    axes.set_xlim(-0.5, len(numbers) - 0.5)
    dates = [entry.created[:10] for entry in trend.entries]
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: dates[int(x)] if 0 <= x < len(dates) else "")
    )
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: duration(y)))
    axes.grid(axis="y")
