import json
from pathlib import Path

import jsonschema
import pytest
import runs

import nnkernels.bench
from nnkernels.bench import results
from nnkernels.bench.harness import cases
from nnkernels.bench.session import Effort, Plan, Session, choose_backends, hired
from nnkernels.errors import ResultError

SCHEMA = Path(nnkernels.bench.__file__).parent / "schema" / "bench-1.json"
TINY = Effort(0.05, 2, 3, 0.01)


class Silent:
    def begin(self, case, number, total) -> None: ...

    def finish(self, case, found) -> None: ...


@pytest.fixture(scope="module")
def run() -> results.Run:
    chosen = [case for case in cases("quick") if case.workload in ("W4", "relu", "one_hot")]
    backends, skipped = choose_backends([])
    plan = Plan(chosen, "quick", backends, {**skipped, "absent": "not here"}, TINY)
    with hired(plan) as crew:
        session = Session(plan, crew, Silent())
        session.run()
    return session.record()


def test_the_committed_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text()) == results.json_schema()


def test_a_real_run_validates_and_reads_back(run: results.Run, tmp_path: Path) -> None:
    results.write(tmp_path / "run.json", run)
    document = json.loads((tmp_path / "run.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert results.read(tmp_path / "run.json") == run
    assert document["schema"] == "nnkernels.bench/1"


@pytest.mark.parametrize("kind", runs.KINDS)
def test_every_kind_of_run_validates_and_reads_back(kind: str, tmp_path: Path) -> None:
    made = runs.every_kind()[kind]
    results.write(tmp_path / "run.json", made)
    document = json.loads((tmp_path / "run.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert results.read(tmp_path / "run.json") == made


def test_the_kinds_are_those_of_the_schema() -> None:
    schema = results.json_schema()["$defs"]["Run"]["properties"]["kind"]
    assert set(schema["enum"]) == set(runs.KINDS) == set(runs.every_kind())


def test_what_is_not_measured_is_null(run: results.Run) -> None:
    document = json.loads(results.encode(run))
    timed = next(r for r in document["results"] if r["backend"] == "numpy")
    skipped = next(r for r in document["results"] if r["backend"] == "absent")
    assert timed["memory"] == {"peak_rss_bytes": None, "device_pool_peak_bytes": None}
    assert timed["energy"] == {"joules": None, "source": None}
    assert timed["times"]["kernel"] is None
    assert skipped["times"]["call"] is None
    assert skipped["correctness"] is None
    assert (skipped["status"], skipped["reason"]) == ("skipped", "not here")


def test_samples_tell_the_processes_apart(run: results.Run) -> None:
    found = {r.backend: set(r.times.call.process) for r in run.results if r.times.call}
    assert {"numpy", "textbook"} <= set(found)
    assert sorted(number for (number,) in found.values()) == list(range(len(found)))


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    early = results.new_id()
    monkeypatch.setattr(results.time, "time_ns", lambda: 2 * 10**18)
    late = results.new_id()
    assert len(early) == len(late) == 26
    assert early < late
    assert late != results.new_id()


def changed(run: results.Run, **keys: object) -> bytes:
    return json.dumps({**json.loads(results.encode(run)), **keys}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: changed(run, unknown=1),
        lambda run: changed(run, schema="nnkernels.bunch/1"),
        lambda run: changed(run, results=[{}]),
        lambda run: changed(run, seed="one"),
        lambda run: results.encode(run)[:-20],
        lambda run: b"",
        lambda run: b"\xff\xfe",
        lambda run: b"[" * 100_000,
    ],
)
def test_damaged_files_are_refused(run: results.Run, tmp_path: Path, damage) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(damage(run))
    with pytest.raises(ResultError, match=r"run\.json.*is not a result"):
        results.read(path)


def test_missing_and_huge_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResultError, match="cannot read"):
        results.read(tmp_path / "none.json")
    monkeypatch.setattr(results, "MAX_BYTES", 3)
    (tmp_path / "big.json").write_bytes(b"1234")
    with pytest.raises(ResultError, match="4 bytes"):
        results.read(tmp_path / "big.json")


def test_results_name_no_folder(run: results.Run) -> None:
    text = results.encode(run).decode()
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text


def test_version_0_still_loads(run: results.Run, tmp_path: Path) -> None:
    document = json.loads(results.encode(run))
    document["schema"] = "nnkernels.bench/0"
    del document["kind"], document["settings"]["cache"], document["settings"]["gc"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert results.read(tmp_path / "old.json") == run


def test_a_newer_schema_is_told_apart_from_garbage(run: results.Run, tmp_path: Path) -> None:
    document = json.loads(results.encode(run)) | {"schema": "nnkernels.bench/2"}
    (tmp_path / "new.json").write_text(json.dumps(document))
    with pytest.raises(ResultError, match=r"bench/2, which is newer than nnkernels\.bench/1"):
        results.read(tmp_path / "new.json")
