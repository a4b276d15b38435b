import json
import tomllib
from pathlib import Path

import pytest

from nnkernels import plugins
from nnkernels.bench import machine
from nnkernels.cli import info
from nnkernels.cli._app import run

ROOT = Path(__file__).parents[2]


def test_the_machine_and_the_backends_are_shown(monkeypatch, capsys) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.delenv("COLUMNS", raising=False)
    known = {"numpy": None, "absent": "not available: no library"}
    monkeypatch.setattr(plugins, "availability", lambda: known)
    assert run(["info"]) == 0
    out = capsys.readouterr().out
    identity = machine.identity()
    assert identity.cpu in out
    assert f"NumPy {identity.numpy}" in out
    assert f"kernel {identity.blas.kernel}, {identity.blas.threads} threads" in out
    assert "WARN    OPENBLAS_CORETYPE=Haswell forces" in out
    assert "  numpy        available\n" in out
    assert "  absent       not available: no library\n" in out


def test_lines_fit_into_80_columns(monkeypatch, capsys) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["info"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_no_warning_without_cause(monkeypatch, capsys) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert run(["info"]) == 0
    assert "WARN" not in capsys.readouterr().out


def test_json(capsys) -> None:
    assert run(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["backends"]["numpy"] is None
    assert facts["machine"]["cores_usable"] >= 1
    known = {"version", "machine", "load", "env", "backends", "devices", "extras", "warnings"}
    assert set(facts) == known


def test_a_gpu_is_described_with_its_layers(monkeypatch, capsys) -> None:
    class Loaded:
        class device:
            @staticmethod
            def describe():
                return {"device": "a GPU", "layers": "plain on, graph off (it failed)"}

    monkeypatch.setattr(plugins, "availability", lambda: {"cupy": None})
    monkeypatch.setattr(plugins, "load", lambda name: Loaded)
    assert run(["info"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "cupy device a GPU; layers plain on, graph off (it failed)" in words


def test_a_missing_extra_comes_with_its_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(machine, "installed", lambda name: None)
    assert run(["info"]) == 0
    out = capsys.readouterr().out
    command = "matplotlib, jinja2, junitparser missing: pip install 'nnkernels[report]'"
    assert command in " ".join(out.split())


def test_extras_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = {"test", "ladder", "cuda12", "cuda13"}
    optional = {k: v for k, v in declared["optional-dependencies"].items() if k not in others}
    named = {k: tuple(r.partition(">")[0] for r in v) for k, v in optional.items()}
    assert named == info.EXTRAS


@pytest.mark.parametrize("blas", [None])
def test_an_unknown_blas(blas: None) -> None:
    assert info._blas(blas) == "not recognised"
