"""``nnkernels doctor``: findings, remedies, and the exit code."""

import json

import pytest

from nnkernels.bench import doctor
from nnkernels.bench.doctor import Finding
from nnkernels.cli._app import run
from nnkernels.cli.doctor import conclusion

GOOD = Finding("timer", "ok", "40.0 ns a reading, monotonic", figures={"reading_s": 4e-8})
BAD = Finding("load", "warn", "others keep 1.80 of 2 CPUs busy", "close what else runs")


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def joined(text: str) -> str:
    return " ".join(text.split())


def planted(monkeypatch, **checks) -> None:
    monkeypatch.setattr(doctor, "ALL", {name: lambda f=f: f for name, f in checks.items()})


def test_nothing_wrong(monkeypatch, capsys) -> None:
    planted(monkeypatch, timer=GOOD)
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "  OK    timer          40.0 ns a reading, monotonic\n" in out
    assert "No warning in 1 check: nothing was found that makes numbers wrong here." in joined(out)
    assert out.startswith("nnkernels ")
    assert "extras" not in out


def test_a_warning_comes_with_its_remedy_and_exit_code(monkeypatch, capsys, tmp_path) -> None:
    planted(monkeypatch, timer=GOOD, load=BAD)
    written = tmp_path / "doctor.json"
    assert run(["doctor", "--json", str(written)]) == 1
    out = capsys.readouterr().out
    assert "  WARN  load           others keep 1.80 of 2 CPUs busy\n" in out
    assert "-> close what else runs\n" in out
    assert "1 of 2 checks warn (load)" in joined(out)
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads(written.read_text())
    assert [f["status"] for f in found["findings"]] == ["ok", "warn"]
    assert found["findings"][0]["figures"] == {"reading_s": 4e-8}
    assert found["machine"]["cores_usable"] >= 1


def test_quick_is_info_and_what_takes_seconds(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "ALL", None)
    monkeypatch.setattr(doctor, "CHEAP", {"timer": lambda: GOOD})
    assert run(["doctor", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "backends" in out
    assert "OK    timer" in out


def test_a_check_that_could_not_be_made_is_no_warning(monkeypatch, capsys) -> None:
    planted(monkeypatch, noise=Finding("noise", "skipped", "could not be measured: no room"))
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "could not be measured: no room" in out
    assert "1 check could not be made" in joined(out)


def test_a_bad_target_is_refused_first(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(doctor, "ALL", None)
    assert run(["doctor", "--json", str(tmp_path / "no" / "x.json")]) == 2


def test_the_conclusion_counts() -> None:
    assert conclusion([GOOD, GOOD]).startswith("No warning in 2 checks:")
    assert conclusion([GOOD, BAD, BAD]).startswith("2 of 3 checks warn")
