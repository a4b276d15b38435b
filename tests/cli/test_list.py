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
    lines = capsys.readouterr().out.splitlines()
    return [line.split()[0] for line in lines if not line.startswith(" ")]


def test_workloads_are_the_default(capsys) -> None:
    expected = [case.id for case in harness.cases("default")]
    assert first_words(capsys) == expected
    assert first_words(capsys, "workloads") == expected


def test_operators_backends_and_datasets(capsys) -> None:
    assert first_words(capsys, "operators") == sorted(OPERATORS)
    assert {"numpy", "reference"} <= set(first_words(capsys, "backends"))
    assert first_words(capsys, "datasets") == sorted(data.names())


@pytest.mark.parametrize("what", ["workloads", "operators", "backends"])
def test_long_lines_are_continued_on_a_terminal_and_whole_in_a_pipe(
    capsys, monkeypatch, what
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run(["list", what]) == 0
    whole = capsys.readouterr().out
    assert not any(line.startswith(" ") for line in whole.splitlines())
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["list", what]) == 0
    wrapped = capsys.readouterr().out
    assert max(map(len, wrapped.splitlines())) <= 80
    assert wrapped.split() == whole.split()


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
