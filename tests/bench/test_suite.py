"""``pytest benchmarks/``: what it records, and who can read that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnkernels.bench import machine

ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).with_name("unsynchronised.py")


def run(*command: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def suite(*options: object) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *options)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a run over one workload, with a device's three times."""
    path = tmp_path_factory.mktemp("suite") / "run.json"
    chosen = "relu[32x64] and (numpy or waiting)"
    done = suite(f"--workloads={PLANTED}", f"--benchmark-json={path}", "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_rows_carry_cost_rates_and_the_machine(recorded: Path) -> None:
    found = {
        b["params"]["candidate"]: b
        for b in json.loads(recorded.read_text())["benchmarks"]
        if b["group"] == "relu[32x64]"
    }
    assert set(found) == {"numpy", "waiting"}
    facts = found["numpy"]["extra_info"]
    assert (facts["bytes"], facts["items"]) == (2 * 4 * 32 * 64, 32 * 64)
    median = found["numpy"]["stats"]["median"]
    assert facts["byte_s"] == pytest.approx(facts["bytes"] / median)
    assert facts["fingerprint"] == machine.fingerprint(machine.identity())
    assert facts["max_rel_err"] == 0
    assert "kernel_s" not in facts
    device = found["waiting"]["extra_info"]
    assert device["kernel_s"] > 0
    assert device["e2e_s"] > 0


def test_pytest_benchmark_compares_what_is_written(recorded: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    again.write_bytes(recorded.read_bytes())
    command = [sys.executable, "-m", "pytest_benchmark", "compare", recorded, again]
    done = run(*command, "--group-by=group", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "relu[32x64]" in done.stdout


def test_a_mistake_in_a_users_file_is_one_line(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("from nnkernels.bench.declare import workload\n\n1 / 0\n")
    done = suite(f"--workloads={own}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {own}:3: ZeroDivisionError: division by zero" in done.stderr


def test_other_settings_than_its_own_are_refused() -> None:
    done = suite("--workloads", PLANTED)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "write --workloads=FILE.py with the '='" in done.stderr
