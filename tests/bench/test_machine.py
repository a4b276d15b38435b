import itertools
import os
import subprocess
import sys
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


FINGERPRINT = "from nnkernels.bench import machine; print(machine.identity().blas.{}, end=' '); "
FINGERPRINT += "print(machine.fingerprint(machine.identity()))"


def fingerprint_of_a_process(fact: str, **environment: str) -> list[str]:
    """A fact of the BLAS, and the fingerprint, in a process with these variables."""
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT.format(fact)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("fact", "variable", "values"),
    [
        ("kernel", "OPENBLAS_CORETYPE", ("Nehalem", "Sandybridge")),
        ("threads", "OPENBLAS_NUM_THREADS", ("1", "2")),
    ],
)
def test_the_fingerprint_follows_the_blas_kernel_and_its_threads(fact, variable, values) -> None:
    blas = machine.identity().blas
    if blas is None or blas.vendor != "openblas" or machine.identity().arch != "x86_64":
        pytest.skip("only OpenBLAS on x86 is told which kernel to use")
    (first, one), (second, other) = (
        fingerprint_of_a_process(fact, **{variable: value}) for value in values
    )
    if first == second:
        pytest.skip(f"this OpenBLAS has one {fact} only: {first}")
    assert one != other


def test_the_fingerprint_does_not_follow_load_and_frequency(monkeypatch) -> None:
    monkeypatch.setattr(machine, "load", lambda: [0.1, 0.1, 0.1])
    monkeypatch.setattr(machine, "mhz", lambda: [1000.0])
    quiet = machine.describe(machine.Start())
    monkeypatch.setattr(machine, "load", lambda: [9.0, 9.0, 9.0])
    monkeypatch.setattr(machine, "mhz", lambda: [4000.0])
    busy = machine.describe(machine.Start())
    assert quiet.volatile != busy.volatile
    assert quiet.fingerprint == busy.fingerprint


@pytest.mark.parametrize(
    ("cpus", "count"), [("0", 1), ("0-3", 4), ("0-1,8-9", 4), ("0,2", 2), ("", 1)]
)
def test_cpus_are_counted(cpus, count) -> None:
    assert machine._count(cpus) == count


def test_caches_grow_from_level_to_level() -> None:
    found = machine.caches()
    assert [c.level for c in found] == sorted({c.level for c in found})
    assert all(a.nbytes <= b.nbytes for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({}, None),
        ({"no_turbo": "0"}, True),
        ({"no_turbo": "1"}, False),
        ({"boost": "1"}, True),
        ({"boost": "0"}, False),
    ],
)
def test_turbo(monkeypatch, files, turbo) -> None:
    monkeypatch.setattr(machine, "_text", lambda path: files.get(Path(path).name))
    assert machine.turbo() is turbo


def test_memory_pressure(monkeypatch) -> None:
    text = "some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.50 total=1"
    monkeypatch.setattr(machine, "_text", lambda path: text)
    assert machine.memory_pressure() == 1.25


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
    assert machine.steal_percent(times((10, 1)), times((18, 3))) == 20.0
    assert machine.steal_percent(times((10, 1)), times((10, 1))) is None
    assert machine.steal_percent((1, 2), (3, 4)) is None


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
