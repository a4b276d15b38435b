"""Options for sizes and a user's own workloads; every workload and candidate as a parameter."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnkernels.bench import harness, session
from nnkernels.errors import InputError

SETTINGS = Path(__file__).with_name("pytest.ini")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--preset",
        choices=harness.PRESETS,
        default="quick",
        help="sizes of the workloads (default: quick)",
    )
    parser.addoption(
        "--workloads",
        action="append",
        default=[],
        metavar="FILE.py",
        help="workloads and backends of your own; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add a user's workloads, so that a mistake in the file ends the run with one line."""
    if config.inipath != SETTINGS:
        raise pytest.UsageError(
            "benchmarks/ is measured with its own pytest.ini: give pytest no other path, and write "
            "--workloads=FILE.py with the '='"
        )
    try:
        for path in config.getoption("--workloads"):
            harness.add(path)
    except InputError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "candidate" not in metafunc.fixturenames:
        return
    backends, _ = session.choose_backends([])
    pairs = [
        pytest.param(case, name, id=f"{case.id}-{name}")
        for case in harness.cases(metafunc.config.getoption("--preset"))
        for name in (*backends, *case.baselines)
    ]
    metafunc.parametrize("case,candidate", pairs)
