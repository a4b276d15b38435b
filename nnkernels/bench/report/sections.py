"""What a report shows of a run: tables, each with the chart that shows the same, or without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from nnkernels.bench import conclusions, machine, rows
from nnkernels.bench.report import figures
from nnkernels.bench.results import Blas, Code, Comparison, Crossover, Power, Result, Run, Times
from nnkernels.bench.roofline import LAUNCHES
from nnkernels.bench.statistics import half_width
from nnkernels.bench.text import amount, counted, digits, duration, percent, quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tone = Literal["", "slower", "faster", "same", "unsure", "bad", "muted"]
DASH = "–"  # noqa: RUF001  # typography: what was not measured


class Cell(NamedTuple):
    """A field of a table; what ``tone`` colours, the text says too."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: numbers, words that stay on a line, or prose that may be broken."""

    title: str
    kind: Literal["number", "word", "prose"] = "number"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells by row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def without_empty(self) -> Table:
        """Without the columns in which nothing was measured."""
        kept = [
            number
            for number in range(len(self.columns))
            if any(row[number].text not in ("", DASH) for row in self.rows)
        ]
        return Table([self.columns[n] for n in kept], [[row[n] for n in kept] for row in self.rows])


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a run's report.

    Attributes:
        title: its heading.
        about: what is shown, in a sentence or two.
        table: all of it.
        draw: the same as a figure of the given width in inches; None where there is nothing to see.
        notes: remarks below the table.
    """

    title: str
    about: str
    table: Table
    draw: Callable[[float], Figure] | None = None
    notes: Sequence[str] = field(default=())


def of_run(run: Run) -> list[Section]:
    """The sections of a run, whatever its kind."""
    makers = (_comparisons, _crossovers, _calibration, _results, _roofline)
    return [section for make in makers for section in make(run)]


def warnings(run: Run) -> list[str]:
    """What makes the figures of a run less sure, each once."""
    found = [*run.warnings, *machine.warnings(run.machine.env), *_contended(run)]
    return list(dict.fromkeys(found))


def _contended(run: Run) -> list[str]:
    every = [times for result in run.results for _, times in rows.times_of(result)]
    contended = sum(times.contended for times in every)
    if not contended:
        return []
    samples = sum(len(times.samples) for times in every)
    return [
        f"Other processes interrupted {contended} of {samples} samples; without them the figures "
        "are steadier."
    ]


def facts(run: Run) -> Table:
    """The machine, the code and the settings, by name."""
    identity, volatile, settings = run.machine.identity, run.machine.volatile, run.settings
    found: dict[str, str] = {
        "measured": f"{run.created}, in {duration(run.duration_s)}",
        "command": " ".join(["nnkernels", *run.argv]),
        "code": _revision(run.code),
        "fingerprint": run.machine.fingerprint[:16],
        "CPU": f"{identity.cpu}, {identity.arch}, {identity.cores_usable} usable",
        "vectors": " ".join(identity.isa),
        "memory": f"{identity.mem_bytes / 2**30:.1f} GiB",
        "system": f"{identity.os}{f' ({identity.virt})' if identity.virt else ''}",
        "BLAS": _blas(identity.blas),
        **{f"GPU {n}": gpu.name for n, gpu in enumerate(identity.gpus)},
        "versions": ", ".join(
            f"{name} {version}"
            for name in ("python", "numpy", "numba", "cupy")
            if (version := getattr(identity, name))
        ),
        "load": f"{_load(volatile.load_start)} at the start, {_load(volatile.load_end)} at the end",
        "stolen": f"{volatile.steal_pct:g} % of the CPU time" if volatile.steal_pct else "",
        "threads": str(settings.threads or "as each candidate likes"),
        "caches": settings.cache,
        "environment": " ".join(f"{k}={v}" for k, v in run.machine.env.items()),
    }
    cells = [[Cell(name), Cell(text)] for name, text in found.items() if text]
    return Table([Column("fact", "word"), Column("value", "prose")], cells)


def _load(averages: Sequence[float]) -> str:
    return f"{averages[0]:g}" if averages else "unknown"


def _blas(found: Blas | None) -> str:
    if found is None:
        return "not recognised"
    threads = counted(found.threads, "thread")
    return f"{found.vendor} {found.version or ''}, kernel {found.kernel or 'unknown'}, {threads}"


def _revision(code: Code) -> str:
    state = ", with changes" if code.dirty else ""
    return f"nnkernels {code.version}{f' ({code.git_sha[:12]}{state})' if code.git_sha else ''}"


# --- results ------------------------------------------------------------------------------------


def _results(run: Run) -> Iterator[Section]:
    if not run.results:
        return
    base = _base(run)
    columns = [
        Column("workload", "word"),
        Column("candidate", "word"),
        Column("time"),
        Column("± 95 %"),
        Column(f"vs {base}"),
        Column("FLOP/s"),
        Column("B/s"),
        Column("items/s"),
        Column("of limit"),
        Column("samples"),
        Column("largest error"),
        Column("remarks", "prose"),
    ]
    cells = [row for result in run.results for row in _result_rows(run, result, base)]
    times = rows.cases(run)
    names = list(dict.fromkeys(n for found in times.values() for n in found if n != base))
    compared = any(base in found and len(found) > 1 for found in times.values())
    yield Section(
        "Times",
        "Medians of seconds a call, with the 95 % interval of the median. Every candidate was "
        "compared with a float64 reference first; one that disagreed was not timed.",
        Table(columns, cells).without_empty(),
        partial(figures.speeds, times, base, names) if compared else None,
        _cut(len(times)),
    )


def _base(run: Run) -> str:
    """What the others are compared with: numpy, or who comes first."""
    names = [r.backend for r in run.results if r.times.call is not None]
    return "numpy" if "numpy" in names or not names else names[0]


def _cut(count: int) -> list[str]:
    """A remark where a chart shows a part only."""
    most = figures.MOST
    return [f"The chart shows the first {most} of {count}; the table has all."] * (count > most)


def _result_rows(run: Run, result: Result, base: str) -> Iterator[list[Cell]]:
    case = rows.case_name(result.workload, rows.size_of(result))
    name = f"{case} {result.dtype}"
    times = list(rows.times_of(result))
    if result.status in ("failed", "incorrect"):
        text = f"{result.status.upper()}: {result.reason or 'unknown'}"
        yield [Cell(name), Cell(result.backend), *[Cell(DASH)] * 9, Cell(text, "bad")]
    for kind, found in times:
        yield [
            Cell(name),
            Cell(_candidate(run, result, kind)),
            *_time_cells(found, _against(run, result, base) if kind == "call" else None),
            *(_rate_cells(result) if kind == "call" else [Cell(DASH)] * 4),
            Cell(str(len(found.samples))),
            Cell(_error(result)),
            Cell(result.reason or ""),
        ]


def _candidate(run: Run, result: Result, kind: rows.Kind) -> str:
    threads = rows.row_of(run, result).threads
    words = [result.backend, *([f"({counted(threads, 'thread')})"] if threads else [])]
    graph = " as one graph" if kind == "kernel" and result.times.graph else ""
    return " ".join([*words, *([] if kind == "call" else [f"{kind} time{graph}"])])


def _against(run: Run, result: Result, base: str) -> Times | None:
    """The base's time for the same work."""
    same = rows.row_of(run, result)._replace(backend=base)[:4]
    return next((r.times.call for r in run.results if rows.row_of(run, r)[:4] == same), None)


