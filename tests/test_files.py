import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import nnkernels.files
from nnkernels.errors import CheckpointError, DTypeError, InputError, NnkernelsError
from nnkernels.files import Exposure, as_path, exposure, write_atomically

ROOT = Path(nnkernels.files.__file__).parents[1]

# Dies by SIGKILL just before the call numbered argv[2] among those that touch the disk.
CRASHING_WRITE = """
import os, signal, sys
from nnkernels.files import write_atomically

left = int(sys.argv[2])

def fatal(function):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*args, **kwargs)
    return call

for name in ("open", "write", "fsync", "close", "replace"):
    setattr(os, name, fatal(getattr(os, name)))
write_atomically(sys.argv[1], b"new content")
"""


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    return path


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def own_temporary(target):
    return target.with_name(f".{target.name}.{os.getpid()}.{threading.get_native_id()}.tmp")


def fail_for_lack_of_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    "data",
    [
        b"new",
        bytearray(b"new"),
        memoryview(b"new"),
        [b"n", bytearray(b"e"), memoryview(b"w")],
        (chunk for chunk in (b"ne", b"", b"w")),
    ],
    ids=["bytes", "bytearray", "memoryview", "list", "generator"],
)
def test_every_kind_of_data_replaces_the_old_content(target, data):
    write_atomically(target, data)
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["result.json"]


@pytest.mark.parametrize("data", [b"", []])
def test_empty_data_makes_an_empty_file(tmp_path, data):
    write_atomically(str(tmp_path / "empty"), data)
    assert (tmp_path / "empty").read_bytes() == b""


def test_memory_of_wider_items_is_written_as_bytes(tmp_path):
    write_atomically(tmp_path / "wide", memoryview(b"12345678").cast("I"))
    assert (tmp_path / "wide").read_bytes() == b"12345678"


def test_a_relative_path_is_written_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_atomically("here", b"x")
    assert names(tmp_path) == ["here"]


