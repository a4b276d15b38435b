"""``nnkernels compare``, in process."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs
from msgspec.structs import replace

from nnkernels.bench import machine, results
from nnkernels.bench.gate import calibration
from nnkernels.cli._app import run


def write(folder: Path, factor: float = 1.0, count: int = 5, **fields) -> str:
    """A folder of runs with one process each, in which relu takes ``factor`` times as long."""
    folder.mkdir()
    for number in range(count):
        rows = [
            runs.result("relu", "200000", "numba", runs.times(7e-5 * factor, seed=number)),
            runs.result("matmul", "64", median=runs.times(1e-4, seed=number)),
        ]
        results.write(folder / f"{number}.json", runs.run(results=rows, **fields))
    return str(folder)


@pytest.mark.parametrize(
    ("factor", "options", "code", "verdict"),
    [
        (1.0, ["--fail-on", "slower", "--strict"], 0, "SAME"),
        (1.3, [], 0, "SLOWER"),
        (1.3, ["--fail-on", "slower"], 1, "SLOWER"),
        (0.7, ["--fail-on", "slower"], 0, "FASTER"),
    ],
)
def test_verdicts_and_exit_codes(tmp_path, capsys, factor, options, code, verdict):
    old, new = write(tmp_path / "old"), write(tmp_path / "new", factor)
    assert run(["compare", old, new, *options]) == code
    out, err = capsys.readouterr()
    assert err == ""
    (row,) = [line for line in out.splitlines() if line.startswith("relu[200000] numba")]
    assert row.split()[-1] == verdict
    assert "counts as a change: only large differences are called, and 'nnkernels ab'" in out


def test_one_process_is_unsure_and_names_the_command(tmp_path, capsys):
    old = write(tmp_path / "old", count=1)
    code = replace(runs.CODE, git_sha="a" * 40)
    new = write(tmp_path / "new", 2.0, count=1, code=code)
    arguments = ["compare", f"{old}/0.json", f"{new}/0.json"]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert "UNSURE" in out and "1 process on one side, at least 5 are needed" in out
    assert 'nnkernels ab 4f1c2ab04f aaaaaaaaaa -k "relu or matmul"' in out
    assert run([*arguments, "--strict"]) == 4


def test_a_vanished_row_is_an_incomplete_gate(tmp_path, capsys):
    old, new = write(tmp_path / "old"), tmp_path / "new.json"
    rows = [runs.result("relu", "200000", "numba", runs.times(7e-5, processes=5))]
    results.write(new, runs.run(results=rows))
    assert run(["compare", old, str(new)]) == 0
    assert run(["compare", old, str(new), "--fail-on", "slower"]) == 3
    assert "GONE" in capsys.readouterr().out


def test_unequal_machines_end_with_3_and_the_facts(tmp_path, capsys):
    other = runs.machine_of(replace(runs.IDENTITY, numpy="2.0.0"))
    old, new = write(tmp_path / "old"), write(tmp_path / "new", machine=other)
    assert run(["compare", old, new]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "numpy: 2.4.6, then 2.0.0" in err and err.count("\n") == 1


def test_the_comparison_is_written_and_readable(tmp_path, capsys):
    old, new = write(tmp_path / "old"), write(tmp_path / "new", 1.3)
    target = tmp_path / "change.json"
    assert run(["compare", old, new, "-o", str(target)]) == 0
    found = results.read(target)
    assert (found.kind, found.complete) == ("compare", True)
    assert [side.label for side in found.sides] == ["…/old", "…/new"]
    assert {c.workload: c.verdict for c in found.comparisons} == {
        "relu": "slower",
        "matmul": "same",
    }


@pytest.mark.parametrize(("here", "code"), [(True, 4), (False, 0)])
def test_the_noise_that_calibrate_kept_counts_for_files_of_this_machine(
    tmp_path, capsys, monkeypatch, here, code
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    noisy = results.CalibrationRow("relu", "numba", 0.2, [], None)
    settings = replace(runs.run().settings, threads=1)
    calibration.store(runs.run("calibrate", calibration=[noisy], settings=settings))
    place = {"machine": runs.machine_of(machine.identity())} if here else {}
    old, new = (
        write(tmp_path / name, factor, settings=settings, **place)
        for name, factor in (("old", 1.0), ("new", 1.3))
    )
    assert run(["compare", old, new, "--strict"]) == code


def test_the_noise_of_calibrate_is_read(tmp_path, capsys):
    old, new = write(tmp_path / "old"), write(tmp_path / "new", 1.3)
    calibration = tmp_path / "calibration.json"
    noisy = results.CalibrationRow("relu", "numba", 0.2, [], None)
    results.write(calibration, runs.run("calibrate", calibration=[noisy]))
    options = ["--calibration", str(calibration), "--strict"]
    assert run(["compare", old, new, *options]) == 4


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    old, new = write(tmp_path / "old"), write(tmp_path / "new", 1.3)
    assert run(["compare", old, new]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= width


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "is not a result"),
        (lambda path: path.write_text('{"schema": "nnkernels.bench/9"}'), "newer than"),
        (lambda path: (path.unlink(), path.mkdir()), "no *.json in"),
    ],
)
def test_bad_files(tmp_path, capsys, damage, message):
    old, new = write(tmp_path / "old"), tmp_path / "new.json"
    results.write(new, runs.bench())
    damage(new)
    assert run(["compare", old, str(new)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_a_target_that_cannot_be_written(tmp_path, capsys):
    old = write(tmp_path / "old")
    assert run(["compare", old, old, "-o", str(tmp_path / "no" / "x.json")]) == 2
    assert "the folder does not exist" in capsys.readouterr().err