def _time_cells(found: Times, base: Times | None) -> list[Cell]:
    return [
        Cell(duration(found.median)),
        Cell(percent(half_width(found.ci, found.median))),
        Cell(f"{digits(base.median / found.median)}×" if base else DASH),  # noqa: RUF001
    ]


def _rate_cells(result: Result) -> list[Cell]:
    rates = result.rates
    limit = "launch-bound" if rates.bound == LAUNCHES else DASH
    if rates.pct_peak is not None:
        limit = f"{percent(rates.pct_peak)} {rates.bound or ''}"
    return [
        _rate(rates.flop_s, "FLOP/s"),
        _rate(rates.byte_s, "B/s"),
        _rate(rates.item_s, "/s"),
        Cell(limit.strip()),
    ]


def _rate(value: float | None, unit: str) -> Cell:
    return Cell(quantity(value, unit) if value else DASH)


def _error(result: Result) -> str:
    found = result.correctness
    if found is None or found.max_rel_err is None:
        return DASH
    if found.max_rel_err == 0:
        return "none"
    return f"{found.max_rel_err:.1e} of {found.tol:.0e}"


# --- comparisons --------------------------------------------------------------------------------

WORDS: Mapping[str, str] = {"new": "new", "gone": "gone", "failed": "failed", "incorrect": "wrong"}


