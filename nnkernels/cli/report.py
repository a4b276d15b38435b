"""``nnkernels report``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.cli._app import check_target

if TYPE_CHECKING:
    from nnkernels.bench.results import Run

DEFAULT = Path("report.html")
SUMMARY = "GITHUB_STEP_SUMMARY"


def command(
    files: Annotated[
        list[Path], typer.Argument(metavar="RUN.json...", help="Results, of any kind.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="HTML page. Default: report.html, if no other."
        ),
    ] = None,
    md: Annotated[
        Path | None, typer.Option("--md", metavar="FILE", help="Markdown; - is standard output.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="JUnit XML.")
    ] = None,
    gha_benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON for github-action-benchmark."),
    ] = None,
    pytest_benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON for 'pytest-benchmark compare'."),
    ] = None,
    github: Annotated[
        bool,
        typer.Option("--github", help="In GitHub Actions: job summary and annotations."),
    ] = False,
) -> None:
    """Turn saved results into one HTML page, or into what CI reads.

    The page needs no network and no scripts; what the runs answer stands on top. In JUnit, slower
    and incorrect are failures, failed and gone are errors. --github appends the Markdown to the
    job's summary, and prints an error annotation for each of these.

    \b
    Examples:
      nnkernels report run.json
      nnkernels report bench.json roofline.json crossover.json -o report.html
      nnkernels report ab.json --junit ab.xml --github
      nnkernels report run.json --gha-benchmark bench.json
      nnkernels report run.json --pytest-benchmark 0001_run.json
    """
    from nnkernels.bench import conclusions, results
    from nnkernels.bench.text import legible
    from nnkernels.cli._render import Bar, print_wrapped, stderr

    targets = _targets(output, md, junit, gha_benchmark, pytest_benchmark, github)
    runs = [legible(results.read(file)) for file in files]
    written = []
    with Bar(len(targets)) as bar:
        for number, (path, make) in enumerate(targets):
            bar.show(path.name, number)
            written.append((path, make(runs)))
    for path, data in written:
        _write(path, data)
    if github:
        _tell_github(runs)
    for path, _ in written:
        if path != Path("-"):
            stderr().print(f"wrote {path}", soft_wrap=True)
    if md != Path("-"):
        for run in runs:
            for line in conclusions.of_run(run):
                print_wrapped(line)


Maker = Callable[[Sequence["Run"]], bytes]


def _targets(
    output: Path | None,
    md: Path | None,
    junit: Path | None,
    gha_benchmark: Path | None,
    pytest_benchmark: Path | None,
    github: bool,
) -> list[tuple[Path, Maker]]:
    """The files asked for, checked before anything is read; a page where none is."""
    from nnkernels.errors import InputError

    others = (md, junit, gha_benchmark, pytest_benchmark)
    page = DEFAULT if output is None and not github and others == (None,) * 4 else output
    asked: list[tuple[str, Path | None, Maker]] = [
        ("-o", page, _html),
        ("--md", md, _markdown),
        ("--junit", junit, _junit),
        ("--gha-benchmark", gha_benchmark, _gha_benchmark),
        ("--pytest-benchmark", pytest_benchmark, _pytest_benchmark),
    ]
    for option, path, _ in asked:
        if (option, path) != ("--md", Path("-")):
            check_target(option, path)
    if github and not os.environ.get(SUMMARY):
        raise InputError(f"--github: {SUMMARY} is not set; this is for jobs of GitHub Actions")
    return [(path, make) for _, path, make in asked if path is not None]


def _html(runs: Sequence[Run]) -> bytes:
    from nnkernels.bench.report import html

    return html.render(runs)


def _markdown(runs: Sequence[Run]) -> bytes:
    from nnkernels.bench.report import markdown

    return markdown.render(runs).encode()


def _junit(runs: Sequence[Run]) -> bytes:
    from nnkernels.bench.report import junit

    return junit.render(runs)


def _gha_benchmark(runs: Sequence[Run]) -> bytes:
    from nnkernels.bench.report import gha_benchmark

    return gha_benchmark.render(runs)


def _pytest_benchmark(runs: Sequence[Run]) -> bytes:
    from nnkernels.bench.report import pytest_benchmark

    return pytest_benchmark.render(runs)


def _write(path: Path, data: bytes) -> None:
    from nnkernels.errors import ResultError
    from nnkernels.files import write_atomically

    if path == Path("-"):
        typer.echo(data.decode(), nl=False)
    else:
        write_atomically(path, data, error=ResultError)


def _tell_github(runs: Sequence[Run]) -> None:
    """Append to the job's summary, which earlier steps may have begun, and annotate the job."""
    from nnkernels.bench.report import markdown
    from nnkernels.errors import ResultError

    path = Path(os.environ[SUMMARY])
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(markdown.render(runs))
    except OSError as error:
        raise ResultError(
            f"cannot append to the job's summary {str(path)!r}: {error.strerror}; check the "
            f"variable {SUMMARY}"
        ) from error
    for line in markdown.remarks(runs):
        typer.echo(line)
