"""The option ``--preset``, and every workload with every candidate as a parameter."""

from __future__ import annotations

import pytest

from nnkernels.bench import harness, session


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--preset",
        choices=harness.PRESETS,
        default="quick",
        help="sizes of the workloads (default: quick)",
    )


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
