"""``nnkernels reproduce``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import nnkernels.reproduce
from nnkernels.cli import _render
from nnkernels.cli._app import run
from nnkernels.reproduce import Figure, Section


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No MNIST, and a terminal of 80 columns."""
    monkeypatch.delenv("NNKERNELS_MNIST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")


def test_all_figures_are_shown_beside_ours(capsys):
    assert run(["reproduce", "--backend", "numpy"]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("numpy: 30 of 30 figures reproduced.")
    assert out.count(" ok") == 30
    assert (out.count("skipped MNIST network"), out.count("skipped")) == (2, 2)
    assert (err, "\x1b" in out) == ("", False)
    tables = [line for line in out.splitlines() if "--mnist DIR" not in line]
    assert max(map(len, tables)) <= 80


def test_one_dtype_can_be_chosen(capsys):
    assert run(["reproduce", "-b", "numpy", "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.count("skipped MNIST network") == 1


def test_a_miss_fails_and_is_named_at_the_end(capsys, monkeypatch):
    good = Figure("the loss", "1.5", "1.5", 0.0, "0.1", True)
    bad = dataclasses.replace(good, name="the weight", ours="2", difference=0.5, ok=False)
    section = Section("Some network", "Some book", (good, bad))
    monkeypatch.setattr(nnkernels.reproduce, "reproduce", lambda *_, **__: iter([section]))
    assert run(["reproduce"]) == 1
    out = capsys.readouterr().out
    assert "MISS Some network: the weight\n" in out
    assert "1 of 2 figures reproduced" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--full"], "NNKERNELS_MNIST=DIR"),
        (["--mnist", "nowhere"], "no such folder as 'nowhere'"),
        (["--dtype", "float16"], "Invalid value for '--dtype'"),
        (["-b", "nunpy"], "Did you mean 'numpy'?"),
    ],
)
def test_bad_arguments_are_one_line(capsys, arguments, message):
    assert run(["reproduce", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_long_section_reports_how_far_it_is(capsys, monkeypatch):
    shown = []

    class Recorder(_render.Bar):
        def show(self, description: str, done: float, total: float | None = None) -> None:
            shown.append((description, done, total))
            super().show(description, done, total)

    def slow(*_, progress, **__):
        progress(0.5, 3, "epoch 0")
        progress(2.9, 3, "epoch 2")
        yield Section("Some network", "Some book", ())

    monkeypatch.setattr(_render, "Bar", Recorder)
    monkeypatch.setattr(nnkernels.reproduce, "reproduce", slow)
    assert run(["reproduce"]) == 0
    assert shown == [("epoch 0", 0.5, 3), ("epoch 2", 2.9, 3)]
    assert capsys.readouterr().err == ""
