"""``nnkernels train``."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkernels.cli._app import run
from nnkernels.data import load
from nnkernels.nn import MLP, SGD, Callback, Epoch, Trainer, load_model, save_model

QUICK = ["train", "spirals", "--layers", "8", "-b", "numpy", "--epochs"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A training of two epochs."""
    path = tmp_path / "saved.safetensors"
    options = ["--schedule", "exponential", "--dropout", "0.1"]
    assert run([*QUICK, "2", *options, "--save", str(path)]) == 0
    capsys.readouterr()
    return path


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A table with ``y = 3x - 1``."""
    path = tmp_path / "line.csv"
    x = np.linspace(-1, 1, 50)
    rows = "".join(f"{a},{3 * a - 1.05}\n" for a in x)
    path.write_text("x,y\n" + rows)
    return path


def weights(path: Path) -> dict[str, np.ndarray]:
    model = load_model(path)
    return {**model.parameters, **model.statistics}


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all((first[n] == second[n]).all() for n in first)


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_training_is_summed_up_in_80_columns(capsys):
    assert run([*QUICK, "3"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("spirals: 2000 train + 500 test rows")
    assert any(line.split() == ["parameters", "51"] for line in lines)
    assert [line.split()[0] for line in lines[-5:-1]] == [
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
    ]
    assert lines[-1].startswith("numpy: 3 epochs in ")
    assert "samples/s; best val_accuracy 0." in lines[-1]
    assert (err, "\x1b" in out) == ("", False)
    assert max(map(len, lines[1:-1])) <= 80


def test_json_holds_the_whole_history(capsys):
    assert run([*QUICK, "3", "--json"]) == 0
    found = report(capsys)
    assert (found["epochs"], len(found["history"]), found["stop_reason"]) == (3, 3, "epochs")
    curve = [epoch["values"]["val_accuracy"] for epoch in found["history"]]
    assert found["best"] == "val_accuracy"
    assert (found["best_value"], found["best_epoch"]) == (max(curve), int(np.argmax(curve)))
    seconds = [epoch["seconds"] for epoch in found["history"]]
    assert found["seconds_to_best"] == pytest.approx(sum(seconds[: found["best_epoch"] + 1]))
    assert found["samples_per_second"] == pytest.approx(3 * 2000 / sum(seconds))


def test_the_numbers_are_those_of_the_trainer(capsys):
    options = ["--optimizer", "momentum", "--lr", "0.05", "--batch", "50", "--seed", "7"]
    assert run([*QUICK, "2", *options, "--weight-decay", "0.01", "--json"]) == 0
    data = load("spirals")
    optimizer = SGD(0.05, momentum=0.9, weight_decay=0.01)
    trainer = Trainer(MLP([2, 8, 3], seed=7), optimizer, backend="numpy")
    history = trainer.fit(data.x_train, data.y_train, epochs=2, batch_size=50)
    ours = [epoch["values"]["loss"] for epoch in report(capsys)["history"]]
    assert ours == history["loss"].tolist()


def test_every_option_reaches_the_model(capsys, tmp_path):
    path = tmp_path / "m.safetensors"
    options = ["--activation", "tanh", "--norm", "layer", "--dropout", "0.25", "--dtype", "float64"]
    more = ["--loss", "categorical_cross_entropy", "--clip-norm", "0.5", "--schedule", "cosine"]
    assert run([*QUICK, "1", *options, *more, "--save", str(path)]) == 0
    trainer = Trainer.load(path)
    kinds = [type(layer).__name__ for layer in trainer.model.layers]
    assert kinds == ["Linear", "LayerNorm", "Activation", "Dropout", "Linear", "Activation"]
    assert trainer.model.layers[2].name == "tanh"
    assert trainer.model.layers[3].p == 0.25
    assert trainer.model.layers[5].name == "softmax"
    assert (trainer.model.dtype, trainer.model.loss.name) == (
        "float64",
        "categorical_cross_entropy",
    )
    assert (trainer.clip_norm, trainer.schedule) == (0.5, "cosine")


def test_a_table_of_values_is_regression(capsys, line):
    options = ["--layers", "", "--lr", "0.1", "--epochs", "60", "--batch", "0", "--json"]
    assert run(["train", str(line), *options]) == 0
    found = report(capsys)
    assert (found["best"], found["parameters"]) == ("val_loss", 2)
    assert found["best_value"] < 0.01
    assert "accuracy" not in found["history"][0]["values"]


def test_two_classes_and_a_binary_loss_have_one_output(capsys, tmp_path):
    path, table = tmp_path / "m.safetensors", tmp_path / "t.csv"
    table.write_text("".join(f"{i},{i % 7},{i % 2}\n" for i in range(40)))
    options = ["--loss", "binary_cross_entropy", "--epochs", "1", "--save", str(path)]
    assert run(["train", str(table), *options]) == 0
    model = load_model(path)
    assert (model.outputs, model.layers[-1].name) == (1, "sigmoid")


def test_patience_stops_early(capsys):
    assert run([*QUICK, "50", "--lr", "3", "--patience", "1", "--json"]) == 0
    found = report(capsys)
    assert found["stop_reason"] == "early stopping"
    assert found["epochs"] < 50


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_loss_is_drawn(capsys, tmp_path, suffix, magic):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"loss.{suffix}"
    assert run([*QUICK, "1", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(magic)


def test_a_resumed_training_equals_an_uninterrupted_one(capsys, tmp_path, saved):
    resumed, whole = tmp_path / "resumed.safetensors", tmp_path / "whole.safetensors"
    options = ["--schedule", "exponential", "--dropout", "0.1"]
    assert run([*QUICK, "5", *options, "--save", str(whole)]) == 0
    assert run([*QUICK, "5", "--resume", str(saved), "--save", str(resumed)]) == 0
    assert equal(resumed, whole)
    assert not equal(resumed, saved)


@pytest.mark.parametrize(
    ("option", "given", "before"),
    [
        ("--layers", "9", "8"),
        ("--activation", "tanh", "relu"),
        ("--norm", "batch", "none"),
        ("--dropout", "0.2", "0.1"),
        ("--loss", "mse", "softmax_cross_entropy"),
        ("--optimizer", "sgd", "adam"),
        ("--lr", "0.5", "0.001"),
        ("--weight-decay", "0.5", "0.0"),
        ("--schedule", "cosine", "exponential"),
        ("--clip-norm", "1.0", "none"),
        ("--batch", "16", "32"),
        ("--seed", "1", "0"),
        ("--dtype", "float64", "float32"),
    ],
)
def test_settings_that_contradict_the_file_are_refused(capsys, saved, option, given, before):
    content = saved.read_bytes()
    # A later --layers replaces the one of QUICK.
    assert run([*QUICK, "5", "--resume", str(saved), "--save", str(saved), option, given]) == 2
    err = capsys.readouterr().err
    assert f"{option} {given} contradicts" in err
    assert f"trained with {before};" in err
    assert (err.count("\n"), saved.read_bytes()) == (1, content)


def test_settings_that_agree_with_the_file_are_accepted(capsys, saved):
    options = ["--lr", "0.001", "--batch", "32", "--optimizer", "adam", "--activation", "relu"]
    assert run([*QUICK, "3", "--resume", str(saved), *options, "--json"]) == 0
    assert report(capsys)["epochs"] == 3


def test_a_file_of_another_architecture_or_data_is_refused(capsys, tmp_path, saved):
    model = tmp_path / "model.safetensors"
    save_model(MLP([2, 8, 3]), model)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(saved.read_bytes()[:-1])
    for path, message in ((model, "not a training"), (damaged, "damaged")):
        assert run([*QUICK, "5", "--resume", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert run(["train", "glyphs", "--epochs", "5", "--resume", str(saved)]) == 2
    assert "(rows, 2)" in capsys.readouterr().err


def test_divergence_has_an_exit_code_of_its_own(capsys, tmp_path, line):
    path = tmp_path / "m.safetensors"
    options = ["--optimizer", "sgd", "--lr", "1e6", "--epochs", "99", "--save", str(path)]
    assert run(["train", str(line), "--layers", "", *options]) == 5
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)
    assert f"saved {path} after " in err
    assert "diverged in epoch" in err
    assert "--lr" in err and "--clip-norm" in err and "clip_norm" not in err
    assert all(np.isfinite(array).all() for array in weights(path).values())


def test_divergence_draws_the_epochs_that_were_completed(capsys, tmp_path, line):
    pytest.importorskip("matplotlib")
    none, some = tmp_path / "none.png", tmp_path / "some.png"
    options = ["train", str(line), "--layers", "", "--optimizer", "sgd", "--epochs", "99"]
    assert run([*options, "--lr", "1e30", "--plot", str(none)]) == 5
    err = capsys.readouterr().err
    assert f"{none} is not drawn: no epoch was completed" in err
    assert "--save FILE keeps them" in err
    assert run([*options, "--lr", "1e6", "--plot", str(some)]) == 5
    assert (none.exists(), some.read_bytes()[:4]) == (False, b"\x89PNG")


def test_one_epoch_is_not_one_epochs(capsys, tmp_path):
    path = tmp_path / "m.safetensors"
    assert run([*QUICK, "1", "--save", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "numpy: 1 epoch in" in out
    assert err == f"saved {path} after 1 epoch\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0"], "learning_rate"),
        (["--lr", "nan"], "learning_rate"),
        (["--lr", "fast"], "Invalid value for '--lr'"),
        (["--epochs", "-1"], "Invalid value for '--epochs'"),
        (["--epochs", "9" * 30], "Invalid value for '--epochs'"),
        (["--batch", "5000"], "larger than the data"),
        (["--batch", "-1"], "Invalid value for '--batch'"),
        (["--layers", "8,x"], "sizes like 64,32"),
        (["--layers", "0"], "from 1 to"),
        (["--layers", "9" * 400], "sizes like 64,32"),
        (["--layers", "99999,99999"], "parameters"),
        (["--activation", "rleu"], "Did you mean 'relu'?"),
        (["--layers", "", "--activation", "rleu"], "Did you mean 'relu'?"),
        (["--optimizer", "adm"], "Did you mean 'adam'?"),
        (["--loss", "msee"], "Did you mean 'mse'?"),
        (["--schedule", "cosin"], "Did you mean 'cosine'?"),
        (["--norm", "bath"], "Invalid value for '--norm'"),
        (["--dropout", "1"], "[0,1)"),
        (["--weight-decay", "nan"], "weight_decay"),
        (["--clip-norm", "-1"], "clip_norm"),
        (["--seed", "-1"], "seed"),
        (["--patience", "-1"], "Invalid value for '--patience'"),
        (["-b", "nunpy"], "Did you mean 'numpy'?"),
        (["--save", "/nowhere/m.safetensors"], "the folder does not exist"),
        (["--save", "/dev/null"], "not a regular file"),
        (["--plot", "loss.gif"], ".png, .svg or .pdf"),
        (["--resume", "/nowhere/m.safetensors"], "no such file"),
    ],
)
def test_bad_options_are_one_line(capsys, options, message):
    assert run([*QUICK, "1", *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize("name", ["sprals", "nowhere.csv", ""])
def test_unknown_data_is_one_line(capsys, name):
    assert run(["train", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Interrupt(Callback):
    """Sends this process a signal when an epoch ends."""

    def __init__(self, number: int, epoch: int) -> None:
        self.number, self.epoch = number, epoch

    def epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        if record.epoch == self.epoch:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_training_goes_on_from_there(
    tmp_path, monkeypatch, number, code, capsys
):
    pytest.importorskip("matplotlib")
    path, resumed, whole = (tmp_path / f"{n}.safetensors" for n in ("cut", "resumed", "whole"))
    with monkeypatch.context() as patched:
        hooks = {"callbacks": [Interrupt(number, epoch=2)]}
        fit = Trainer.fit
        patched.setattr(Trainer, "fit", lambda *a, **options: fit(*a, **{**options, **hooks}))
        plot = tmp_path / "cut.png"
        assert run([*QUICK, "1000", "--save", str(path), "--plot", str(plot)]) == code
    assert plot.read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)
    assert f"saved {path} after 3 epochs" in err
    assert f"ended by {signal.Signals(number).name}" in err
    assert f"--resume {path} --epochs N" in err and "fit()" not in err
    assert run([*QUICK, "5", "--resume", str(path), "--save", str(resumed)]) == 0
    assert run([*QUICK, "5", "--save", str(whole)]) == 0
    assert equal(resumed, whole)
