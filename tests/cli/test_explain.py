"""``nnkernels explain``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nnkernels.cli._app import run
from nnkernels.nn import MLP, Trainer, save_model

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"\S+:(\w+)\n +(nnkernels/.+):(\d+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No width is known, so lines are whole."""
    monkeypatch.delenv("COLUMNS", raising=False)


def places(out: str) -> list[tuple[str, str]]:
    """Every function in the output, and the source from its line on."""
    found = []
    for name, file, line in PLACE.findall(out):
        lines = (ROOT / file).read_text().splitlines()
        found.append((name, "\n".join(lines[int(line) - 1 : int(line) + 4])))
    return found


def operators(out: str) -> list[str]:
    return re.findall(r"^ +\d+ .*?(\w+): ", out, re.MULTILINE)


def test_an_operator_is_shown_with_file_and_line(capsys):
    assert run(["explain", "gelu", "-b", "numpy"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("gelu on numpy\n  gelu: kernel of numpy\n")
    ((name, source),) = places(out)
    assert f"def {name}(" in source


def test_a_model_is_shown_instruction_by_instruction(capsys):
    sizes = ["explain", "12-8-3", "-b", "numpy", "--activation", "tanh", "--optimizer", "adam"]
    assert run(sizes) == 0
    out = capsys.readouterr().out
    assert operators(out) == [
        "gather_rows",
        "gather_rows",
        "linear",
        "tanh",
        "linear",
        "softmax_cross_entropy",
        "softmax_cross_entropy_backward",
        "linear_backward",
        "tanh_backward",
        "linear_backward",
        "accumulate",
        "count_correct",
        "count",
        "tick",
        "adam",
        "advance",
    ]
    assert "tanh: kernel of numpy; not fused: " in out
    assert all(f"def {name}(" in source for name, source in places(out))
    assert len(places(out)) == 16


def test_a_swap_is_shown_where_it_is_used(capsys):
    swapped = "numpy[tanh=nnkernels.backends.numpy.activations:sigmoid]"
    assert run(["explain", "4-3-2", "--activation", "tanh", "-b", swapped]) == 0
    out = capsys.readouterr().out
    assert "tanh: swapped: tanh=nnkernels.backends.numpy.activations:sigmoid" in out


def test_a_checkpoint_is_explained_with_its_own_architecture(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(MLP([4, 3, 1], activation="elu", loss="mse"), path)
    assert run(["explain", str(path), "-b", "numpy", "--batch", "7"]) == 0
    out = capsys.readouterr().out
    assert "batch 7" in out.splitlines()[0]
    assert {"elu", "mse", "sgd"} <= set(operators(out))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint of a training with momentum, unshuffled batches of 5, clipped."""
    path = tmp_path / "trained.safetensors"
    trainer = Trainer(MLP([4, 3, 2]), "momentum", clip_norm=0.5)
    x = np.random.default_rng(0).normal(size=(12, 4))
    trainer.fit(x, np.arange(12) % 2, batch_size=5, shuffle=False, progress=False)
    trainer.save(path)
    return path


def test_a_saved_training_is_explained_with_its_own_step(capsys, trained):
    assert run(["explain", str(trained), "-b", "numpy"]) == 0
    out = capsys.readouterr().out
    title = f"{trained}, batch 5, momentum, gradients clipped to norm 0.5, on numpy"
    assert title in out.splitlines()[0]
    assert {"momentum", "clip_by_global_norm"} <= set(operators(out))
    assert "gather_rows" not in operators(out)


def test_another_step_of_a_saved_training_can_be_asked_for(capsys, trained):
    assert run(["explain", str(trained), "-b", "numpy", "--batch", "3", "--optimizer", "adam"]) == 0
    out = capsys.readouterr().out
    assert ", batch 3, adam, on numpy" in out.splitlines()[0]
    assert "adam" in operators(out)


def test_lines_fit_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["explain", "784-64-10", "-b", "numpy"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


# --- what backend numba adds ---------------------------------------------------------------------


@pytest.fixture
def numba(tmp_path, monkeypatch):
    """The module that chooses, without a file of the user's."""
    pytest.importorskip("numba")
    from nnkernels.backends.numba.products import choice

    if not choice.vector_bits():
        pytest.skip("no tiles of ours on this processor")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    choice.stored.cache_clear()
    yield choice
    choice.stored.cache_clear()


PRODUCT = re.compile(
    r"^  (\d+) x (\d+) x (\d+) +(float32|float64) +(BLAS|own (?:packed )?tiles) +(.+?) *$",
    re.MULTILINE,
)


@pytest.mark.parametrize("name", ["matmul", "linear", "linear_backward"])
def test_who_computes_products_is_told(capsys, numba, name):
    assert run(["explain", name, "-b", "numba"]) == 0
    out = capsys.readouterr().out
    assert f"{numba.OWN_BYTES:,} B (default)" in out
    assert "'nnkernels tune'" in out
    assert "right operand is" in out
    rows = PRODUCT.findall(out)
    assert {dtype for *_, dtype, _, _ in rows} == {"float32", "float64"}
    names = {"own": "own tiles", "packed": "own packed tiles", "blas": "BLAS"}
    for m, k, n, dtype, who, why in rows:
        found = numba.choose(int(m), int(n), int(k), 4 if dtype == "float32" else 8)
        assert who == names[found.code]
        assert found.why == f"right operand {why} (default)"
    assert {"own tiles", "own packed tiles"} <= {who for *_, who, _ in rows}


def test_tuned_limits_are_told(capsys, numba):
    from nnkernels.backends.numba.products import tuned

    tuned.write({"float32": 1 << 20, "float64": 0})
    assert run(["explain", "matmul", "-b", "numba"]) == 0
    out = capsys.readouterr().out
    assert f"float32 1,048,576 B (tuned {tuned.read().date}), float64 0 B (tuned " in out
    assert {who for *_, dtype, who, _ in PRODUCT.findall(out) if dtype == "float64"} == {"BLAS"}


def test_vectors_and_tiles_of_this_processor_are_told(capsys, numba, monkeypatch):
    from nnkernels.backends.numba import notes

    monkeypatch.setattr(notes, "vector_bits", lambda: 256)
    monkeypatch.setattr(notes, "tile_rows", lambda: {2: 6, 1: 12})
    assert run(["explain", "matmul", "-b", "numba"]) == 0
    assert "Vectors of 256 bits; tiles of 6 rows by 2, 12 rows by 1" in capsys.readouterr().out


def test_without_tiles_blas_computes_all(capsys, numba, monkeypatch):
    from nnkernels.backends.numba import notes

    monkeypatch.setattr(notes, "vector_bits", lambda: 0)
    monkeypatch.setattr(numba, "vector_bits", lambda: 0)
    assert run(["explain", "linear", "-b", "numba"]) == 0
    out = capsys.readouterr().out
    assert "BLAS computes all" in out
    assert {who for *_, who, _ in PRODUCT.findall(out)} == {"BLAS"}


@pytest.mark.parametrize("backend", ["numpy", "reference", "numba[linear=numpy]"])
def test_nothing_is_added_for_kernels_of_others(capsys, numba, backend):
    assert run(["explain", "linear", "-b", backend]) == 0
    assert "own tiles" not in capsys.readouterr().out


def test_other_operators_have_no_rule(capsys, numba):
    assert run(["explain", "relu", "-b", "numba"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_step_says_how_it_is_executed(capsys, numba):
    assert run(["explain", "8-6-3", "-b", "numba"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert re.search(
        r"^  Runs as a compiled epoch: \d+ stages a step, on 1 thread by default", line
    )
    assert line.endswith(", without barriers.")
    assert run(["explain", "8-6-3", "-b", "numba(threads=2)"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert re.search(r": (\d+) stages a step, on 2 threads as asked, \1 barriers\.", line)


def test_products_of_a_step_say_who_computes_them(capsys, numba, monkeypatch):
    monkeypatch.setattr(numba, "OWN_BYTES", 1 << 20)
    assert run(["explain", "1200-1000-3", "-b", "numba"]) == 0
    out = capsys.readouterr().out
    assert "fused: linear + relu; y by BLAS: right operand 4,800,000 B >" in out
    assert "linear: kernel of numba; product by own tiles: right operand 12,000 B" in out
    assert "grad_x by own tiles: right operand 12,000 B" in out
    assert "; grad_w by own tiles: right operand 384 B" in out


def test_a_step_in_the_interpreter_says_because_of_what(capsys, numba):
    assert run(["explain", "8-6-3", "-b", "numba[relu=numpy]"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].startswith("  Runs in the interpreter: relu is served by ")
    assert "product by own tiles" in out


def test_a_step_of_another_backend_has_no_such_header(capsys):
    assert run(["explain", "8-6-3", "-b", "numpy"]) == 0
    assert "Runs " not in capsys.readouterr().out


def test_lines_about_products_fit_into_80_columns(capsys, monkeypatch, numba):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(numba, "OWN_BYTES", 1 << 30)
    for target in ("linear_backward", "1200-1000-3"):
        assert run(["explain", target, "-b", "numba"]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rleu"], "Did you mean 'relu'?"),
        (["4-0"], "must be a whole number from 1"),
        (["999999999-2"], "must be a whole number from 1"),
        (["-5-3"], "No such option"),
        (["4-3", "--activation", "rleu"], "unknown activation"),
        (["4-3-2", "--optimizer", "adm"], "Did you mean 'adam'?"),
        (["4-3", "--batch", "0"], "Invalid value for '--batch'"),
        (["nowhere.safetensors"], "no such file"),
        (["784--10"], "sizes are written like 784-64-10"),
        (["foo"], "'nnkernels list operators'"),
        (["relu", "--batch", "3"], "drop --batch"),
        (["{model}", "--activation", "relu"], "drop --activation"),
        (["relu", "-b", "nunpy"], "Did you mean 'numpy'?"),
    ],
)
def test_bad_arguments_are_one_line(capsys, tmp_path, arguments, message):
    path = tmp_path / "model.safetensors"
    save_model(MLP([4, 2]), path)
    assert run(["explain", *(a.format(model=path) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert len(err) < 200 + len(str(path))
    assert message in err


def test_a_foreign_file_is_refused(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x10" * 40)
    assert run(["explain", str(path)]) == 2
    assert "damaged" in capsys.readouterr().err
