"""``nnkernels tune``."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("numba")

from nnkernels import plugins
from nnkernels.backend import Backend
from nnkernels.backends.numba.products import choice, microkernel, tuned, tuning
from nnkernels.bench import machine
from nnkernels.cli._app import run
from nnkernels.errors import BackendUnavailableError

TINY = tuning.Ladder((4096, 16384), (4,), (1,), 1, 0.0)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A configuration folder of the test's own, and ladders of two small rungs."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(machine, "warnings", lambda env: [])
    monkeypatch.setattr(tuning, "FULL", TINY)
    monkeypatch.setattr(tuning, "QUICK", tuning.Ladder((4096,), (4,), (1,), 1, 0.0))
    choice.stored.cache_clear()
    yield
    choice.stored.cache_clear()


needs_tiles = pytest.mark.skipif(
    not microkernel.vector_bits(), reason="no tiles of ours on this processor"
)


@needs_tiles
def test_limits_are_measured_shown_and_stored(capsys):
    assert run(["tune"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(re.findall(r"^float32 +[\d,]+ B +[\d.]+ +[\d.]+ +(own|BLAS) by", out, re.M)) == 2
    assert len(re.findall(r"^float64 +[\d,]+ B +[\d.]+ +[\d.]+ +(own|BLAS) by", out, re.M)) == 2
    assert str(tuned.path()) in out.replace("\n", "")
    stored = json.loads(tuned.path().read_text())
    assert set(stored["limits"]) == {"float32", "float64"}
    assert choice.own_bytes("float32")[0] == stored["limits"]["float32"]


@needs_tiles
def test_the_conclusion_follows_the_measurement(capsys, monkeypatch):
    def measure(dtype, ladder, progress):
        faster = dtype == "float32"
        seconds = [(1.0, 1.25), (1.0, 1.25), (1.0, 0.5)] if faster else [(1.0, 0.5)]
        return [
            tuning.Rung(dtype, 1000 * (i + 1), (), 1e9, *times) for i, times in enumerate(seconds)
        ]

    monkeypatch.setattr(tuning, "measure", measure)
    assert run(["tune"]) == 0
    out = capsys.readouterr().out
    assert "float32       2,000 B         1.0          0.8 own by 25%" in out
    assert "float32: own product up to a right operand of 2,000 B" in out
    assert "float64: BLAS for all products" in out
    assert tuned.read().limits == {"float32": 2000, "float64": 0}


@needs_tiles
@pytest.mark.parametrize("options", [["--dry-run"], ["--dry-run", "--quick"]])
def test_a_dry_run_stores_nothing(capsys, options):
    assert run(["tune", *options]) == 0
    assert "nothing stored" in capsys.readouterr().out
    assert not tuned.path().exists()


@needs_tiles
def test_quick_measures_less(capsys):
    assert run(["tune", "--quick", "--dry-run"]) == 0
    assert len(re.findall(r"^float32 +\d", capsys.readouterr().out, re.M)) == 1


def test_reset_forgets(capsys):
    tuned.write({"float32": 1, "float64": 1})
    assert run(["tune", "--reset"]) == 0
    assert capsys.readouterr().out.startswith("removed ")
    assert not tuned.path().exists()
    assert run(["tune", "--reset"]) == 0
    assert capsys.readouterr().out.startswith("there was nothing to forget")


@pytest.mark.parametrize("option", ["--quick", "--dry-run"])
def test_reset_measures_nothing(capsys, option):
    assert run(["tune", "--reset", option]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"drop {option}" in err


@needs_tiles
def test_what_falsifies_the_measurement_is_said(capsys, monkeypatch):
    monkeypatch.setattr(machine, "warnings", lambda env: ["a slow kernel is forced: unset it"])
    assert run(["tune", "--dry-run"]) == 0
    assert capsys.readouterr().err == "nnkernels: tune: a slow kernel is forced: unset it\n"


@needs_tiles
def test_a_folder_that_cannot_be_written(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tuned, "path", lambda: tmp_path / "file" / tuned.NAME)
    assert run(["tune"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cannot make the folder" in err


def refused(monkeypatch, capsys) -> tuple[int, str]:
    code = run(["tune"])
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return code, err


def test_without_numba_the_way_to_it_is_told(capsys, monkeypatch):
    def load(name):
        raise BackendUnavailableError("Numba is not installed; run: pip install 'nnkernels[numba]'")

    monkeypatch.setattr(plugins, "load", load)
    code, err = refused(monkeypatch, capsys)
    assert code == 3
    assert "pip install 'nnkernels[numba]'" in err


def test_without_a_compiler_there_is_nothing_to_measure(capsys, monkeypatch):
    numpy = plugins.load("numpy")
    bare = Backend("numba", numpy.device, {}, numpy.executor, fallback=numpy)
    monkeypatch.setattr(plugins, "load", lambda name: bare)
    code, err = refused(monkeypatch, capsys)
    assert code == 2
    assert "NUMBA_DISABLE_JIT" in err


def test_without_tiles_there_is_nothing_to_choose(capsys, monkeypatch):
    monkeypatch.setattr(tuning, "has_tiles", lambda: False)
    code, err = refused(monkeypatch, capsys)
    assert code == 2
    assert "nothing to tune" in err


def test_unexpected_arguments_are_usage_errors(capsys):
    assert run(["tune", "W1"]) == 2
    assert "see 'nnkernels tune --help'" in capsys.readouterr().err
