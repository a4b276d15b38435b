"""``nnkernels report``, in process."""

from __future__ import annotations

import errno
import json
import os
import sys

import junitparser
import pytest
import runs

from nnkernels import files
from nnkernels.bench import results
from nnkernels.cli._app import run


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A folder to be in, with a file of each kind."""
    monkeypatch.chdir(tmp_path)
    for kind, found in runs.every_kind().items():
        results.write(tmp_path / f"{kind}.json", found)
    return tmp_path


def test_a_page_is_written_where_nothing_else_is_asked_for(saved, capsys):
    assert run(["report", "ab.json"]) == 0
    out, err = capsys.readouterr()
    assert err == "wrote report.html\n"
    assert out.startswith("4f1c2ab is slower than 9be01c7 on 1 of 5 workloads: softmax[200000]")
    assert (saved / "report.html").read_text().startswith("<!doctype html>")
    assert run(["report", "ab.json", "--md", "-"]) == 0
    assert capsys.readouterr().out.startswith("## Did it get slower?")


def test_all_formats_at_once(saved, capsys):
    options = {
        "-o": "page.html",
        "--md": "report.md",
        "--junit": "report.xml",
        "--gha-benchmark": "gha.json",
        "--pytest-benchmark": "0001_run.json",
    }
    given = [word for pair in options.items() for word in pair]
    assert run(["report", "bench.json", "ab.json", *given]) == 0
    assert capsys.readouterr().err.splitlines() == [f"wrote {name}" for name in options.values()]
    assert junitparser.JUnitXml.fromfile("report.xml").tests == 9 + len(runs.bench().results)
    assert len(json.loads((saved / "gha.json").read_text())) == 12
    assert not (saved / "report.html").exists()


@pytest.mark.parametrize("kind", runs.KINDS)
def test_every_kind_of_run_has_a_report(saved, capsys, kind):
    assert run(["report", f"{kind}.json", "--md", "out.md"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") >= 1 and "None" not in out + (saved / "out.md").read_text()


def test_a_job_of_github_gets_its_summary_and_annotations(saved, monkeypatch, capsys):
    summary = saved / "summary.md"
    summary.write_text("earlier\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run(["report", "ab.json", "--github"]) == 0
    text = summary.read_text()
    assert text.startswith("earlier\n## Did it get slower?")
    out, err = capsys.readouterr()
    assert out.startswith("::error title=softmax[200000] numba is slower::takes 1.121 times")
    assert err == "" and not (saved / "report.html").exists()


def test_outside_of_github_the_option_is_refused(saved, monkeypatch, capsys):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert run(["report", "ab.json", "--github"]) == 2
    assert "GITHUB_STEP_SUMMARY is not set" in capsys.readouterr().err


def test_the_summary_of_a_job_that_cannot_be_written(saved, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(saved / "no" / "summary.md"))
    assert run(["report", "ab.json", "--github"]) == 2
    assert "cannot append to the job's summary" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b'{"schema": "nnkernels.bench/1", "kind": "be', "is not a result of schema"),
        (b'{"schema": "nnkernels.bench/7"}', "newer than nnkernels.bench/1: read it with"),
    ],
)
def test_bad_files(saved, capsys, content, message):
    if content is not None:
        (saved / "bad.json").write_bytes(content)
    assert run(["report", "bench.json", "bad.json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert not (saved / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        (["ab.json", "-o", "no/report.html"], "-o 'no/report.html': the folder does not exist"),
        (["ab.json", "-o", "/dev/full"], "-o '/dev/full' is not a regular file"),
        (["ab.json", "--junit", "."], "--junit '.' is not a regular file"),
        (["crossover.json", "--junit", "x.xml"], "nothing for JUnit"),
        (["ab.json", "--gha-benchmark", "x.json"], "no run has times"),
        (["bench.json", "bench.json", "--pytest-benchmark", "x.json"], "is there twice"),
    ],
)
def test_bad_arguments(saved, capsys, arguments, message):
    assert run(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert not (saved / "x.json").exists()


def test_a_full_disk_is_one_sentence(saved, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "write", full)
    assert run(["report", "ab.json", "--md", "out.md"]) == 2
    err = capsys.readouterr().err
    assert "cannot write 'out.md'" in err and "No space left on device" in err
    assert err.count("\n") == 1
    assert not (saved / "out.md").exists()


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("matplotlib", ["-o", "x.html"]),
        ("jinja2", ["-o", "x.html"]),
        ("junitparser", ["--junit", "x.xml"]),
    ],
)
def test_a_missing_extra_is_named_with_its_command(saved, monkeypatch, capsys, module, options):
    monkeypatch.setitem(sys.modules, module, None)
    assert run(["report", "ab.json", *options]) == 2
    err = capsys.readouterr().err
    assert f"needs {module}, which is not installed: pip install 'nnkernels[report]'" in err


def test_it_fits_80_columns(saved, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["report", "bench.json", "crossover.json", "--md", "x.md"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80
