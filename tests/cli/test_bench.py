"""``nnkernels bench``, in process, with small budgets."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from nnkernels import plugins
from nnkernels.bench import ceilings, harness, results, survey
from nnkernels.bench.workers import WorkerHungError
from nnkernels.cli import bench
from nnkernels.cli._app import run

ROOT = Path(__file__).parents[2]
PLANTED = str(ROOT / "tests" / "bench")
QUICK = ["bench", "--preset", "quick", "--time-budget", "0.05"]
RELU = "relu and forward and not leaky"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted kernels, for workers."""
    monkeypatch.syspath_prepend(PLANTED)
    monkeypatch.setattr(sys, "argv", ["nnkernels"])


def planted(*kernels: str) -> str:
    return ",".join(f"numpy[relu=planted_kernels:{kernel}]" for kernel in kernels)


def test_a_table_in_80_columns_without_escapes(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*QUICK, "-k", "W4 or matmul", "--threads", "1", "-b", "numpy"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out
    assert lines[0].split() == [
        *("workload", "/", "backend", "thr.", "median", "+-95", "%", "samples", "rate"),
        *("of", "peak", "vs", "numpy"),
    ]
    assert lines[1].strip() == "W4  20-64-64-1-b256  float32"
    assert re.search(
        r"numpy +1 +[\d.]+ [mu]s +[\d.]+ % +\d+ +[\d.]+ [kM]samples/s +- +1.00x", lines[2]
    )
    assert lines[3].split()[0] == "textbook"
    assert re.search(r"numpy .* GFLOP/s +- +1.00x", out)
    assert re.search(
        r"numpy trains W4 \d+\.\d\d (\(unclear\) )?times as fast as the textbook's", out
    )


def test_rates_are_shown_beside_the_ceilings(tmp_path: Path, capsys, monkeypatch) -> None:
    glance = ceilings.Effort((64,), ("copy",), 64, 1, 1, 0.01)
    monkeypatch.setattr(survey, "GLANCE", survey.GLANCE._replace(cpu=glance))
    monkeypatch.setattr(bench, "LEAST_FOR_CEILINGS", 0.0)
    path = tmp_path / "run.json"
    code = run([*QUICK, "-k", RELU, "-b", "numpy", "--threads", "1", "-o", str(path)])
    out = capsys.readouterr().out
    assert code == 0
    assert re.search(r"numpy +1 .*B/s +[\d.]+ % +1.00x", out)
    record = results.read(path)
    assert {c.threads for c in record.ceilings} == {1}
    assert 0 < record.results[0].rates.pct_peak < 1.05


def test_a_device_that_does_not_answer_has_no_percentages(tmp_path, capsys, monkeypatch) -> None:
    def hung(**settings):
        raise WorkerHungError("no answer in 120 s")

    monkeypatch.setattr(ceilings, "measure", hung)
    monkeypatch.setattr(bench, "LEAST_FOR_CEILINGS", 0.0)
    path = tmp_path / "run.json"
    assert run([*QUICK, "-k", RELU, "-b", "numpy", "-o", str(path)]) == 0
    warning = "the ceilings of cpu are not known: no answer in 120 s"
    assert f"! {warning}" in capsys.readouterr().out
    record = results.read(path)
    assert (record.warnings, record.ceilings) == ([warning], [])
    assert [(r.status, r.rates.pct_peak) for r in record.results if r.backend == "numpy"] == [
        ("ok", None)
    ]


@pytest.mark.parametrize("command", [["bench", "--time-budget", "5"], ["roofline"]])
def test_interrupted_while_ceilings_are_measured(
    command: list[str], tmp_path: Path, monkeypatch
) -> None:
    def interrupted(**settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(ceilings, "measure", interrupted)
    path = tmp_path / "run.json"
    options = ["--preset", "quick", "-k", RELU, "-b", "numpy", "-o", str(path)]
    assert run([*command, *options]) == 130
    record = results.read(path)
    assert (record.kind, record.complete, record.results) == (command[0], False, [])


def test_an_impossible_rate_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    low = ceilings.empty("copy_bw", "B/s", threads=1, level="L1", nbytes=1 << 10)
    monkeypatch.setattr(ceilings, "measure", lambda **settings: [replace(low, value=1.0)])
    monkeypatch.setattr(bench, "LEAST_FOR_CEILINGS", 0.0)
    path = tmp_path / "run.json"
    assert run([*QUICK, "-k", RELU, "-b", "numpy", "-o", str(path)]) == 3
    out = capsys.readouterr().out
    assert re.search(r"numpy: FAILED: impossible rate: [\d.e+]+ B/s is .* times the measured", out)
    assert results.read(path).results[0].status == "failed"


def test_results_are_written(tmp_path: Path, capsys) -> None:
    path = tmp_path / "run.json"
    assert run([*QUICK, "-k", "relu_backward", "-o", str(path)]) == 0
    record = results.read(path)
    assert record.complete
    timed = [r.workload for r in record.results if r.status == "ok"]
    assert set(timed) == {"leaky_relu_backward", "relu_backward"}
    absent = {r.backend: r.reason for r in record.results if r.status == "skipped"}
    unavailable = {name for name, reason in plugins.availability().items() if reason}
    assert set(absent) == unavailable
    assert all(absent.values())


def test_a_wrong_kernel_is_not_timed_and_fails_the_run(capsys) -> None:
    names = f"numpy,{planted('wrong', 'broken')}"
    assert run([*QUICK, "-k", RELU, "-b", names]) == 1
    out = capsys.readouterr().out
    assert "planted_kernels:wrong]: INCORRECT, not timed: relu: result 0[0, 7] is " in out
    assert "planted_kernels:broken]: FAILED, not timed: RuntimeError: lost …/kernel.so" in out
    assert "planted_kernels:broken] failed on relu[32x64]: RuntimeError: lost …/kernel.so" in out


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        ("broken", "RuntimeError: lost"),
        ("crashing", "its process ended with exit code 7"),
        ("garbling", "its process answered garbage"),
    ],
)
def test_a_failing_kernel_makes_the_run_incomplete(capsys, kernel, reason) -> None:
    assert run([*QUICK, "-k", RELU, "-b", f"{planted(kernel)},numpy"]) == 3
    out, err = capsys.readouterr()
    assert f"planted_kernels:{kernel}]: FAILED, not timed: {reason}" in out
    assert re.search(r"  numpy +\d+ +[\d.]+ [mun]s", out)
    assert err == ""
    assert psutil.Process().children() == []


