"""``nnkernels warmup``."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("numba")


from nnkernels import plugins
from nnkernels.backend import Backend
from nnkernels.backends._compiled.epochs.plan import make_plan
from nnkernels.backends.numba import inventory
from nnkernels.backends.numba.compiling import linking
from nnkernels.backends.numba.compiling.object_cache import CacheWarning, ObjectCache
from nnkernels.cli import warmup
from nnkernels.cli._app import run
from nnkernels.errors import BackendUnavailableError
from nnkernels.nn import MLP, Trainer, save_model
from nnkernels.nn.layers import activation_names
from nnkernels.nn.losses import loss_names
from nnkernels.nn.optimizers import OPTIMIZERS
from nnkernels.program import specialise
from nnkernels.spec import get_op

ROOT = Path(__file__).parents[2]
NUMBA = plugins.load("numba")


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Nothing is compiled: what is to be is noted, and takes one second each for the first time."""
    noted: list[linking.Entry] = []

    def load(entries, progress):
        for done, entry in enumerate(entries):
            progress(done, len(entries))
            if entry not in noted:
                noted.append(entry)
                monkeypatch.setattr(entry, "seconds", entry.seconds + 1.0)
        return 0.0

    cache = ObjectCache(tmp_path / "cache", "key")
    monkeypatch.setattr(linking, "load", load)
    monkeypatch.setattr(linking, "cache", lambda: cache)
    return noted


def test_a_second_run_has_nothing_to_do(asked, capsys, tmp_path):
    assert run(["warmup", "4-3-2", "--dtype", "float32"]) == 0
    count = len(asked)
    out = capsys.readouterr().out
    assert f"{count} kernels for 4-3-2 in float32: {count} compiled in " in out
    assert f"kept in {tmp_path / 'cache' / 'numba' / 'key'}" in out
    assert run(["warmup", "4-3-2", "--dtype", "float32"]) == 0
    assert f"{count} kernels for 4-3-2 in float32: nothing had to be" in capsys.readouterr().out


def names(entries) -> set[str]:
    return {entry.name for entry in entries}


def test_a_model_is_prepared_in_both_dtypes(asked, capsys):
    assert run(["warmup", "4-3-2"]) == 0
    assert "for 4-3-2 in float32 and float64: " in capsys.readouterr().out
    assert {"float32", "float64"} <= {
        d for e in asked for d in ("float32", "float64") if d in e.name
    }


def test_options_choose_the_kernels(asked):
    options = ["--activation", "tanh", "--loss", "mse", "--optimizer", "adam", "--dtype", "float64"]
    assert run(["warmup", "4-3-2", *options]) == 0
    found = {name.partition("|")[0] for name in names(asked)}
    assert {"activations.tanh", "updates.adam", "walker.walk", "blocked.own_product"} <= found
    assert "updates.sgd" not in found
    assert not any("float32" in name for name in names(asked))