def _comparisons(run: Run) -> Iterator[Section]:
    found = run.comparisons
    if not found:
        return
    columns = [
        Column("workload", "word"),
        Column("verdict", "word"),
        Column(f"A: {found[0].a}"),
        Column(f"B: {found[0].b}"),
        Column("B / A"),
        Column("interval"),
        Column("p"),
        Column("restarts"),
        Column("could see"),
        Column("remarks", "prose"),
    ]
    drawn = [c for c in found if c.ratio is not None and c.verdict is not None]
    paired = run.kind != "compare"
    how = (
        "Both sides ran in turns on the same CPUs; a restart of both is one observation. "
        "Confirmed: by fresh restarts, too."
        if paired
        else conclusions.UNPAIRED
    )
    yield Section(
        "Comparison",
        f"Time of B over time of A. {how}",
        Table(columns, [_comparison_row(c) for c in found]).without_empty(),
        partial(figures.forest, drawn) if drawn else None,
        [*_cut(len(drawn)), *_sides(run)],
    )


def _comparison_row(found: Comparison) -> list[Cell]:
    verdict: Tone = found.verdict or "bad"
    p = found.p_holm if found.p_holm is not None else found.p
    interval = DASH if found.ci_low is None else f"{found.ci_low:.3f} to {found.ci_high:.3f}"
    more = f"about {found.more_restarts} more restarts would tell" if found.more_restarts else ""
    return [
        Cell(f"{conclusions.comparison_name(found)} {found.dtype}"),
        Cell(MARKS[found.verdict] if found.verdict else WORDS[found.status].upper(), verdict),
        Cell(DASH if found.a_s is None else duration(found.a_s)),
        Cell(DASH if found.b_s is None else duration(found.b_s)),
        Cell(DASH if found.ratio is None else f"{found.ratio:.3f}"),
        Cell(interval),
        Cell(DASH if p is None else f"{p:.2g}"),
        Cell(str(len(found.restarts)) if found.restarts else DASH),
        Cell(DASH if found.min_detectable is None else percent(found.min_detectable)),
        Cell("; ".join(filter(None, [found.reason, _stage(found), more]))),
    ]


MARKS: Mapping[str, str] = {
    "slower": "▲ SLOWER",
    "faster": "▼ FASTER",
    "same": "= SAME",
    "unsure": "? UNSURE",
}


def _stage(found: Comparison) -> str:
    return "confirmed" if found.stage == "confirm" else ""


def _sides(run: Run) -> list[str]:
    lines = []
    for letter, side in zip("AB", run.sides, strict=False):
        versions = ", ".join(f"{name} {v}" for name, v in side.versions.items() if v)
        sha = side.code.git_sha
        commit = f", commit {sha[:12]}{' with changes' if side.code.dirty else ''}" if sha else ""
        lines.append(
            f"{letter} is {side.label}: nnkernels {side.code.version}{commit}; {versions}."
        )
    return lines


# --- crossovers ---------------------------------------------------------------------------------


def _crossovers(run: Run) -> Iterator[Section]:
    found = run.crossovers
    if not found:
        return
    columns = [
        Column("workload", "word"),
        Column("data", "word"),
        Column("from", "word"),
        Column("to", "word"),
        Column("answer", "prose"),
        Column("size"),
        Column("between"),
    ]
    drawn = [c for c in found if c.points]
    yield Section(
        "Crossovers",
        "From which size the second candidate is faster. Where the curve is below 1, it is.",
        Table(columns, [_crossover_row(c) for c in found]).without_empty(),
        partial(figures.crossovers, drawn) if drawn else None,
        _cut(len(drawn)),
    )
    if drawn:
        yield Section(
            "Crossovers, point by point", "What the curves are drawn from.", _points(drawn)
        )


def _crossover_row(found: Crossover) -> list[Cell]:
    answer = found.verdict if found.reason is None else f"{found.verdict}: {found.reason}"
    tone: Tone = "unsure" if found.verdict == "unclear" else ""
    interval = found.interval
    return [
        Cell(f"{found.workload} {found.dtype}"),
        Cell(conclusions.SCENARIOS[found.scenario]),
        Cell(found.a),
        Cell(found.b),
        Cell(answer, tone),
        Cell(DASH if found.size is None else f"{found.sweep} = {found.size:,.0f}"),
        Cell(DASH if interval is None else f"{interval[0]:,.0f} and {interval[1]:,.0f}"),
    ]