def test_short_writes_are_continued(target, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomically(target, [b"0123456789", b"ab"])
    assert target.read_bytes() == b"0123456789ab"


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_data_is_synced_before_the_rename_and_the_folder_after(target, monkeypatch):
    calls = []

    def record(name, what=lambda *args: ""):
        original = getattr(os, name)

        def call(*args):
            calls.append((name, what(*args)))
            return original(*args)

        monkeypatch.setattr(os, name, call)

    record("write")
    record("fsync", lambda fd: "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
    record("replace", lambda old, new: Path(new).name)
    write_atomically(target, b"new")
    assert calls == [
        ("write", ""),
        ("fsync", "file"),
        ("replace", "result.json"),
        ("fsync", "folder"),
    ]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_failing_step_leaves_the_old_file_and_no_temporary(target, monkeypatch, step):
    monkeypatch.setattr(os, step, fail_for_lack_of_space)
    with pytest.raises(NnkernelsError) as caught:
        write_atomically(target, [b"12345", b"67"])
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert str(target) in str(caught.value)
    assert "7 bytes needed" in str(caught.value)
    assert "No space left" in str(caught.value)
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["result.json"]


def test_a_folder_that_cannot_be_synced_is_reported(target, monkeypatch):
    fsync = os.fsync

    def fail_for_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(NnkernelsError, match="Input/output error"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["result.json"]


def test_an_interrupt_leaves_the_old_file_and_no_temporary(target, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["result.json"]


def test_no_descriptor_leaks_on_success_or_failure(target, monkeypatch):
    open_files = Path("/proc/self/fd")
    before = len(names(open_files))
    write_atomically(target, b"new")
    monkeypatch.setattr(os, "replace", fail_for_lack_of_space)
    with pytest.raises(NnkernelsError):
        write_atomically(target, b"newer")
    assert len(names(open_files)) == before


def test_a_full_disk_keeps_the_old_file(target):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(NnkernelsError, match="100000 bytes needed") as caught:
            write_atomically(target, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["result.json"]


@pytest.mark.parametrize("step", range(9))
def test_a_kill_before_any_step_leaves_the_old_file_or_the_new(target, step):
    child = subprocess.run(
        [sys.executable, "-c", CRASHING_WRITE, str(target), str(step)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    # Steps: open, write, fsync, close, replace; open, fsync, close of the folder; none left.
    assert child.returncode == (-signal.SIGKILL if step < 8 else 0)
    assert target.read_bytes() == (b"old" if step < 5 else b"new content")
    assert len(names(target.parent)) == (2 if 1 <= step < 5 else 1)
    write_atomically(target, b"next")
    assert names(target.parent) == ["result.json"]


def test_only_stale_temporaries_of_this_target_are_removed(target):
    dead = dead_pid()
    stale = [f".result.json.{dead}.{dead}.tmp", own_temporary(target).name]
    kept = [
        f".result.json.{os.getppid()}.1.tmp",  # alive
        f".other.json.{dead}.{dead}.tmp",
        f".resultXjson.{dead}.{dead}.tmp",
        f".result.json.{dead}.tmp",
        f".result.json.{dead}.{dead}.tmp.bak",
        ".result.json.99999999999999999999.1.tmp",
    ]
    for name in stale + kept:
        target.with_name(name).write_bytes(b"")
    write_atomically(target, b"new")
    assert names(target.parent) == sorted([*kept, "result.json"])


def test_a_process_of_another_user_counts_as_alive(target, monkeypatch):
    other = target.with_name(".result.json.1.1.tmp")
    other.write_bytes(b"")

    def not_permitted(pid, number):
        assert (pid, number) == (1, 0)
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_permitted)
    write_atomically(target, b"new")
    assert other.exists()


def test_a_stale_temporary_that_cannot_be_removed_does_not_stop_the_write(target):
    dead = dead_pid()
    target.with_name(f".result.json.{dead}.{dead}.tmp").mkdir()
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"


def test_a_link_planted_as_the_temporary_is_not_followed(target):
    victim = target.with_name("victim")
    victim.write_bytes(b"precious")
    own_temporary(target).symlink_to(victim)
    write_atomically(target, b"new")
    assert victim.read_bytes() == b"precious"
    assert not target.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_link_planted_after_the_clean_up_is_refused(target, monkeypatch):
    victim = target.with_name("victim")
    victim.write_bytes(b"precious")
    own_temporary(target).symlink_to(victim)
    monkeypatch.setattr(nnkernels.files, "_remove_stale", lambda target: None)
    with pytest.raises(NnkernelsError, match="File exists"):
        write_atomically(target, b"new")
    assert victim.read_bytes() == b"precious"
    assert target.read_bytes() == b"old"


def test_a_link_at_the_target_is_replaced(target):
    link = target.with_name("link")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to device"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path, kind):
    path = tmp_path / "special"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.lstat().st_mode
    with pytest.raises(NnkernelsError, match="not a regular file"):
        write_atomically(path, b"new")
    assert path.lstat().st_mode == before


def test_a_missing_folder_is_named_with_the_bytes_needed(tmp_path):
    with pytest.raises(NnkernelsError, match=r"absent/f' \(3 bytes needed\): No such file"):
        write_atomically(tmp_path / "absent" / "f", b"new")
    assert names(tmp_path) == []


def test_the_error_class_is_the_callers_choice(tmp_path):
    with pytest.raises(CheckpointError):
        write_atomically(tmp_path / "absent" / "f", b"new", error=CheckpointError)


@pytest.mark.parametrize("data", ["text", 5, None, [1], ["a"], memoryview(b"abcd")[::2]])
def test_data_that_is_not_bytes_is_refused(target, data):
    with pytest.raises(DTypeError, match="data must be contiguous bytes"):
        write_atomically(target, data)
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("path", [None, 3, b"bytes", ["a"]])
def test_a_path_of_the_wrong_type_is_refused(path):
    with pytest.raises(DTypeError, match="reader: path must be a str"):
        as_path("reader", path)


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_an_impossible_file_name_is_refused(path):
    with pytest.raises(InputError, match="no file name can have"):
        as_path("reader", path)


def test_a_name_that_is_not_utf8_works(tmp_path):
    path = tmp_path / os.fsdecode(b"non\xff utf8")
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


def test_threads_that_write_one_file_leave_one_whole_content(target):
    contents = [bytes([65 + i]) * 50_000 for i in range(4)]
    failures = []

    def write(content):
        try:
            for _ in range(15):
                write_atomically(target, content)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert target.read_bytes() in contents
    assert names(target.parent) == ["result.json"]


# --- private folders -----------------------------------------------------------------------------


def test_a_folder_of_ones_own_is_private(tmp_path):
    for mode in (0o700, 0o755, 0o500):
        tmp_path.chmod(mode)
        assert exposure(tmp_path) is None
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_exposed(tmp_path, mode):
    tmp_path.chmod(mode)
    found = f"other users may write to {str(tmp_path)!r} and may have; remove it"
    assert exposure(tmp_path) == Exposure(foreign=False, reason=found)


def test_the_group_may_be_trusted_to_write(tmp_path):
    tmp_path.chmod(0o770)
    assert exposure(tmp_path, writers=stat.S_IWOTH) is None
    tmp_path.chmod(0o772)
    assert exposure(tmp_path, writers=stat.S_IWOTH) is not None


def test_a_folder_of_another_user_is_exposed_unless_that_one_is_trusted(tmp_path, monkeypatch):
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    found = f"{str(tmp_path)!r} belongs to user {user}, not to you ({user + 1})"
    tmp_path.chmod(0o777)
    assert exposure(tmp_path) == Exposure(foreign=True, reason=found)
    tmp_path.chmod(0o700)
    assert exposure(tmp_path, trusted={user}) is None
    tmp_path.chmod(0o777)
    assert exposure(tmp_path, trusted={user}) is not None


def test_a_link_is_judged_with_what_it_leads_to(tmp_path, monkeypatch):
    link, folder = tmp_path / "link", tmp_path / "folder"
    folder.mkdir(mode=0o700)
    link.symlink_to(folder)
    assert exposure(link) is None
    folder.chmod(0o777)
    assert exposure(link) is not None
    folder.chmod(0o700)
    stranger = SimpleNamespace(st_uid=os.getuid() + 1)
    monkeypatch.setattr(Path, "lstat", lambda _: stranger)
    assert f"belongs to user {stranger.st_uid}, not to you" in exposure(link).reason


def test_where_users_have_no_numbers_only_the_mode_counts(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "getuid")
    assert exposure(tmp_path) is None
    tmp_path.chmod(0o777)
    assert not exposure(tmp_path).foreign


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        exposure(tmp_path / "absent")
