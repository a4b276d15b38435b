"""``nnkernels prebuild``."""

from __future__ import annotations

import hashlib
import sys

import pytest

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.compiling import manifest
from nnkernels.backends.cupy.compiling.code_cache import default_folder
from nnkernels.cli import prebuild
from nnkernels.cli._app import run
from nnkernels.errors import InputError


class Nvrtc:
    """A compiler whose code is its options."""

    class NVRTCError(RuntimeError):
        pass

    def __init__(self):
        self.compiled = 0

    def getVersion(self):
        return (13, 0)

    def getSupportedArchs(self):
        return (80, 90)

    def createProgram(self, source, name, headers, include_names):
        return [source, name]

    def compileProgram(self, program, options):
        self.compiled += 1
        program.append(options)

    def getCUBIN(self, program):
        return repr(program[1:]).encode()

    getPTX = getCUBIN

    def destroyProgram(self, program):
        program.clear()


@pytest.fixture
def nvrtc(monkeypatch, tmp_path):
    """A compiler, two modules, and a cache folder of this test alone."""
    made = Nvrtc()
    monkeypatch.setattr(prebuild, "_nvrtc", lambda: made)
    monkeypatch.setattr(sources, "module_names", lambda: ("losses", "updates"))
    monkeypatch.setattr(sources, "amalgamated", lambda module: f"// {module}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_all_modules_go_into_the_cache_for_every_storage(nvrtc, capsys):
    assert run(["prebuild", "--arch", "sm_90"]) == 0
    out = capsys.readouterr().out
    assert nvrtc.compiled == 2 * len(sources.STORAGES)
    assert f"kept in {default_folder()}" in out
    files = {path.name for path in default_folder().iterdir()}
    listed = manifest.read(default_folder() / manifest.NAME)
    assert files == {each.file for each in listed.entries} | {manifest.NAME}
    for each in listed.entries:
        content = (default_folder() / each.file).read_bytes()
        assert (each.sha256, each.size) == (hashlib.sha256(content).hexdigest(), len(content))
        assert f"{each.sha256[:16]}" in out
    assert listed.nvrtc == "13.0"
    assert listed.digest("losses", "float64", "sm_90") in {e.sha256 for e in listed.entries}
    assert listed.digest("losses", "float64", "sm_80") is None


def test_a_second_run_compiles_nothing(nvrtc, capsys):
    run(["prebuild", "--arch", "sm_90", "--storage", "float32"])
    capsys.readouterr()
    assert run(["prebuild", "--arch", "sm_90", "--storage", "float32"]) == 0
    assert nvrtc.compiled == 2
    assert capsys.readouterr().out.count("known") == 2


def test_several_architectures_and_ptx_into_a_folder(nvrtc, tmp_path):
    target = tmp_path / "image" / "cupy"
    arguments = ["--arch", "sm_80", "--arch", "compute_90", "--arch", "sm_80"]
    assert run(["prebuild", *arguments, "--storage", "float32", "--output", str(target)]) == 0
    found = sorted(path.name.split("-")[2] for path in target.iterdir() if "-" in path.name)
    assert found == ["compute_90", "compute_90", "sm_80", "sm_80"]
    assert len(list(target.glob("*.ptx"))) == len(list(target.glob("*.cubin"))) == 2
    assert not default_folder().exists()


def test_the_list_of_architectures(nvrtc, capsys):
    assert run(["prebuild", "--list"]) == 0
    assert capsys.readouterr().out == "sm_80\nsm_90\n"
    assert nvrtc.compiled == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "prebuild: which GPU? --arch sm_90"),
        (["--arch", "sm_75"], "architecture 'sm_75': NVRTC 13.0 compiles for sm_80, sm_90"),
        (
            ["--arch", "sm_90", "--storage", "float23"],
            "unknown storage type 'float23'. Did you mean 'float32'?",
        ),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is(nvrtc, capsys, arguments, message):
    assert run(["prebuild", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert nvrtc.compiled == 0


def test_a_folder_that_cannot_be_written_is_incomplete(nvrtc, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "cupy"
    options = ["--arch", "sm_90", "--storage", "float32", "--output", str(target)]
    assert run(["prebuild", *options]) == 3
    captured = capsys.readouterr()
    assert "for this process only" in captured.err and "kept in" not in captured.out


def test_without_cupy_the_remedy_is_given(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert run(["prebuild", "--list"]) == 3
    assert "pip install 'nnkernels[cuda13]'" in capsys.readouterr().err


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"nvrtc": 13}')
    with pytest.raises(InputError, match=r"is no manifest of compiled modules.*prebuild"):
        manifest.read(tmp_path / "manifest.json")