def _points(found: Sequence[Crossover]) -> Table:
    titles = ("workload", "data", "candidates")
    columns = [
        *(Column(title, "word") for title in titles),
        *map(Column, ("size", "items", "first", "second", "ratio", "95 % of ratio")),
    ]
    cells = [
        [
            Cell(f"{c.workload} {c.dtype}"),
            Cell(conclusions.SCENARIOS[c.scenario]),
            Cell(f"{c.a}, {c.b}"),
            Cell(f"{c.sweep} = {p.size:,}"),
            Cell(f"{p.items:,}"),
            Cell(duration(p.a_s)),
            Cell(duration(p.b_s)),
            Cell(digits(p.ratio)),
            Cell(f"{digits(p.ci[0])} to {digits(p.ci[1])}"),
        ]
        for c in found
        for p in sorted(c.points, key=lambda p: p.size)
    ]
    return Table(columns, cells)


# --- roofline -----------------------------------------------------------------------------------


def _roofline(run: Run) -> Iterator[Section]:
    if not run.ceilings:
        return
    for device in dict.fromkeys(ceiling.device for ceiling in run.ceilings):
        yield from _device_roofline(run, device)
    titles = ("limit", "dtype", "memory")
    columns = [
        *(Column(title, "word") for title in titles),
        Column("threads"),
        Column("measured"),
        Column("how", "prose"),
    ]
    cells = [
        [
            Cell(f"{c.device} {c.what}"),
            Cell(c.dtype or DASH),
            Cell(c.level or DASH),
            Cell(str(c.threads or DASH)),
            Cell(amount(c.value, c.unit)),
            Cell("; ".join(filter(None, [c.method, c.convention, _array(c.array_bytes)]))),
        ]
        for c in run.ceilings
    ]
    yield Section(
        "Measured limits",
        "Ceilings are measured on this machine in the settings of the workloads; data sheets are "
        "not used.",
        Table(columns, cells).without_empty(),
    )


def _array(nbytes: int | None) -> str:
    return "" if nbytes is None else f"arrays of {quantity(nbytes, 'B')}"


def _device_roofline(run: Run, device: str) -> Iterator[Section]:
    results = [r for r in run.results if (r.device or "cpu") == device]
    placed = figures.numbered(results)
    ceilings = [c for c in run.ceilings if c.device == device]
    cells = [
        [
            Cell(str(number)),
            Cell(rows.case_name(r.workload, rows.size_of(r))),
            Cell(r.backend),
            Cell(digits(r.cost.flop / r.cost.bytes)),
            _rate(r.rates.flop_s, "FLOP/s"),
            Cell(percent(r.rates.pct_peak) if r.rates.pct_peak is not None else DASH),
            Cell(r.rates.bound or DASH),
        ]
        for number, r in placed
    ]
    columns = [
        Column("number", "word"),
        Column("workload", "word"),
        Column("candidate", "word"),
        Column("FLOP/B"),
        Column("rate"),
        Column("of limit"),
        Column("limit", "word"),
    ]
    if placed:
        yield Section(
            f"Roofline, {device}",
            "Rates under the measured limits: a point on a line is as fast as this machine can be.",
            Table(columns, cells),
            partial(figures.roofline, ceilings, results),
        )


# --- calibration --------------------------------------------------------------------------------


def _calibration(run: Run) -> Iterator[Section]:
    found = run.calibration
    if not found:
        return
    kinds = sorted({(p.inject, p.method) for row in found for p in row.power})
    columns = [
        Column("workload", "word"),
        Column("restarts differ by"),
        *(Column(f"{percent(i) if i else 'none'}, {method}") for i, method in kinds),
        Column("restarts advised"),
    ]
    cells = []
    for row in found:
        powers = {(p.inject, p.method): p for p in row.power}
        called = [_called(powers.get(kind)) for kind in kinds]
        advised = Cell(str(row.restarts or DASH))
        name = Cell(f"{row.workload} {row.backend}")
        cells.append([name, Cell(percent(row.spread)), *called, advised])
    yield Section(
        "Calibration",
        "How many comparisons were called slower, by the slowdown injected; with none injected, "
        "slower and faster are both false alarms.",
        Table(columns, cells),
        partial(figures.power, found) if any(row.power for row in found) else None,
        _cut(len(found)),
    )


def _called(power: Power | None) -> Cell:
    if power is None:
        return Cell(DASH)
    called = power.slower + (0 if power.inject else power.faster)
    return Cell(f"{called} of {power.comparisons}")
