"""``nnkernels crossover``, in process, on kernels of known cost."""

import re
import sys
from pathlib import Path

import psutil
import pytest

from nnkernels import plugins
from nnkernels.bench import results
from nnkernels.bench.harness import sweeps as harness_sweeps
from nnkernels.cli import crossover
from nnkernels.cli._app import run

PLANTED = str(Path(__file__).parents[1] / "bench")
RELU = ["crossover", "-k", "relu[elements] and not leaky", "--budget", "0.5", "--threads", "1"]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted kernels, for workers; a sweep that ends early."""
    from dataclasses import replace

    from nnkernels.bench import harness

    monkeypatch.syspath_prepend(PLANTED)
    monkeypatch.setattr(sys, "argv", ["nnkernels"])
    short = [replace(each, high=min(each.high, 1 << 18)) for each in harness_sweeps()]
    monkeypatch.setattr(harness, "sweeps", lambda: short)


def planted(*kernels: str) -> str:
    return ",".join(f"numpy[relu=planted_costs:{kernel}]" for kernel in kernels)


def test_the_answer_in_80_columns(tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    path, plot = tmp_path / "run.json", tmp_path / "curve.svg"
    files = ["-o", str(path), "--plot", str(plot)]
    assert run([*RELU, "-b", planted("quick_start", "slow_start"), *files]) == 0
    assert b"<svg" in plot.read_bytes()
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    title, header, row, *rest = out.splitlines()
    assert title == f"{planted('slow_start')} against {planted('quick_start')}"
    assert header.split() == [
        *("workload,", "what", "grows", "faster", "from", "between", "smallest", "largest")
    ]
    assert max(map(len, (header, row))) <= 80
    found = re.fullmatch(
        r"relu\[elements\] +([\d,]+) +([\d,]+) - ([\d,]+) +0.05x +1.44x", row.strip()
    )
    size, low, high = (int(text.replace(",", "")) for text in found.groups())
    assert low <= 100_000 <= high and low <= size <= high
    assert rest[-1] == (
        f"With the data in place, {planted('slow_start')} is faster than "
        f"{planted('quick_start')} from relu elements = {size:,}."
    )
    record = results.read(path)
    assert record.kind == "crossover" and record.complete
    assert record.crossovers[0].verdict == "found"
    assert psutil.Process().children() == []


def test_a_wrong_kernel_fails_the_run(capsys) -> None:
    names = planted("quick_start", "best_until_it_is_wrong")
    assert run([*RELU, "-b", names]) == 1
    out = capsys.readouterr().out
    assert "! relu[elements]: numpy[relu=planted_costs:best_until_it_is_wrong] at " in out
    assert "incorrect, relu: result 0[0] is " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "numpy"], "two different backends"),
        (["-b", "numpy,numpy"], "two different backends"),
        (["-b", "numpy,numba,cupy"], "two different backends"),
        (["-b", "numpy,nunpy"], "Did you mean 'numpy'"),
        (["-k", "nothing"], "matches no workload"),
        (["--budget", "-1"], "--budget"),
        (["--plot", "curve.txt"], "the name must end in .png, .svg or .pdf"),
        (["--workloads", "nowhere.py"], "no such Python file"),
        (["--threads", "0"], "--threads"),
        (["-o", "/nonexistent/run.json"], "the folder does not exist"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys) -> None:
    assert run(["crossover", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("reasons", "second"),
    [
        ({"numpy": None, "numba": None, "cupy": "no GPU"}, "numba"),
        ({"numpy": None, "numba": None, "cupy": None}, "cupy"),
    ],
)
def test_who_is_compared_when_nobody_is_named(monkeypatch, reasons, second) -> None:
    monkeypatch.setattr(plugins, "availability", lambda: reasons)
    assert crossover._two("") == ("numpy", second)


def test_numpy_alone_is_not_compared(monkeypatch, capsys) -> None:
    monkeypatch.setattr(plugins, "availability", lambda: {"numpy": None, "numba": "not installed"})
    assert run(["crossover"]) == 2
    assert "pip install 'nnkernels[numba]'" in capsys.readouterr().err


def test_a_gpu_that_is_named_and_not_there_is_no_usage_error(capsys) -> None:
    if plugins.availability().get("cupy", "") is None:
        pytest.skip("there is a GPU")
    assert run(["crossover", "-k", "relu", "-b", "numpy,cupy"]) == 3
    assert "cupy" in capsys.readouterr().err


def made(verdict: str, scenario: str = "resident", **fields) -> results.Crossover:
    points = [results.CrossoverPoint(8, 64, 1.0, 2.0, 2.0, (1.9, 2.1))] * bool(fields.pop("p", 1))
    values = {"size": None, "interval": None, "reason": None, **fields}
    return results.Crossover(
        "matmul", "float32", "numpy", "cupy", "n", scenario, points, verdict, **values
    )


def test_rows_of_every_verdict() -> None:
    found = made("found", size=96.4, interval=(80, 112))
    assert crossover.cells(found) == ["matmul[n]", "96", "80 - 112", "0.50x", "0.50x"]
    assert crossover.cells(made("never", "transfers")) == [
        *("matmul[n]  with transfers", "never", "", "0.50x", "0.50x")
    ]
    assert crossover.cells(made("unclear", p=0)) == ["matmul[n]", "unclear", "", "-", "-"]
