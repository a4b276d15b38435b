"""Tables and sentences for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.peers import busy, mnist
from benchmarks.peers.record import Ratio, Row, Target
from nnkernels.cli._render import duration


def show(console: Console, heading: str, rows: Sequence[Row]) -> None:
    """One workload: a line a candidate, columns for every number of threads; then the remarks."""
    counts = sorted({row.threads for row in rows})
    steps = next((row.drift_steps for row in rows if row.drift_steps), None)
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    table.add_column("candidate", no_wrap=True)
    table.add_column("error", justify="right")
    if steps:
        table.add_column(f"after {steps}", justify="right")
    for count in counts:
        table.add_column(f"{_threads(count)}: first", justify="right")
        table.add_column("a step", justify="right")
        table.add_column("+-", justify="right")
    for title in dict.fromkeys(row.title for row in rows):
        own = {row.threads: row for row in rows if row.title == title}
        table.add_row(title, *_errors(own, drift=bool(steps)), *_times(own, counts))
    console.print(table)
    for remark in dict.fromkeys(_remarks(rows)):
        console.print(f"  {remark}", soft_wrap=True)
    console.print()


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _errors(own: dict[int, Row], *, drift: bool) -> list[str]:
    """The largest over the numbers of threads."""
    judged = [row for row in own.values() if row.status in ("ok", "wrong")]
    errors = [_error(max((row.error for row in judged), key=_size)) if judged else "-"]
    if drift:
        later = [row.drift for row in judged if row.drift_steps]
        errors.append(_error(max(later, key=_size)) if later else "-")
    return errors


def _size(error: float | None) -> float:
    return float("inf") if error is None else error


def _error(error: float | None) -> str:
    return "nan" if error is None else f"{error:.0e}"


def _times(own: dict[int, Row], counts: Sequence[int]) -> list[str]:
    cells = []
    for count in counts:
        row = own.get(count)
        if row is None or not row.samples:
            cells += [row.status.upper() if row else "-", "", ""]
            continue
        mark = "" if row.status == "ok" else f" {row.status.upper()}"
        first = "-" if row.first_s is None else duration(row.first_s)
        cells += [first, duration(row.median) + mark, f"{100 * row.spread:.0f} %"]
    return cells


def _remarks(rows: Sequence[Row]) -> list[str]:
    reasons = [f"{row.title}: {row.status}, {row.reason}" for row in rows if row.reason]
    return reasons + [f"{row.title}: {row.note}" for row in rows if row.note and row.samples]


def show_ratios(console: Console, ratios: Sequence[Ratio]) -> None:
    """The answer: how many times as fast as the best stock peer."""
    table = Table(title="Best stock peer's time / ours", title_justify="left", box=None)
    for column in ("workload", "batches", "threads", "ours", "best stock peer"):
        table.add_column(column, justify="right" if column == "threads" else "left")
    table.add_column("ratio", justify="right")
    for r in ratios:
        best = f"{r.best} ({_threads(r.best_threads)})"
        table.add_row(r.workload, r.table, str(r.threads), r.title, best, f"{r.ratio:.2f}")
    console.print(table)


def show_slowdowns(console: Console, found: Sequence[tuple[Row, Row, float]]) -> None:
    """What a busy neighbour costs those who use more threads."""
    for few, many, ratio in found:
        verdict = "within" if ratio <= busy.TARGET else "above"
        console.print(
            f"{many.workload}, {many.title}: beside a busy process, {_threads(many.threads)} take "
            f"{ratio:.2f} times as long as {_threads(few.threads)} ({verdict} {busy.TARGET})",
            soft_wrap=True,
        )


def show_targets(console: Console, targets: Sequence[Target]) -> None:
    """Seconds to the test accuracy, by candidate."""
    best = mnist.best_peer(targets)
    heading = f"MNIST to {100 * mnist.TARGET:.0f} % of the test set, seconds of training"
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    table.add_column("candidate", no_wrap=True)
    for column in ("threads", "first", "seconds", "epochs", "accuracy", "of best peer"):
        table.add_column(column, justify="right")
    for target in targets:
        table.add_row(target.title, str(target.threads), *_target_cells(target, best))
    console.print(table)
    for target in targets:
        if target.reason:
            console.print(f"  {target.title}: {target.status}, {target.reason}", soft_wrap=True)


def _target_cells(target: Target, best: tuple[str, float] | None) -> list[str]:
    if target.status != "ok":
        return ["", target.status.upper(), "", "", ""]
    seconds = mnist.seconds(target)
    epochs = " ".join("-" if e is None else str(e) for e in target.epochs)
    shares = " ".join(f"{100 * a:.1f} %" for a in target.accuracy)
    ratio = f"{seconds / best[1]:.2f}" if seconds is not None and best else "-"
    reached = f"{seconds:.2f}" if seconds is not None else "not reached"
    first = duration(target.first_s) if target.first_s else "-"
    return [first, reached, epochs, shares, ratio]
