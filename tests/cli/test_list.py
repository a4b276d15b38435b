import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnkernels import data
from nnkernels.bench import harness
from nnkernels.cli._app import run
from nnkernels.spec import OPERATORS

ROOT = Path(__file__).parents[2]


def first_words(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run(["list", *arguments]) == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_workloads_are_the_default(capsys) -> None:
    expected = [case.id for case in harness.cases("default")]
    assert first_words(capsys) == expected
    assert first_words(capsys, "workloads") == expected


def test_operators_backends_and_datasets(capsys) -> None:
    assert first_words(capsys, "operators") == sorted(OPERATORS)
    assert {"numpy", "reference"} <= set(first_words(capsys, "backends"))
    assert first_words(capsys, "datasets") == sorted(data.names())


def test_the_pytest_suite_has_the_same_workloads(capsys) -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120
    )
    ids = [line.partition("[")[2] for line in done.stdout.splitlines() if "::" in line]
    found = [identifier.rpartition("-")[0] for identifier in ids]
    assert list(dict.fromkeys(found)) == first_words(capsys, "workloads", "--preset", "quick")
