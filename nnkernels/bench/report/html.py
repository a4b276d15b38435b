"""The report as one HTML file: no scripts, no requests, readable on a wide and a narrow screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nnkernels.bench import conclusions
from nnkernels.bench.report import figures, sections, svg
from nnkernels.bench.report.sections import Section, Table
from nnkernels.bench.results import Run
from nnkernels.errors import InputError, missing_extra

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_BYTES = 2_000_000

QUESTIONS: Mapping[str, str] = {
    "bench": "Which backend is fastest?",
    "peers": "How do other libraries compare?",
    "ab": "Did it get slower?",
    "compare": "Did it get slower?",
    "crossover": "From which size does it pay?",
    "roofline": "How close to the machine's limits?",
    "calibrate": "Can the gate be trusted?",
}
"""What a run of each kind was made to answer."""


class Chart(NamedTuple):
    """The same figure, drawn for both widths of a page."""

    wide: str
    narrow: str


class Part(NamedTuple):
    """A section, with its chart as markup."""

    section: Section
    chart: Chart | None


class Page(NamedTuple):
    """What the template shows of a run."""

    anchor: str
    run: Run
    question: str
    answers: Sequence[str]
    parts: Sequence[Part]
    warnings: Sequence[str]
    facts: Table


def render(runs: Sequence[Run]) -> bytes:
    """The page of one or several runs.

    Raises:
        InputError: it would be larger than 2 MB.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    template = _environment().get_template("report.html.j2")
    pages = [_page(run, f"run{number}") for number, run in enumerate(runs, 1)]
    data = template.render(pages=pages).encode()
    if len(data) > MOST_BYTES:
        raise InputError(
            f"report: the page would have {len(data) / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.0f} "
            "are written; report fewer runs at once, or runs of fewer workloads (-k)"
        )
    return data


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise missing_extra("the HTML report", "jinja2", "report") from None
    return Environment(
        loader=PackageLoader("nnkernels.bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(run: Run, anchor: str) -> Page:
    parts = [
        Part(section, _chart(section, f"{anchor}-{number}-"))
        for number, section in enumerate(sections.of_run(run), 1)
    ]
    return Page(
        anchor=anchor,
        run=run,
        question=QUESTIONS[run.kind],
        answers=conclusions.of_run(run),
        parts=parts,
        warnings=sections.warnings(run),
        facts=sections.facts(run),
    )


def _chart(section: Section, prefix: str) -> Chart | None:
    if section.draw is None:
        return None
    return Chart(
        _markup(section.draw(figures.WIDE), f"{prefix}w-"),
        _markup(section.draw(figures.NARROW), f"{prefix}n-"),
    )


def _markup(figure: Any, prefix: str) -> str:
    from markupsafe import Markup

    return Markup(svg.inline(figure, prefix))
