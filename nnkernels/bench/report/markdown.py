"""The report as Markdown, for the summary of a CI job or a comment on a pull request.

:func:`remarks` are what GitHub Actions shows beside the job: commands on standard output
(https://docs.github.com/actions/reference/workflow-commands-for-github-actions).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nnkernels.bench import conclusions, rows
from nnkernels.bench.report import sections
from nnkernels.bench.report.html import QUESTIONS
from nnkernels.bench.report.sections import Section, Table
from nnkernels.bench.results import Run

MOST_ROWS = 200
"""Of a table: GitHub cuts a job's summary at 1 MiB."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#&])")


def render(runs: Sequence[Run]) -> str:
    """All runs, the answers first, the machines folded away."""
    return "\n".join(line for run in runs for line in _run(run))


def _run(run: Run) -> Iterator[str]:
    first, *others = conclusions.of_run(run)
    yield f"## {QUESTIONS[run.kind]}\n"
    yield f"**{escape(first)}**\n"
    yield from (f"{escape(line)}\n" for line in others)
    yield from (f"> [!WARNING]\n> {escape(warning)}\n" for warning in sections.warnings(run))
    for section in sections.of_run(run):
        yield from _section(section)
    yield "<details><summary>Where and how it was measured</summary>\n"
    yield from _table(sections.facts(run))
    yield "</details>\n"


def _section(section: Section) -> Iterator[str]:
    yield f"### {escape(section.title)}\n"
    yield f"{escape(section.about)}\n"
    yield from _table(section.table)
    yield from (f"{escape(note)}\n" for note in section.notes)


def _table(table: Table) -> Iterator[str]:
    yield _line([column.title for column in table.columns])
    yield "|" + "|".join("--:" if c.kind == "number" else "---" for c in table.columns) + "|"
    for row in table.rows[:MOST_ROWS]:
        yield _line([cell.text for cell in row])
    if (left := len(table.rows) - MOST_ROWS) > 0:
        yield f"\n{left} more rows are in the HTML report and in the JSON."
    yield ""


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape, texts))} |"


def escape(text: str) -> str:
    """``text`` as it is, on one line, whatever Markdown or HTML it looks like."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


# --- GitHub Actions -----------------------------------------------------------------------------


def remarks(runs: Sequence[Run]) -> list[str]:
    """``::error`` for what is slower, wrong or failed; ``::warning`` for what has gone."""
    return [line for run in runs for line in (*_of_comparisons(run), *_of_results(run))]


def _of_comparisons(run: Run) -> Iterator[str]:
    for found in run.comparisons:
        name = conclusions.comparison_name(found)
        if found.verdict == "slower":
            yield _command("error", f"{name} is slower", conclusions.times_as_long(found))
        elif found.status in ("failed", "incorrect"):
            yield _command("error", f"{name}: {found.status}", found.reason or "no reason given")
        elif found.status == "gone":
            yield _command("warning", f"{name} is gone", found.reason or "no reason given")


def _of_results(run: Run) -> Iterator[str]:
    for result in run.results:
        if result.status in ("failed", "incorrect"):
            name = str(rows.row_of(run, result))
            yield _command("error", f"{name}: {result.status}", result.reason or "no reason given")


def _command(level: str, title: str, message: str) -> str:
    properties = _encoded(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={properties}::{_encoded(message)}"


def _encoded(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
