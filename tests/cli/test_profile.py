"""``nnkernels profile``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from nnkernels.bench import profiling
from nnkernels.cli._app import run
from nnkernels.nn import MLP, Trainer, save_model

FAST = ["--steps", "1", "-b", "numpy"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One round, and a peak that is not measured."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(profiling.profile, "__kwdefaults__", {**DEFAULTS, "rounds": 1})
    monkeypatch.setattr(profiling, "peak", lambda dtype: profiling.Peak(1e9, f"a test of {dtype}"))


DEFAULTS = profiling.profile.__kwdefaults__


def lines(out: str) -> list[tuple[str, str]]:
    """Label and operator of every line of the table."""
    return re.findall(r"^(\w+) +(\w+)(?: \w+)*? +[\d.]+ [mun]?s +[\d.]+%", out, re.MULTILINE)


def test_a_model_is_profiled_instruction_by_instruction(capsys):
    assert run(["profile", "5-4-3", *FAST]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    title = "a training step of 5-4-3, batch 32, float32, on numpy(threads=1), interpreter, best of"
    assert out.startswith(title)
    found = lines(out)
    assert ("linear0", "linear") in found
    assert ("activation1", "relu_backward") in found
    assert ("update", "sgd") in found
    for word in ("all instructions", "without clocks", "of the peak", "the clocks cost", "Most of"):
        assert word in out
    assert "by a test of float32" in out


def test_shares_add_up_to_the_whole(capsys):
    assert run(["profile", "5-4-3", *FAST]) == 0
    shares = re.findall(r" ([\d.]+)% ", capsys.readouterr().out.partition("all instr")[0])
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.05 * len(shares) + 0.1)


def test_options_choose_the_step(capsys):
    options = ["--activation", "tanh", "--optimizer", "adam", "--loss", "mse", "--batch", "7"]
    assert run(["profile", "5-4-3", *options, "--dtype", "float64", *FAST]) == 0
    out = capsys.readouterr().out
    assert "batch 7, float64" in out
    assert {"tanh", "adam", "mse"} <= {op for _, op in lines(out)}


def test_a_saved_training_is_profiled_with_its_own_step(capsys, tmp_path):
    path = tmp_path / "trained.safetensors"
    trainer = Trainer(MLP([4, 3, 2]), "momentum", clip_norm=0.5)
    x = np.random.default_rng(0).normal(size=(12, 4))
    trainer.fit(x, np.arange(12) % 2, batch_size=5, shuffle=False, progress=False)
    trainer.save(path)
    assert run(["profile", str(path), *FAST]) == 0
    out = capsys.readouterr().out
    operators = {op for _, op in lines(out)}
    assert "batch 5," in out
    assert {"momentum", "clip_by_global_norm"} <= operators
    assert "gather_rows" not in operators


def test_a_workload_brings_its_own_step(capsys):
    assert run(["profile", "--workload", "W4", *FAST]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a training step of W4 (20-64-64-1-b256), batch 256, float32")
    assert {"tanh", "mse", "adam"} <= {op for _, op in lines(out)}


def test_the_profile_is_written_as_json(capsys, tmp_path):
    path = tmp_path / "profile.json"
    assert run(["profile", "5-4-3", *FAST, "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert (written["format"], written["steps"], written["rounds"]) == (1, 1, 1)
    assert [row["op"] for row in written["rows"]] == [
        op for _, op in lines(capsys.readouterr().out)
    ]
    assert set(written["rows"][0]) == {"label", "op", "part", "seconds", "flop", "bytes"}
    assert written["peak"] == {"rate": 1e9, "by": "a test of float32"}


def test_compiled_epochs_are_told_by_parts(capsys):
    pytest.importorskip("numba")
    assert run(["profile", "5-4-3", "--steps", "1", "-b", "numba"]) == 0
    out = capsys.readouterr().out
    assert ", compiled epoch, " in out
    assert re.search(r"^linear2 +linear_backward grad_x by (own|BLAS) ", out, re.MULTILINE)


def test_lines_fit_into_80_columns(capsys, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["profile", "5-4-3", "--steps", "1", "-b", "numba"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give sizes like 784-64-10"),
        (["rleu"], "Did you mean 'relu'?"),
        (["relu"], "A network is given by its sizes"),
        (["4-0"], "must be a whole number from 1"),
        (["784--10"], "profile: sizes are written like 784-64-10"),
        (["nowhere.safetensors"], "no such file"),
        (["4-3", "--batch", "0"], "Invalid value for '--batch'"),
        (["4-3", "--steps", "0"], "Invalid value for '--steps'"),
        (["4-3", "--loss", "msee"], "Did you mean 'mse'?"),
        (["4-3", "--activation", "rleu"], "unknown activation"),
        (["4-3", "--optimizer", "adm"], "Did you mean 'adam'?"),
        (["4-3", "--dtype", "float16"], "Invalid value for '--dtype'"),
        (["4-3", "-b", "nunpy"], "Did you mean 'numpy'?"),
        (["4-3", "-b", "numpy(threads=2)"], "drop threads=2"),
        (["4-3", "--json", "nowhere/x.json"], "the folder does not exist"),
        (["--workload", "W9"], "Known: W1, W2, W3, W4"),
        (["4-3", "--workload", "W1"], "drop MODEL"),
        (["--workload", "W1", "--batch", "3"], "drop --batch"),
        (["--workload", "W1", "--loss", "mse"], "drop --loss"),
        (["{model}", "--activation", "relu"], "drop --activation"),
        (["{model}", "--dtype", "float32"], "drop --dtype"),
        (["{nan}"], "not finite on random data"),
    ],
)
def test_bad_arguments_are_one_line(capsys, tmp_path, arguments, message):
    model = tmp_path / "model.safetensors"
    save_model(MLP([4, 2]), model)
    large = MLP([4, 3, 2])
    large.set_parameters({n: np.full_like(a, 3e38) for n, a in large.parameters.items()})
    save_model(large, tmp_path / "large.safetensors")
    names = {"model": model, "nan": tmp_path / "large.safetensors"}
    assert run(["profile", *(a.format(**names) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_full_disk_is_an_error_without_traceback(capsys):
    if not (sys.platform == "linux" and Path("/dev/full").exists()):
        pytest.skip("no /dev/full")
    assert run(["profile", "4-3", *FAST, "--json", "/dev/full"]) == 2
    assert "not a regular file" in capsys.readouterr().err