def test_two_backends_are_compared(capsys) -> None:
    assert run([*QUICK, "-k", "sigmoid and forward", "-b", "numpy,reference"]) == 0
    out = capsys.readouterr().out
    assert "  reference" in out
    assert "No other backend" not in out


def test_backends_that_are_not_named_are_listed_as_skipped(monkeypatch, capsys) -> None:
    known = {"numpy": None, "absent": "no such library"}
    monkeypatch.setattr(plugins, "availability", lambda: known)
    assert run([*QUICK, "-k", "matmul"]) == 0
    assert "skipped absent: no such library" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-k", "nothing"], 2, "matches no workload"),
        (["-k", "a or"], 2, "cannot be read"),
        (["-b", "nunpy"], 2, "Did you mean 'numpy'"),
        (["-b", "numpy[relu=nowhere:x]"], 2, "cannot be imported"),
        (["--threads", "0"], 2, "--threads"),
        (["--threads", "-5"], 2, "--threads"),
        (["--threads", "9" * 30], 2, "--threads"),
        (["--time-budget", "nan"], 2, "--time-budget"),
        (["--time-budget", "-1"], 2, "--time-budget"),
        (["--time-budget", "1e300"], 2, "--time-budget"),
        (["--preset", "huge"], 2, "--preset"),
        (["-o", "/nonexistent/run.json"], 2, "the folder does not exist"),
        (["-o", "/dev/full"], 2, "not a regular file"),
        (["-o", "."], 2, "not a regular file"),
    ],
)
def test_bad_arguments(arguments: list[str], code: int, message: str, capsys) -> None:
    assert run([*QUICK, *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


OWN = """\
import numpy as np
import nnkernels
from nnkernels.bench.declare import Cost, backend, workload

@backend("mine")
def mine():
    return nnkernels.get_backend("numpy").replace(tanh=np.tanh)

@workload("twice", sizes=[64], tolerance=1e-6)
class Twice:
    def make(self, rng, n):
        return {"x": rng.standard_normal(n), "out": np.empty(n)}

    def run(self, be, s):
        np.add(s.x, s.x, out=s.out)

    def reference(self, s):
        return 2 * s.x

    def cost(self, n):
        return Cost(n, 8 * n, n)
"""


def bench_own(tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run ``nnkernels bench --workloads``, in a process whose backends a file may add to."""
    (tmp_path / "my own.py").write_text(text)
    command = [sys.executable, "-m", "nnkernels", *QUICK, "--workloads", "my own.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )


def test_workloads_and_backends_of_ones_own(tmp_path: Path) -> None:
    done = bench_own(tmp_path, OWN, "-b", "numpy,mine", "-o", "run.json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = results.read(tmp_path / "run.json").results
    assert [(r.workload, r.backend, r.status) for r in rows] == [
        ("twice", "numpy", "ok"),
        ("twice", "mine", "ok"),
    ]
    done = bench_own(tmp_path, OWN, "-b", "mine", "-k", "tanh and forward")
    assert done.returncode == 0
    assert "mine" in done.stdout


@pytest.mark.parametrize(
    ("change", "by", "line"),
    [
        ("import nnkernels\n", "import nowhere\n", 2),
        ('"twice"', '"matmul"', 9),
        ("np.tanh", "2", 7),
        ("2 * s.x", "2 * s.y", 18),
        ("rng.standard_normal(n)", "np.zeros(n)", 9),
        ("Cost(n, 8", "Cost(n, 0", 9),
    ],
)
def test_mistakes_in_ones_own_file(tmp_path: Path, change: str, by: str, line: int) -> None:
    assert change in OWN
    done = bench_own(tmp_path, OWN.replace(change, by))
    assert done.returncode == 2
    assert f"my own.py:{line}: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_workload_of_ones_own_is_not_timed(tmp_path: Path) -> None:
    done = bench_own(tmp_path, OWN.replace("s.x, s.x, out", "s.x, 0, out"), "-b", "numpy")
    assert done.returncode == 1
    assert "INCORRECT, not timed: twice: result 0[" in done.stdout
    done = bench_own(tmp_path, OWN.replace("np.add", "np.ad"), "-b", "numpy")
    assert done.returncode == 3
    assert "FAILED, not timed: InputError: …/my own.py:15: AttributeError" in done.stdout


def ended(process: psutil.Process) -> bool:
    """Whether it ends soon; who adopts a zombie may never reap it."""
    for _ in range(1000):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
@pytest.mark.parametrize("kernel", ["right", "holding"])
def test_an_interrupted_run_leaves_no_process_and_a_partial_file(
    tmp_path: Path, number: int, code: int, kernel: str
) -> None:
    path = tmp_path / "run.json"
    names = f"numpy,{planted(kernel)}"
    options = ["--preset", "quick", "--time-budget", "100", "-o", str(path), "-b", names]
    cases = "one_hot or (relu and not leaky)"
    command = [sys.executable, "-m", "nnkernels", "bench", *options, "-k", cases]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), PLANTED])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdout.readline()
        time.sleep(0.2)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(workers) == 2
    assert all(ended(worker) for worker in workers)
    assert "Traceback" not in err
    if number != signal.SIGKILL:
        document = json.loads(path.read_text())
        assert document["complete"] is False
        assert document["results"]


@pytest.fixture
def devices(monkeypatch):
    """Fake devices, for workers; what a test adds is gone after it."""
    from nnkernels.bench.harness import registry

    for where, name in ((registry, "_added"), (plugins, "_registered"), (plugins, "_loaded")):
        monkeypatch.setattr(where, name, dict(getattr(where, name)))
    harness.add(Path(PLANTED) / "unsynchronised.py")


def test_three_times_of_a_device(devices, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*QUICK, "-k", RELU, "-b", "numpy,waiting", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines[2:6]]
    assert [row[0:2] for row in rows[1:2]] == [["waiting", "kernel"]]
    assert [row[0] for row in rows[2:]] == ["call", "e2e"]
    assert "B/s" in lines[3] and "B/s" not in lines[4] and "B/s" not in lines[5]
    assert all(re.search(r"\d\.\d\dx", line) for line in lines[2:6])


def test_a_device_that_nobody_waits_for_makes_the_run_incomplete(devices, capsys) -> None:
    assert run([*QUICK, "-k", RELU, "-b", "hasty_with_a_clock"]) == 3
    out = capsys.readouterr().out
    assert "hasty_with_a_clock: FAILED: impossible times: the kernel took " in out


def test_cold_caches_are_said_and_recorded(tmp_path: Path, capsys) -> None:
    path = tmp_path / "run.json"
    cold = ["--cache", "cold", "--threads", "1", "-o", str(path)]
    assert run([*QUICK, "-k", RELU, "-b", "numpy", *cold]) == 0
    assert "float32  cold caches" in capsys.readouterr().out
    record = results.read(path)
    assert record.settings.cache == "cold"
    assert record.results[0].loops == 1


def times(median: float) -> results.Times:
    return results.Times("s", [], [], median, 0, 0, 0, 0, (median, median), True, 0)


def gpu_row(kernel: float, queued: float, *, graph: bool) -> results.Result:
    """A row as a GPU gives it."""
    by_kind = results.TimesByKind(
        times(2 * kernel), times(kernel), times(9 * kernel), times(queued), graph
    )
    return results.Result(
        "W4", {}, "float32", "cupy", "cuda:0", None, 0.0, 2, 1, by_kind,
        results.CostRecord(1.0, 1.0, 1), results.Rates(None, None, 1 / kernel),
        results.Memory(), results.Energy(), "ok", None,
    )  # fmt: skip


def test_a_launch_bound_row_says_so_and_names_the_graph() -> None:
    row = gpu_row(2e-5, 1.9e-5, graph=True)
    assert bench._launch_bound(row) == (
        "launch-bound: the host takes 19.0 us to queue a call, the device ends one every 20.0 us "
        "as the replay of a graph; the rate says nothing of the device's peak"
    )
    case = next(c for c in harness.cases("quick") if c.workload == "W4")
    assert [name for name, _, _ in bench._kinds(case, row)] == [" graph", " call", " e2e"]
    kinds = bench._kinds(case, gpu_row(2e-5, 1e-6, graph=False))
    assert [(name, bool(rate)) for name, _, rate in kinds] == [
        *((" kernel", True), (" call", False), (" e2e", False))
    ]