def test_a_checkpoint_is_prepared(asked, capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(MLP([4, 3, 1], activation="elu", loss="mse", dtype="float64"), path)
    assert run(["warmup", str(path)]) == 0
    assert " in float64: " in capsys.readouterr().out
    assert "activations.elu" in {name.partition("|")[0] for name in names(asked)}


def test_everything_is_prepared_for_the_dtype_asked_for(asked, capsys):
    assert run(["warmup", "--dtype", "float64"]) == 0
    assert " for any model in float64: " in capsys.readouterr().out
    found = {name.partition("|")[0] for name in names(asked)}
    assert {"walker.walk", "blocked.own_product", "blocked.blas_product"} <= found
    assert len(asked) > 60


@pytest.fixture(scope="module")
def everything() -> set[str]:
    return {e.name for dtype in ("float32", "float64") for e in warmup._everything(NUMBA, dtype)}


def needed(trainer: Trainer) -> set[str]:
    return names(warmup._needed(NUMBA, trainer))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_holds_what_any_training_needs(everything, dtype):
    for activation in activation_names():
        for norm in (None, "batch", "layer"):
            model = MLP(
                [7, 5, 3],
                activation=activation,
                norm=norm,
                dropout=0.1,
                l1=0.1,
                l2=0.1,
                dtype=dtype,
            )
            assert needed(Trainer(model, backend=NUMBA, clip_norm=1.0)) <= everything
    for loss in loss_names():
        trainer = Trainer(MLP([7, 3], loss=loss, dtype=dtype), backend=NUMBA, clip_value=1.0)
        assert needed(trainer) <= everything
    for optimizer in OPTIMIZERS:
        assert needed(Trainer(MLP([7, 3], dtype=dtype), optimizer, backend=NUMBA)) <= everything
    large = Trainer(MLP([700, 900, 3], dtype=dtype), backend=NUMBA)
    assert needed(large) <= everything


def test_what_is_needed_is_what_is_compiled():
    """The entries of a bound Executable are those that were prepared."""
    trainer = Trainer(MLP([4, 3, 2]), backend=NUMBA)
    plan = make_plan(specialise(trainer.step_program(8), NUMBA), NUMBA)
    assert names(plan.entries) <= needed(trainer)


def test_an_operator_without_a_compiled_kernel_needs_nothing():
    swapped = NUMBA.replace(relu="numpy")
    assert list(inventory.of_operator(swapped, get_op("relu"), {}, [(3,)], ["float32"], 1)) == []
    entries = warmup._needed(swapped, Trainer(MLP([4, 3, 2]), backend=swapped))
    assert "activations.relu" not in {name.partition("|")[0] for name in names(entries)}


def test_a_folder_that_keeps_nothing_is_an_incomplete_warmup(asked, capsys, monkeypatch):
    def load(entries, progress):
        warnings.warn("compiled kernels are kept in memory: no space", CacheWarning, stacklevel=1)

    monkeypatch.setattr(linking, "load", load)
    assert run(["warmup", "4-3-2"]) == 3
    out, err = capsys.readouterr()
    assert "kept in memory: no space" in err
    assert "kept in /" not in out


def test_without_numba_the_way_to_it_is_told(capsys, monkeypatch):
    def load(name):
        raise BackendUnavailableError("Numba is not installed; run: pip install 'nnkernels[numba]'")

    monkeypatch.setattr(plugins, "load", load)
    assert run(["warmup"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "pip install 'nnkernels[numba]'" in err


def test_without_a_compiler_there_is_nothing_to_do(capsys, monkeypatch):
    numpy = plugins.load("numpy")
    bare = Backend("numba", numpy.device, {}, numpy.executor, fallback=numpy)
    monkeypatch.setattr(plugins, "load", lambda name: bare)
    assert run(["warmup"]) == 2
    assert "NUMBA_DISABLE_JIT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adam"], "drop --optimizer"),
        (["rleu"], "Did you mean 'relu'?"),
        (["784--10"], "sizes are written like 784-64-10"),
        (["nowhere.safetensors"], "no such file"),
        (["4-3", "--loss", "msee"], "Did you mean 'mse'?"),
        (["4-3", "--dtype", "float16"], "Invalid value for '--dtype'"),
        (["{model}", "--dtype", "float64"], "drop --dtype"),
    ],
)
def test_bad_arguments_are_one_line(capsys, tmp_path, arguments, message):
    path = tmp_path / "model.safetensors"
    save_model(MLP([4, 2]), path)
    assert run(["warmup", *(a.format(model=path) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.slow
def test_the_next_process_finds_the_kernels(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "nnkernels", "warmup", "4-3-2", "--dtype", "float32"]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
        for _ in range(2)
    )
    assert " compiled in " in first.stdout
    assert "nothing had to be compiled" in second.stdout
    assert (first.stderr, second.stderr) == ("", "")
    folder = Path(second.stdout.splitlines()[-1].removeprefix("kept in "))
    assert folder.is_relative_to(tmp_path)
    assert len(list(folder.iterdir())) == int(second.stdout.split()[0])
