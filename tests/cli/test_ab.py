"""``nnkernels ab`` end to end: real workers, planted faults, every exit code."""

import contextlib
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

import nnkernels
from nnkernels.bench import results
from nnkernels.bench.gate import pairs
from nnkernels.bench.gate.pairs import Effort
from nnkernels.bench.workers import Sample
from nnkernels.cli import ab
from nnkernels.cli._app import run

ROOT = Path(nnkernels.__file__).parents[1]
PLANTED = str(Path(__file__).parents[1] / "bench")
TANH = "tanh and forward"
RELU = "relu and forward and not leaky"
TINY = Effort(restarts=4, rounds=5, sample=0.0005, prime=0.05, patience=60.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    """Little effort, caches of this module's own, and the planted kernels."""
    monkeypatch.setattr(pairs, "EFFORTS", {"quick": TINY, "default": TINY})
    monkeypatch.setattr(sys, "argv", ["nnkernels", "ab"])
    monkeypatch.syspath_prepend(PLANTED)


@pytest.fixture(scope="module")
def repository(planting, tmp_path_factory) -> Path:
    """Branches: ``good``, and by their fault ``slow``, ``wrong``, ``crashing`` and ``removed``."""
    folder = planting.tree(tmp_path_factory.mktemp("a b"))
    planting.commit(folder, "good")
    planting.git(folder, "branch", "good")
    for fault in ("slow", "wrong", "crashing"):
        planting.git(folder, "checkout", "--quiet", "-b", fault, "good")
        planting.replace(folder, planting.TANH, getattr(planting, fault.upper()))
        planting.commit(folder, fault)
    planting.git(folder, "checkout", "--quiet", "-b", "removed", "good")
    planting.replace(folder, '    "tanh",\n', "", "catalog/activations.py")
    planting.commit(folder, "removed")
    planting.git(folder, "checkout", "--quiet", "good")
    return folder


@pytest.fixture
def here(repository: Path, monkeypatch: pytest.MonkeyPatch, planting):
    monkeypatch.chdir(repository)
    yield repository
    assert len(planting.worktrees(repository)) == 1


def compare(*arguments: str, expression: str = TANH) -> int:
    return run(["ab", *arguments, "--preset", "quick", "-k", expression])


def planted(kernel: str) -> str:
    return f"numpy[relu=planted_kernels:{kernel}]"


def test_a_slow_commit_fails_the_gate_and_only_the_slow_kernel_is_named(
    here: Path, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "ab.json"
    code = compare(
        "good", "slow", "--gate", "-b", "numpy", "-o", str(path), expression=f"({TANH}) or ({RELU})"
    )
    out, err = capsys.readouterr()
    assert code == 1, out
    assert err == ""
    assert "\x1b" not in out
    record = results.read(path)
    assert {c.workload: c.verdict for c in record.comparisons if c.verdict == "slower"} == {
        "tanh": "slower"
    }
    assert record.complete
    assert [side.versions["numpy"] for side in record.sides] == [record.machine.identity.numpy] * 2
    table = [line for line in out.splitlines() if "numpy  " in line]
    assert max(map(len, table)) <= 80
    assert re.search(
        r"tanh numpy +[\d.]+ [nu]s +[\d.]+ [nu]s +\d\.\d{3} +[\d.]+-[\d.]+ +SLOWER", out
    )
    assert "The gate fails: B is slower." in out
    assert "re-run on another one first" in out


def test_the_working_tree_is_the_default_and_a_pass_is_told(here: Path, capsys) -> None:
    assert compare("good", "--gate", "-b", "numpy") == 0
    out = capsys.readouterr().out
    assert "B  " in out
    assert "The gate passes" in out


@pytest.mark.parametrize(
    ("b", "status", "reason"),
    [
        ("wrong", "INCORRECT", "B: tanh: result 0[0, 0] is"),
        ("crashing", "FAILED", "B: its process ended with exit code 7"),
        ("removed", "GONE", "B does not have it"),
    ],
)
def test_what_cannot_be_compared_is_incomplete(here: Path, capsys, b, status, reason) -> None:
    assert compare("good", b, "--gate", "-b", "numpy", expression="tanh and forward") == 3
    out = capsys.readouterr().out
    assert f"tanh numpy: {status}: {reason}" in out
    assert "The gate is incomplete" in out


@pytest.mark.slow
def test_a_new_workload_is_fine_beside_others(here: Path, capsys) -> None:
    expression = f"({TANH}) or ({RELU})"
    assert compare("removed", "good", "--gate", "-b", "numpy", expression=expression) == 0
    assert "tanh numpy: NEW: A does not have it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-revision", "."), "there is no revision 'no-such-revision'"),
        (("good", ".", "--strict"), "add --gate"),
        (("numpy", "good"), "one is a backend"),
        (("numpy", "numpy", "-b", "numpy"), "leave -b out"),
        (("good", ".", "--allow", "nunpy"), "Did you mean 'numpy'?"),
        (("good", ".", "-b", "nunpy"), "Did you mean 'numpy'?"),
        (("good", ".", "-o", "/no/such/folder/x.json"), "does not exist"),
    ],
)
def test_usage(here: Path, capsys, arguments, message) -> None:
    assert compare(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_backend_that_was_named_and_is_unavailable(here: Path, capsys) -> None:
    assert compare("good", ".", "-b", "native") == 3


# --- two backends of one version, whose kernels can be planted --------------------------------


def test_unsure_is_4_only_where_that_was_asked_for(capsys, monkeypatch) -> None:
    monkeypatch.setattr(pairs, "EFFORTS", {"quick": Effort(2, 2, 0.0005, 0.05)})
    assert compare("numpy", planted("right"), "--gate", "--strict", expression=RELU) == 4
    assert compare("numpy", planted("right"), "--gate", expression=RELU) == 0
    assert "not all is known" in capsys.readouterr().out


@pytest.mark.slow
def test_without_gate_slower_is_no_failure(capsys) -> None:
    assert compare("numpy", planted("slow"), expression=RELU) == 0
    assert "SLOWER" in capsys.readouterr().out


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kernel",
    [
        "crashing",
        *(pytest.param(k, marks=SLOW) for k in ("broken", "tiring", "garbling", "crashing_later")),
    ],
)
def test_a_faulty_kernel_is_never_a_verdict(capsys, kernel) -> None:
    assert compare("numpy", planted(kernel), "--gate", expression=RELU) == 3
    assert compare(planted(kernel), "numpy", "--gate", expression=RELU) == 3


