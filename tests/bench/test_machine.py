import subprocess
from pathlib import Path

import msgspec
import pytest

from nnkernels.bench import machine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/run.json", "…/run.json"),
        ("--output=/home/ann/run.json", "--output=…/run.json"),
        ("boom in /a/b/c.py:3: bad", "boom in …/c.py:3: bad"),
        ("C:\\Users\\ann\\run.json", "…/run.json"),
        ("7 GB/s and W1 or relu", "7 GB/s and W1 or relu"),
        ("run.json", "run.json"),
        ("a/b.json", "a/b.json"),
    ],
)
def test_folders_are_cut(text: str, expected: str) -> None:
    assert machine.scrub(text) == expected


def test_the_home_folder_is_cut_even_with_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann lee")
    assert machine.scrub("/home/ann lee/runs/run.json") == "…/run.json"


def test_identity_describes_this_machine() -> None:
    facts = machine.identity()
    assert facts.cores_usable >= 1
    assert facts.mem_bytes > 1 << 28
    assert facts.blas is None or facts.blas.threads >= 1


@pytest.mark.parametrize(
    "change", [{"numpy": "9.9"}, {"cores_usable": 999}, {"blas": None}, {"python": "0"}]
)
def test_the_fingerprint_follows_the_identity(change: dict[str, object]) -> None:
    facts = machine.identity()
    other = msgspec.structs.replace(facts, **change)
    assert machine.fingerprint(facts) == machine.fingerprint(msgspec.structs.replace(facts))
    assert machine.fingerprint(other) != machine.fingerprint(facts)


def test_the_environment_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/home/ann/cache")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    env = machine.environment()
    assert env["OPENBLAS_CORETYPE"] == "Haswell"
    assert env["NUMBA_CACHE_DIR"] == "…/cache"
    assert "SECRET_TOKEN" not in env
    assert any("OPENBLAS_CORETYPE=Haswell" in line for line in machine.warnings(env))
    assert machine.warnings({}) == []


def test_stolen_time_is_a_share_of_the_run() -> None:
    times = type("Times", (tuple,), {"steal": property(lambda self: self[1])})
    assert machine._steal_percent(times((10, 1)), times((18, 3))) == 20.0
    assert machine._steal_percent(times((10, 1)), times((10, 1))) is None
    assert machine._steal_percent((1, 2), (3, 4)) is None


def test_git_facts_are_null_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert machine._git(tmp_path, "status") is None


@pytest.mark.parametrize(
    ("folder", "expected"), [("site-packages", "…/site-packages/nnkernels"), ("x", "…/nnkernels")]
)
def test_code_says_where_from_without_naming_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, expected: str
) -> None:
    package = tmp_path / folder / "nnkernels"
    monkeypatch.setattr(machine.nnkernels, "__file__", str(package / "__init__.py"))
    code = machine.code()
    assert code.path == expected
    assert (code.git_sha, code.dirty) == (None, None)


def test_code_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(machine.nnkernels, "__file__", str(tmp_path / "nnkernels/__init__.py"))
    answers = {"status": " M x.py", "rev-parse": "abc"}
    monkeypatch.setattr(machine, "_git", lambda folder, command, *rest: answers[command])
    assert (machine.code().git_sha, machine.code().dirty) == ("abc", True)


def test_a_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_text", lambda path: None)
    monkeypatch.setattr(machine, "threadpool_info", list)
    monkeypatch.setattr(machine.Path, "exists", lambda self: False)
    monkeypatch.delattr(machine.os, "sched_getaffinity")
    machine.identity.cache_clear()
    facts = machine.identity()
    machine.identity.cache_clear()
    assert (facts.blas, facts.l3_bytes, facts.virt) == (None, None, None)
    assert facts.cpu
    assert machine.affinity() is None
