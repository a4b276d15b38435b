"""The command: what it refuses, and one small run."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import catalogue, mnist
from benchmarks.peers.cli import main
from nnkernels.bench import conclusions, results
from nnkernels.cli._app import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-k", "W9"], "matches none of W1, W2, W3, W4"),
        (["-k", "W1 and"], "cannot be read"),
        (["--threads", "0"], "--threads 0"),
        (["--threads", "100000"], "this process may use 1 to"),
        (["--threads", "two"], "invalid int value"),
        (["--rounds", "0"], "give 1 or more"),
        (["--npbench", "/no/such/folder"], "is no checkout of NPBench"),
        (["--candidates", "torhc"], "torch"),
        (["--backend", "nunpy"], "numpy"),
        (["--json", "/no/such/folder/run.json"], "the folder does not exist"),
        (["--candidates", "torch", "--backend", "numpy"], "leaves nnkernels out"),
        (["--busy", "--candidates", "torch"], "no meaning with --busy"),
        (["--busy", "--threads", "1"], "give two"),
        (["--busy", "--npbench", "."], "not allowed with"),
        (["--mnist-target", "-k", "W1"], "no meaning with --mnist-target"),
        (["--mnist-target"], "NNKERNELS_MNIST is not set"),
        (["--rond", "1"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(mnist.VARIABLE, raising=False)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "examples:" in capsys.readouterr().out


def test_a_run_shows_and_writes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    textbook = next(peer for peer in catalogue.PEERS if peer.name == "textbook")
    absent = catalogue.Candidate("torch", "PyTorch eager", "nowhere:No", needs=("no_such_module",))
    monkeypatch.setattr(catalogue, "PEERS", (absent, textbook))
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "run.json"
    arguments = ["--quick", "--rounds", "1", "--threads", "1", "--table", "consecutive"]
    assert main([*arguments, "-k", "w4", "--backend", "numpy", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "OPENBLAS_L2_SIZE=512" in err
    assert "PyTorch eager: missing, no_such_module is not installed" in out
    found = results.read(path)
    assert (found.kind, found.complete, found.libraries["numpy"]) == (
        "peers",
        True,
        np.__version__,
    )
    rows = [(r.backend, r.size, r.threads, r.status) for r in found.results]
    assert rows == [
        ("numpy", "20-64-64-1-b256", 1, "ok"),
        ("torch", "20-64-64-1-b256", 1, "skipped"),
        ("textbook", "20-64-64-1-b256", 1, "ok"),
    ]
    assert found.results[0].cost.items == 256
    assert "OPENBLAS_L2_SIZE=512" in found.warnings[0]
    (sentence,) = [s for s in conclusions.of_run(found) if "trains W4" in s]
    assert sentence.startswith("numpy trains W4 ")
    assert run(["report", str(path), "-o", str(tmp_path / "report.html")]) == 0
    assert "How do other libraries compare?" in (tmp_path / "report.html").read_text()