def test_a_hang_is_ended(monkeypatch, capsys) -> None:
    monkeypatch.setattr(pairs, "EFFORTS", {"quick": Effort(4, 2, 0.0005, 0.05, patience=5.0)})
    assert compare("numpy", planted("hanging"), "--gate", expression=RELU) == 3
    assert "FAILED: B: no answer within 5 s" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", [0.0, float("nan"), pytest.param(float("inf"), marks=SLOW)])
def test_samples_of_no_time_are_no_verdict(monkeypatch, capsys, seconds) -> None:
    ask = pairs.Pair._ask

    def lying(self, which, reply, do, **request):
        found = ask(self, which, reply, do, **request)
        return Sample(seconds, False) if do == "sample" else found

    monkeypatch.setattr(pairs.Pair, "_ask", lying)
    assert compare("numpy", "numpy", "--gate", expression=RELU) == 3
    assert "is no measurement" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "allow", "code"),
    [
        ({"numpy": "1.0"}, (), 3),
        ({"blas": None}, (), 3),
        ({"numpy": "1.0"}, ("--allow", "numpy"), 0),
    ],
)
def test_sides_that_differ_in_more_than_nnkernels(monkeypatch, capsys, change, allow, code) -> None:
    check = pairs.check_alike
    monkeypatch.setattr(
        pairs, "check_alike", lambda a, b, tolerated: check({**a, **change}, b, tolerated)
    )
    assert compare("numpy", "numpy", "--gate", *allow, expression=RELU) == code
    if code:
        assert re.search(
            r"differ in more than nnkernels \(\w+: (1.0|None) against", capsys.readouterr().err
        )


def test_the_wrong_tree_is_noticed(here: Path, monkeypatch, capsys) -> None:
    from dataclasses import replace

    from nnkernels.bench.gate import sides

    made = sides._side
    monkeypatch.setattr(sides, "_side", lambda place: replace(made(place), path=list(sys.path)))
    assert compare("good", ".", "--gate", "-b", "numpy") == 3
    assert "import nnkernels from another place" in capsys.readouterr().err


# --- interrupted --------------------------------------------------------------------------------


def wait_for_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The two workers, once they run; those that ended in between are others'."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = []
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                found += [child] if "__main__.py" in " ".join(child.cmdline()) else []
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=SLOW), (signal.SIGHUP, 129)],
)
def test_an_interrupted_run_leaves_a_partial_file_and_nothing_else(
    here: Path, tmp_path: Path, number, code
) -> None:
    path = tmp_path / "ab.json"
    command = [sys.executable, "-m", "nnkernels", "ab", "good", ".", "-b", "numpy", "-k", TANH]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), PLANTED])}
    environment["TMPDIR"] = str(scratch)
    process = subprocess.Popen(
        [*command, "--restarts", "900", "-o", str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        children = wait_for_workers(process)
        time.sleep(1)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert json.loads(path.read_text())["complete"] is False
    assert not any(child.is_running() for child in children)
    assert not list(scratch.iterdir())


def test_sentences_for_every_outcome() -> None:
    assert set(ab.SENTENCES) == {"passed", "slower", "incomplete", "unsure"}
