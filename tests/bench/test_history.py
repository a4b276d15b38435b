"""The store: appended under a lock, damaged lines skipped, steps found."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys

import filelock
import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nnkernels.bench import history
from nnkernels.bench.history import Damage, Store, Trend, chosen, steps, stores, trends
from nnkernels.errors import InputError, MissingExtraError, ResultError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "history"))
    return tmp_path / "history"


@pytest.fixture
def store():
    return Store(runs.machine_of().fingerprint)


def dated(day: int, factor: float = 1.0, **fields):
    rows = [runs.result("relu", "64", median=1e-4 * factor), runs.result("W1", median=2e-4)]
    return runs.run(results=rows, created=f"2026-11-{day:02d}T00:00:00Z", **fields)


def test_without_files_it_is_empty(store):
    assert store.read() == ([], []) and stores() == []


def test_runs_are_kept_in_the_order_of_their_time(store):
    late, early = dated(9), dated(3)
    assert store.add(late) and store.add(early)
    entries, damaged = store.read()
    assert [entry.id for entry in entries] == [early.id, late.id] and damaged == []
    assert [store.name for store in stores()] == [store.name]
    point = entries[0].points[0]
    times = early.results[0].times.call
    assert (point.median, point.ci, point.samples) == (times.median, times.ci, 20)
    assert entries[0].revision == "4f1c2ab"
    assert entries[0].machine.startswith("Example 9000 <fast & cheap>, 2 CPUs, openblas Haswell")


def test_a_run_is_kept_once(store):
    run = dated(1)
    assert [store.add(run), store.add(run)] == [True, False]
    assert len(store.read()[0]) == 1


def test_raw_samples_are_not_kept(store):
    store.add(dated(1))
    assert len(store.path.read_bytes()) < 1000


def test_another_machine_or_a_run_without_times_is_refused(store):
    other = runs.machine_of(replace(runs.IDENTITY, numpy="2.0.0"))
    with pytest.raises(InputError, match="another machine"):
        store.add(dated(1, machine=other))
    with pytest.raises(InputError, match="has no times"):
        store.add(runs.ab())
    assert store.read() == ([], [])


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "", "abc", "F" * 16, "a" * 15 + "/", "a" * 65]
)
def test_a_fingerprint_is_not_any_path(name):
    with pytest.raises(InputError, match="is not a fingerprint"):
        Store(name)


def test_other_files_in_the_folder_are_no_histories(store):
    store.add(dated(1))
    (store.path.parent / "notes.jsonl").write_text("mine")
    assert [found.name for found in stores()] == [store.name]


def test_a_last_line_that_was_cut_short_is_skipped_and_stays_apart(store):
    first, second, third = dated(1), dated(2), dated(3)
    store.add(first)
    store.add(second)
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:-40])
    entries, damaged = store.read()
    assert [entry.id for entry in entries] == [first.id]
    assert [line.line for line in damaged] == [2]
    store.add(third)
    entries, damaged = store.read()
    assert [entry.id for entry in entries] == [first.id, third.id]
    assert [line.line for line in damaged] == [2]
    assert store.path.read_bytes().startswith(whole[:-40])


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3))
def test_no_damage_hides_the_other_lines(garbage, place):
    store = Store("f" * 64)
    store.path.parent.mkdir(exist_ok=True)
    lines = [history.msgspec.json.encode(history.entry_of(dated(d))) for d in (1, 2, 3)]
    store.path.write_bytes(b"\n".join([*lines[:place], garbage, *lines[place:]]))
    entries, damaged = store.read()
    assert [entry.created[8:10] for entry in entries] == ["01", "02", "03"]
    assert len(damaged) <= len(garbage.splitlines()) + 1


def test_an_unknown_key_is_damage(store):
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(b'{"schema": "nnkernels.history/2"}\n[]\n')
    entries, damaged = store.read()
    assert entries == [] and [line.line for line in damaged] == [1, 2]
    assert isinstance(damaged[0], Damage) and "nnkernels.history/2" in damaged[0].reason


def test_a_full_disk_leaves_the_file_as_it_was(store, monkeypatch):
    store.add(dated(1))
    before = store.path.read_bytes()
    write = os.write

    def full(descriptor, data):
        if len(data) < 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:50])

    monkeypatch.setattr(history.os, "write", full)
    with pytest.raises(ResultError, match="No space left on device"):
        store.add(dated(2))
    assert store.path.read_bytes() == before


def test_a_folder_that_cannot_be_made(store, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "file" / "history"))
    with pytest.raises(ResultError, match="choose another folder by NNKERNELS_HISTORY"):
        store.add(dated(1))


def test_a_lock_that_is_held_is_waited_for_but_not_forever(store, monkeypatch):
    monkeypatch.setattr(history, "PATIENCE", 0.1)
    store.path.parent.mkdir(parents=True)
    lock = filelock.FileLock(store.path.with_suffix(".lock"))
    with lock, pytest.raises(ResultError, match="another process holds its lock"):
        store.add(dated(1))
    assert store.add(dated(1))


ADD = """
import sys, runs
from nnkernels.bench.history import Store
for _ in range(5):
    run = runs.run(results=[runs.result() for _ in range(20)])
    Store(run.machine.fingerprint).add(run)
"""


def test_processes_that_append_at_once_lose_nothing(store):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ADD]
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    entries, damaged = store.read()
    assert (len(entries), damaged) == (10, [])


# --- trends -------------------------------------------------------------------------------------


def trend(logs) -> Trend:
    entries = [history.entry_of(dated(1 + n % 28, math.exp(log))) for n, log in enumerate(logs)]
    return next(t for t in trends(entries) if t.row.workload == "relu")


def test_rows_are_followed_over_the_runs_that_have_them(store):
    store.add(dated(1))
    store.add(runs.run(results=[runs.result("relu", "64")], created="2026-11-02T00:00:00Z"))
    found = {t.row.workload: len(t.points) for t in trends(store.read()[0])}
    assert found == {"relu": 2, "W1": 1}


@pytest.mark.parametrize(
    ("expression", "names"),
    [(None, {"relu", "W1"}), ("relu", {"relu"}), ("not RELU and numpy", {"W1"})],
)
def test_rows_are_chosen_by_words(store, expression, names):
    store.add(dated(1))
    found = chosen(trends(store.read()[0]), expression)
    assert {t.row.workload for t in found} == names


def test_no_row_is_an_error(store):
    store.add(dated(1))
    with pytest.raises(InputError, match="matches none of 2 rows"):
        chosen(trends(store.read()[0]), "nothing")
    with pytest.raises(InputError, match="it is empty"):
        chosen([], None)


def test_a_step_is_found_where_it_is():
    noise = 0.01 * np.random.default_rng(0).standard_normal(16)
    noise[4] += 0.5  # one odd run
    (step,) = steps(trend(noise + 0.2 * (np.arange(16) >= 9)))
    assert step.index == 9
    assert step.ratio == pytest.approx(math.exp(0.2), rel=0.03)


def test_equal_levels_have_no_step():
    for seed in range(10):
        assert steps(trend(0.03 * np.random.default_rng(seed).standard_normal(12))) == []
    assert steps(trend([0.0] * 12)) == [] == steps(trend([0.0, 0.0, 1.0, 1.0]))


def test_without_ruptures_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ruptures", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nnkernels\[history\]'"):
        steps(trend([0.0] * 8))
