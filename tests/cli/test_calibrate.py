"""``nnkernels calibrate``, with little effort."""

import sys

import pytest

from nnkernels.bench import results
from nnkernels.bench.gate import calibration, pairs
from nnkernels.bench.gate.pairs import Effort
from nnkernels.cli import calibrate
from nnkernels.cli._app import run
from nnkernels.errors import InputError

TINY = Effort(restarts=4, rounds=6, sample=0.0005, prime=0.05)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(pairs, "EFFORTS", {"default": TINY})
    monkeypatch.setattr(sys, "argv", ["nnkernels", "calibrate"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5,10,20", [0.05, 0.1, 0.2]), (" 5 %, 7.5", [0.05, 0.075]), ("", []), ("5,5", [0.05])],
)
def test_slowdowns(text, expected) -> None:
    assert calibrate.parse_slowdowns(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["x", "0", "-5", "nan", "1e9", "5;10"])
def test_what_is_no_slowdown(text) -> None:
    with pytest.raises(InputError, match="no percentage"):
        calibrate.parse_slowdowns(text)
    assert run(["calibrate", "--inject", text]) == 2


def test_a_small_calibration_is_printed_kept_and_used(tmp_path, capsys) -> None:
    path = tmp_path / "calibration.json"
    arguments = ["--aa", "2", "--inject", "", "-b", "numpy", "-o", str(path)]
    assert run(["calibrate", *arguments, "-k", "gate and (relu or sigmoid) and forward"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["workload", "spread", "restarts", "alarms"]
    assert max(map(len, lines[:3])) <= 80
    assert "resampled comparisons of equal code" in out
    assert "Kept for this machine" in out
    record = results.read(path)
    assert record.kind == "calibrate"
    assert record.complete
    assert {row.workload for row in record.calibration} == {"relu", "sigmoid"}
    assert set(calibration.recommended(1)) == {("relu", "numpy"), ("sigmoid", "numpy")}


@pytest.mark.parametrize(
    ("slowed", "code", "sentence"),
    [
        ("slower", 0, "The gate works here"),
        ("same", 1, "cannot be trusted"),
        (None, 3, "not every"),
    ],
)
def test_the_quick_self_tests_exit_codes(monkeypatch, capsys, slowed, code, sentence) -> None:
    def record(verdict):
        made = calibration.Calibration(calibrate._plan(None, ["numpy"], 1), [], None).record()
        (found,) = comparisons(verdict)
        return results.msgspec.structs.replace(made, complete=True, comparisons=[found])

    def comparisons(verdict):
        fields = dict.fromkeys(results.Comparison.__struct_fields__)
        lists = {"restarts", "screened", "a_samples", "b_samples", "process"}
        fields |= {name: [] for name in lists}
        status = "ok" if verdict else "failed"
        fields |= {"workload": "sigmoid", "backend": "numpy", "verdict": verdict, "status": status}
        return [results.Comparison(**fields)]

    found = calibration.SelfTest(record(slowed), record("same"))
    monkeypatch.setattr(calibration, "self_test", lambda plan, listener: found)
    assert run(["calibrate", "--quick"]) == code
    assert sentence in capsys.readouterr().out


def test_the_quick_self_test_chooses_for_itself(capsys) -> None:
    assert run(["calibrate", "--quick", "-k", "relu"]) == 2
    assert "leave -k out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_self_test(monkeypatch, capsys) -> None:
    monkeypatch.undo()
    assert run(["calibrate", "--quick"]) == 0
