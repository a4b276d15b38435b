"""``nnkernels roofline``: ceilings, and where the workloads are under them."""

import json

import pytest
from msgspec.structs import replace

from nnkernels.bench import ceilings, device_ceilings, results, session, survey
from nnkernels.bench.harness import registry
from nnkernels.bench.workers import WorkerLostError
from nnkernels.cli import roofline
from nnkernels.cli._app import run

TINY = ceilings.Effort((64,), ("copy",), 64, 1, 1, 0.01)
EFFORT = session.Effort(0.2, 2, 3, 0.01)
ARGUMENTS = ["roofline", "-k", "matmul or tanh", "-b", "numpy", "--preset", "quick"]


OWN = """
import numpy as np
from nnkernels.bench.declare import Cost, workload


@workload("gram", sizes={"quick": [(256, 64)], "default": [(512, 256)]}, tolerance=1e-5)
class Gram:
    def make(self, rng, rows, columns):
        a = rng.standard_normal((rows, columns))
        return {"a": a, "out": np.empty((columns, columns))}

    def run(self, be, s):
        be.matmul(s.a, s.a, transpose_a=True, out=s.out)

    def reference(self, s):
        return s.a.T @ s.a

    def cost(self, rows, columns):
        return Cost(2.0 * rows * columns**2, 4.0 * (rows * columns + columns**2), columns**2)
"""


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "FULL", survey.FULL._replace(cpu=TINY))
    monkeypatch.setitem(session.EFFORTS, "quick", EFFORT)
    monkeypatch.setenv("COLUMNS", "80")


def test_ceilings_and_workloads_are_shown_written_and_drawn(capsys, tmp_path) -> None:
    written, drawn = tmp_path / "roof.json", tmp_path / "roof.svg"
    code = run([*ARGUMENTS, "--threads", "1", "-o", str(written), "--plot", str(drawn)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert max(map(len, out.splitlines())) <= 80
    assert "ceilings of cpu, measured" in out
    assert "matmul[32x64x48]" in out
    assert "Nearest to its" in out
    found = results.read(written)
    assert (found.kind, found.complete) == ("roofline", True)
    assert {c.threads for c in found.ceilings} == {1}
    rated = [r for r in found.results if r.status == "ok"]
    assert len(rated) == 4
    assert all(0 < r.rates.pct_peak < 1.05 and r.rates.bound for r in rated)
    tanh = next(r for r in rated if r.workload == "tanh")
    assert tanh.rates.bound != "compute"  # transcendental functions are no arithmetic
    svg = drawn.read_text()
    assert "<svg" in svg
    assert "matmul" in svg


def test_ceilings_that_cannot_be_measured_are_told(capsys, tmp_path, monkeypatch) -> None:
    def lost(**settings):
        raise WorkerLostError("its process has ended")

    monkeypatch.setattr(ceilings, "measure", lost)
    written = tmp_path / "roof.json"
    assert run([*ARGUMENTS, "--threads", "1", "-o", str(written)]) == 0
    warning = "the ceilings of cpu are not known: its process has ended"
    assert f"! {warning}" in capsys.readouterr().out
    found = results.read(written)
    assert (found.complete, found.warnings, found.ceilings) == (True, [warning], [])


def test_workloads_of_a_users_own(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(registry, "_added", {})
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    written = tmp_path / "roof.json"
    arguments = ["--workloads", str(file), "-b", "numpy", "--preset", "quick", "--threads", "1"]
    assert run(["roofline", *arguments, "-o", str(written)]) == 0, capsys.readouterr()
    (row,) = results.read(written).results
    assert (row.workload, row.rates.bound) == ("gram", "compute")
    assert row.rates.pct_peak > 0


def test_an_impossible_row_is_refused_after_a_second_look(capsys, monkeypatch, tmp_path) -> None:
    measured = []

    def slow(**arguments):
        measured.append(arguments["threads"])
        return [
            replace(ceilings.empty("gemm_flops", "FLOP/s", dtype="float32", threads=1), value=1.0)
        ]

    monkeypatch.setattr(ceilings, "measure", slow)
    written = tmp_path / "roof.json"
    assert run([*ARGUMENTS, "--threads", "1", "-o", str(written)]) == 3
    assert measured == [[1], [1]]
    assert "impossible rate" in " ".join(capsys.readouterr().out.split())
    rows = json.loads(written.read_text())["results"]
    matmul = next(r for r in rows if r["workload"] == "matmul")
    assert matmul["status"] == "failed"


def test_an_interrupted_run_leaves_a_part(monkeypatch, tmp_path, capsys) -> None:
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(session.Session, "run", interrupted)
    written = tmp_path / "roof.json"
    assert run([*ARGUMENTS, "--threads", "1", "-o", str(written)]) == 130
    found = results.read(written)
    assert not found.complete
    assert found.ceilings


def test_a_bad_target_is_refused_before_anything_is_measured(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(ceilings, "measure", None)
    assert run([*ARGUMENTS, "--plot", "roof.gif"]) == 2
    assert ".png, .svg or .pdf" in capsys.readouterr().err
    assert run([*ARGUMENTS, "-o", str(tmp_path / "no" / "x.json")]) == 2


def test_without_matplotlib_the_plot_names_its_extra(monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setattr(ceilings, "measure", None)
    assert run([*ARGUMENTS, "--plot", "roof.png"]) == 2
    assert "nnkernels[report]" in capsys.readouterr().err


def test_scaling_is_said_where_more_than_one_number_of_threads_was_measured() -> None:
    def gemm(threads, value):
        record = ceilings.empty("gemm_flops", "FLOP/s", dtype="float32", threads=threads)
        return replace(record, value=value)

    assert roofline._scaling([gemm(1, 100e9), gemm(1, 90e9), gemm(4, 250e9)]) == [
        "4 threads reach 2.50 times the products of one thread."
    ]
    assert roofline._scaling([gemm(2, 1e9)]) == []


def test_a_device_has_tables_of_its_own(monkeypatch, capsys) -> None:
    from nnkernels.cli._render import stdout

    device = [
        replace(
            device_ceilings.empty("gemm_flops", "FLOP/s", device="cuda:0", dtype="tf32"),
            value=3e14,
        ),
        replace(
            device_ceilings.empty("copy_bw", "B/s", device="cuda:0", level="L2", nbytes=1 << 20),
            value=5e12,
        ),
        replace(device_ceilings.empty("h2d_pinned_bw", "B/s", device="cuda:0"), value=2.5e10),
        replace(device_ceilings.empty("h2d_pinned_latency", "s", device="cuda:0"), value=8e-6),
    ]
    stdout().print(roofline._compute_table(device))
    stdout().print(roofline._memory_table(device))
    out = capsys.readouterr().out
    assert "tf32" in out
    assert "300 TFLOP/s" in out
    assert "25.0 GB/s" in out
    assert "8.00 us" in out
