"""What other programs read: Markdown, JUnit, github-action-benchmark, pytest-benchmark."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import junitparser
import pytest
import runs
from msgspec.structs import replace

from nnkernels.bench import rows
from nnkernels.bench.report import gha_benchmark, junit, markdown, pytest_benchmark
from nnkernels.bench.text import legible
from nnkernels.errors import InputError

# --- Markdown and GitHub Actions ----------------------------------------------------------------


def test_markdown_says_the_answer_first():
    lines = [line for line in markdown.render([runs.ab()]).splitlines() if line]
    assert lines[0] == "## Did it get slower?"
    assert lines[1].startswith(r"**4f1c2ab is slower than 9be01c7 on 1 of 5 workloads: softmax\[")


@pytest.mark.parametrize("kind", runs.KINDS)
def test_markdown_tables_have_as_many_cells_in_each_line(kind):
    text = markdown.render([runs.every_kind()[kind]])
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) >= 2
    for table in tables:
        lines = table.replace(r"\|", "").strip().splitlines()
        assert len({line.count("|") for line in lines}) == 1


def test_markdown_is_not_what_the_text_looks_like():
    odd = "a | b\n# c <script> `d` [e](f) *g* &amp;"
    row = runs.result(median=None, status="failed", reason=odd)
    text = markdown.render([runs.run(results=[row])])
    assert "<script>" not in text and "| b" not in text.replace(r"\| b", "")
    assert r"a \| b \# c \<script\> \`d\` \[e\](f) \*g\* \&amp;" in text


def test_long_tables_are_cut_in_markdown(monkeypatch):
    monkeypatch.setattr(markdown, "MOST_ROWS", 2)
    text = markdown.render([runs.ab()])
    assert "7 more rows are in the HTML report" in text


def test_annotations_name_what_is_wrong():
    assert markdown.remarks([runs.ab(), runs.bench()]) == [
        "::error title=softmax[200000] numba is slower::takes 1.121 times as long (1.109 to 1.133)",
        "::warning title=old[200000] numba is gone::4f1c2ab has no such workload",
        "::error title=adam[200000] numba%3A failed::its process ended with exit code 7",
        "::error title=dropout[200000] numba%3A incorrect::result 0[3] is 0.5 instead of 1",
        "::error title=relu[200000] float32 numpy[relu=mine%3A<b>]%2C 2 threads%3A incorrect::"
        "result 0[0, 7] is 1.5 instead of 1",
        "::error title=tanh[200000] float32 numba%2C 2 threads%3A failed::RuntimeError: lost",
    ]


def test_an_annotation_cannot_begin_another():
    row = runs.result(median=None, status="failed", reason="100 %\n::error::planted")
    (line,) = markdown.remarks([runs.run(results=[row])])
    assert line.endswith("::100 %25%0A::error::planted")


# --- JUnit --------------------------------------------------------------------------------------


def cases(*found):
    document = junitparser.JUnitXml.fromstring(junit.render(found))
    return document, [case for suite in document for case in suite]


def test_junit_counts():
    document, every = cases(runs.ab(), runs.bench())
    assert len(every) == document.tests == 9 + len(runs.bench().results)
    assert (document.failures, document.errors, document.skipped) == (3, 3, 3)
    assert junit.render([runs.ab()]).startswith(b"<?xml")


def test_junit_tells_verdicts_apart():
    _, every = cases(runs.ab())
    found = {
        case.classname: [(type(r).__name__, r.type) for r in case.result] or case.system_out
        for case in every
    }
    assert found == {
        "nnkernels.bench.relu[200000]": "same: takes 1.001 times as long (0.989 to 1.013)",
        "nnkernels.bench.matmul[192x192x192]": "same: takes 0.996 times as long (0.984 to 1.008)",
        "nnkernels.bench.softmax[200000]": [("Failure", "slower")],
        "nnkernels.bench.tanh[200000]": "faster: takes 0.810 times as long (0.798 to 0.822)",
        "nnkernels.bench.W1[200000]": "unsure: takes 1.024 times as long (1.012 to 1.036)",
        "nnkernels.bench.fused[200000]": [("Skipped", "new")],
        "nnkernels.bench.old[200000]": [("Error", "gone")],
        "nnkernels.bench.adam[200000]": [("Error", "failed")],
        "nnkernels.bench.dropout[200000]": [("Failure", "incorrect")],
    }


def test_junit_tells_results_apart():
    _, every = cases(runs.bench())
    found = {
        (case.classname.removeprefix("nnkernels.bench."), case.name): [
            type(r).__name__ for r in case.result
        ]
        for case in every
    }
    assert found["matmul[1024x1024x1024]", "numpy float32"] == []
    assert found["relu[200000]", "numpy[relu=mine:<b>] float32"] == ["Failure"]
    assert found["tanh[200000]", "numba float32"] == ["Error"]
    assert found["relu[200000]", "native float32"] == ["Skipped"]


def test_junit_holds_no_character_that_xml_cannot():
    row = runs.result(median=None, status="failed", reason="\x1b[31mred\x00 \ud800\nnext")
    _, (case,) = cases(legible(runs.run(results=[row])))
    assert case.result[0].message == "�[31mred� � next"


def test_junit_of_nothing_is_refused():
    with pytest.raises(InputError, match="nothing for JUnit"):
        junit.render([runs.crossover()])


# --- github-action-benchmark --------------------------------------------------------------------

# The type BenchmarkResult in src/extract.ts of benchmark-action/github-action-benchmark, which
# refuses an empty list.
BENCHMARK_RESULTS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "value": {"type": "number", "exclusiveMinimum": 0},
            "unit": {"type": "string", "minLength": 1},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "required": ["name", "value", "unit"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize("run", [runs.bench(), runs.peers(), runs.roofline()])
def test_the_benchmark_action_gets_its_format(run):
    entries = json.loads(gha_benchmark.render([run]))
    jsonschema.validate(entries, BENCHMARK_RESULTS)
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    assert {entry["unit"] for entry in entries} == {"us"}
    expected = [times.median * 1e6 for r in run.results for _, times in rows.times_of(r)]
    assert [entry["value"] for entry in entries] == pytest.approx(expected)


def test_the_benchmark_action_is_told_how_sure_a_value_is():
    times = runs.times(1e-4)
    (entry,) = json.loads(
        gha_benchmark.render([runs.run(results=[runs.result("relu", "64", median=times)])])
    )
    assert entry["name"] == "relu[64] float32 numpy, 2 threads"
    assert entry["range"].startswith("± ") and entry["range"].endswith(" %")
    assert "samples: 20" in entry["extra"].splitlines()


# --- pytest-benchmark ---------------------------------------------------------------------------


def compare(folder, *arguments):
    """The real parser."""
    command = [sys.executable, "-m", "pytest_benchmark", "compare", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_pytest_benchmark_compares_what_is_exported(tmp_path):
    slow = replace(runs.bench(), results=[replace(r) for r in runs.bench().results])
    for number, run in enumerate((runs.bench(), slow), 1):
        (tmp_path / f"000{number}_run.json").write_bytes(pytest_benchmark.render([run]))
    done = compare(tmp_path, "0001_run.json", "0002_run.json", "--csv=out.csv", "--sort=fullname")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    timed = sum(t is not None for r in runs.bench().results for t in (r.times.call,)) + 3
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 2 * timed
    assert "benchmark 'W1[784-64-32-10-b32] float32': 6 tests" in done.stdout


def test_statistics_are_those_of_pytest_benchmark():
    stats = pytest.importorskip("pytest_benchmark.stats").Stats()
    times = runs.times(1e-4, spread=0.2, samples=41)
    for sample in times.samples:
        stats.update(sample)
    exported = json.loads(pytest_benchmark.render([runs.run(results=[runs.result(median=times)])]))[
        "benchmarks"
    ][0]["stats"]
    theirs = stats.as_dict()
    assert set(exported) == {*theirs, "data", "iterations"}
    assert exported.pop("outliers") == theirs.pop("outliers")
    for name, value in theirs.items():
        assert exported[name] == pytest.approx(value, rel=0.03), name


@pytest.mark.parametrize("module", [gha_benchmark, pytest_benchmark])
def test_rows_twice_or_none_are_refused(module):
    with pytest.raises(InputError, match="is there twice"):
        module.render([runs.bench(), runs.bench()])
    with pytest.raises(InputError, match="no run has times"):
        module.render([runs.ab(), runs.crossover()])
