"""``nnkernels history``, in process."""

from __future__ import annotations

import sys

import pytest
import runs

from nnkernels.bench import history, machine, results
from nnkernels.cli._app import run
from nnkernels.cli.history import spark


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "history"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(monkeypatch):
    """This machine is the one of the made-up runs."""
    monkeypatch.setattr(machine, "identity", lambda: runs.IDENTITY)


def save(folder, count, step=1.0):
    """Files of ``count`` runs; relu takes ``step`` times as long in the second half."""
    names = []
    for day in range(count):
        factor = 1e-4 * (step if 2 * day >= count else 1.0)
        rows = [runs.result("relu", "64", median=factor * (1 + day % 3 / 200)), runs.result("W1")]
        made = runs.run(results=rows, created=f"2026-11-{day + 1:02d}T00:00:00Z")
        results.write(folder / f"{day}.json", made)
        names.append(f"{day}.json")
    return names


def test_add_list_show(folder, here, capsys):
    names = save(folder, 10, step=1.3)
    assert run(["history", "add", *names]) == 0
    out = capsys.readouterr().out.splitlines()
    name = history.Store(runs.machine_of().fingerprint).name
    assert len(out) == 10 and out[-1].endswith(f" added: 10 of machine {name}")
    assert run(["history", "add", names[0]]) == 0
    assert "is there already" in capsys.readouterr().out
    assert run(["history", "list"]) == 0
    assert capsys.readouterr().out.startswith(
        f"{name}  10 runs  2026-11-01 to 2026-11-10  Example 9000 <fast & cheap>, 2 CPUs"
    )
    assert run(["history"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines()[:3])) <= 80
    assert "▁" in out and "█" in out and "1.30x 4f1c2ab" in out
    assert "relu[64] float32 numpy, 2 threads takes 1.30 times as long since 4f1c2ab" in out
    assert "'nnkernels ab OLD NEW' tells; a history cannot." in out


def test_rows_are_chosen_and_drawn(folder, here, capsys):
    run(["history", "add", *save(folder, 8, step=1.3)])
    for name, begins in (("t.png", b"\x89PNG"), ("t.svg", b"<?xml"), ("t.pdf", b"%PDF")):
        assert run(["history", "show", "-k", "relu", "--plot", name]) == 0
        assert (folder / name).read_bytes().startswith(begins)
    out, err = capsys.readouterr()
    assert "W1" not in out and err.endswith("wrote t.pdf\n")


def test_few_runs_have_no_steps(folder, here, capsys):
    run(["history", "add", *save(folder, 3)])
    assert run(["history", "show"]) == 0
    out = capsys.readouterr().out
    assert "No step was found." in out and "with fewer than 6 runs" in out


def test_another_machines_history_is_asked_for_by_name(folder, capsys):
    run(["history", "add", *save(folder, 3)])
    name = history.Store(runs.machine_of().fingerprint).name
    capsys.readouterr()
    assert run(["history", "show"]) == 2
    assert f"choose one of another by --machine: {name}" in capsys.readouterr().err
    assert run(["history", "show", "--machine", name[:6]]) == 0
    assert run(["history", "show", "--machine", "zzz"]) == 2
    assert "unknown machine 'zzz'" in capsys.readouterr().err


def test_damage_is_reported_and_the_rest_shown(folder, here, capsys):
    run(["history", "add", *save(folder, 3)])
    path = history.Store(runs.machine_of().fingerprint).path
    path.write_bytes(path.read_bytes()[:-25])
    capsys.readouterr()
    assert run(["history", "show"]) == 0
    out, err = capsys.readouterr()
    assert "line 3 cannot be read and is skipped" in err and err.count("\n") == 1
    assert "relu[64]" in out


def test_without_ruptures_the_trend_is_shown_all_the_same(folder, here, monkeypatch, capsys):
    run(["history", "add", *save(folder, 3)])
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "ruptures", None)
    assert run(["history", "show"]) == 0
    out, err = capsys.readouterr()
    assert "pip install 'nnkernels[history]'" in err and "relu[64]" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add"], "name the results to add"),
        (["list", "0.json"], "history list takes no files"),
        (["show"], "'nnkernels history add run.json' begins one"),
        (["add", "none.json"], "cannot read"),
        (["add", "ab.json"], "has no times"),
        (["show", "--plot", "x.txt"], "must end in .png, .svg or .pdf"),
        (["forget"], "forget"),
    ],
)
def test_bad_arguments(folder, arguments, message, capsys):
    results.write("ab.json", runs.ab())
    assert run(["history", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_an_empty_list(capsys):
    assert run(["history", "list"]) == 0
    assert "No history yet" in capsys.readouterr().out


def test_bars():
    assert spark([1, 2, 3]) == "▁▄█"
    assert spark([2.0] * 3) == "▄▄▄"
    assert len(spark(list(range(40)))) == 16
