"""``nnkernels predict``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnkernels.cli._app import run
from nnkernels.data import load
from nnkernels.nn import MLP, Trainer, save_model


def save(path: Path, **options) -> str:
    sizes = options.pop("sizes", [2, 6, 3])
    save_model(MLP(sizes, seed=3, **options), path)
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A classifier of two features and three classes."""
    return save(tmp_path / "model.safetensors")


@pytest.fixture
def values(tmp_path: Path) -> str:
    """A model with one value as output."""
    return save(tmp_path / "values.safetensors", sizes=[2, 6, 1], loss="mse", dtype="float64")


X = np.random.default_rng(5).normal(size=(40, 2)).round(3)
Y = np.arange(40) % 3


def table(path: Path, *columns: np.ndarray, header: str = "") -> str:
    rows = np.column_stack(columns)
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        np.savetxt(path, rows, fmt="%.17g", delimiter=",", header=header, comments="")
    return str(path)


def expected(path: str) -> Trainer:
    from nnkernels.nn import load_model

    return Trainer(load_model(path), backend="numpy", metrics=["accuracy"])


@pytest.mark.parametrize("name", ["t.csv", "t.npy"])
@pytest.mark.parametrize("targets", [True, False])
def test_the_rows_of_a_table_are_predicted_in_their_order(capsys, tmp_path, model, name, targets):
    data = table(tmp_path / name, X, *([Y] if targets else []))
    assert run(["predict", model, data, "-b", "numpy"]) == 0
    out, err = capsys.readouterr()
    title, *labels = out.splitlines()
    assert title == "label"
    assert [int(label) for label in labels] == expected(model).predict(X).tolist()
    accuracy = (expected(model).predict(X) == Y).mean()
    assert (f"accuracy {accuracy:.6g} over 40 rows" in err) is targets


def test_a_table_of_a_single_column_is_predicted(capsys, tmp_path):
    model = save(tmp_path / "narrow.safetensors", sizes=[1, 4, 2])
    assert run(["predict", model, table(tmp_path / "t.csv", X[:, 0]), "-b", "numpy"]) == 0
    want = expected(model).predict(X[:, :1]).tolist()
    assert [int(row) for row in capsys.readouterr().out.splitlines()[1:]] == want


def test_probabilities_have_a_column_for_each_class(capsys, tmp_path, model):
    data = table(tmp_path / "t.csv", X, header="a,b")
    assert run(["predict", model, data, "--proba", "-b", "numpy"]) == 0
    title, *rows = capsys.readouterr().out.splitlines()
    assert title == "p0,p1,p2"
    printed = np.array([row.split(",") for row in rows], dtype=np.float32)
    assert (printed == expected(model).predict_proba(X)).all()


def test_values_are_printed_with_all_their_digits(capsys, tmp_path, values):
    data = table(tmp_path / "t.csv", X, X[:, 0])
    assert run(["predict", values, data, "-b", "numpy"]) == 0
    out, err = capsys.readouterr()
    title, *rows = out.splitlines()
    assert title == "y0"
    assert [float(row) for row in rows] == expected(values).predict(X)[:, 0].tolist()
    assert "loss " in err
    assert "accuracy" not in err


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_results_go_to_a_file(capsys, tmp_path, model, suffix):
    data, output = table(tmp_path / "t.csv", X), tmp_path / f"out.{suffix}"
    assert run(["predict", model, data, "-o", str(output), "-b", "numpy"]) == 0
    assert capsys.readouterr() == ("", "")
    read = np.load(output) if suffix == "npy" else np.loadtxt(output, skiprows=1)
    assert read.tolist() == expected(model).predict(X).tolist()


def test_the_test_rows_of_a_dataset_are_predicted(capsys, model):
    assert run(["predict", model, "spirals", "-b", "numpy"]) == 0
    out, err = capsys.readouterr()
    data = load("spirals")
    want = expected(model)
    assert [int(row) for row in out.splitlines()[1:]] == want.predict(data.x_test).tolist()
    found = want.evaluate(data.x_test, data.y_test)
    assert err == f"loss {found['loss']:.6g}, accuracy {found['accuracy']:.6g} over 500 rows\n"


def test_what_train_saved_scores_as_it_did_there(capsys, tmp_path):
    path = str(tmp_path / "trained.safetensors")
    assert run(["train", "spirals", "--epochs", "2", "--save", path, "-b", "numpy"]) == 0
    capsys.readouterr()
    assert run(["predict", path, "spirals", "-b", "numpy"]) == 0
    score = Trainer.load(path).history["val_accuracy"][-1]
    assert f"accuracy {score:.6g} over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((X, X, Y), "5 columns; the model takes 2"),
        ((X, Y + 0.5), "labels are whole numbers"),
        ((X, Y - 1), "labels are whole numbers"),
        ((X, Y + 3), "must lie in [0, 3)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(capsys, tmp_path, model, columns, message):
    output = tmp_path / "out.csv"
    data = table(tmp_path / "t.csv", *columns)
    assert run(["predict", model, data, "-o", str(output)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), output.exists()) == ("", 1, False)
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "sprals"], "Did you mean 'spirals'?"),
        (["{model}", "nowhere.csv"], "no file or folder"),
        (["{model}", "glyphs"], "(rows, 2)"),
        (["nowhere.safetensors", "spirals"], "no such file"),
        (["{model}", "spirals", "-o", "out.txt"], ".csv or .npy"),
        (["{model}", "spirals", "-o", "/nowhere/out.csv"], "folder does not exist"),
        (["{model}", "spirals", "-b", "nunpy"], "Did you mean 'numpy'?"),
        (["{model}"], "Missing argument"),
    ],
)
def test_bad_arguments_are_one_line(capsys, model, arguments, message):
    assert run(["predict", *[a.format(model=model) for a in arguments]]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_values_have_no_probabilities(capsys, tmp_path, values):
    assert run(["predict", values, table(tmp_path / "t.csv", X), "--proba"]) == 2
    assert "not probabilities" in capsys.readouterr().err


def test_a_damaged_model_is_refused(capsys, model):
    path = Path(model)
    path.write_bytes(path.read_bytes()[:-3])
    assert run(["predict", model, "spirals"]) == 2
    assert "damaged" in capsys.readouterr().err
