"""Object code kept on disk: verified, shared by processes, private, never a reason to fail."""

import errno
import functools
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels
from nnkernels.backends.numba.compiling import object_cache
from nnkernels.backends.numba.compiling.object_cache import (
    CacheWarning,
    ObjectCache,
    default_cache,
    source_key,
)
from nnkernels.errors import InputError

pytestmark = pytest.mark.timeout(120)

KEY = "0123456789abcdef"
CODE = bytes(range(256)) * 5
NOBODY = 65534
PACKAGES = Path(nnkernels.__file__).parents[1]
ONE_KEY = 'cache = ObjectCache(Path(sys.argv[1]), "0123456789abcdef")\n'

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")


@pytest.fixture(autouse=True)
def first_damage(monkeypatch):
    """Every test is a new process as far as the one warning about damage is concerned."""
    monkeypatch.setattr(object_cache, "_first_damage", threading.Lock())


@pytest.fixture
def root(tmp_path):
    return tmp_path / "nnkernels"


@pytest.fixture
def cache(root):
    return ObjectCache(root, KEY)


@pytest.fixture
def stored(cache):
    """The file of a stored name ``f``."""
    cache.store("f", CODE)
    return only_file(cache)


def only_file(cache):
    (path,) = cache.folder.iterdir()
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make_old(path, days):
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))


def assert_replaced(cache, name="f", match=""):
    """``name`` cannot be loaded, which is said once; stored again, it can."""
    with pytest.warns(CacheWarning, match=match) as caught:
        assert cache.load(name) is None
    assert len(caught) == 1
    assert "compiled again" in str(caught[0].message)
    assert Path(caught[0].filename) == Path(__file__)
    assert names(cache.folder) == []
    cache.store(name, CODE)
    assert cache.load(name) == CODE


def child(script, *arguments, prefix=()):
    """Start ``script`` with warnings as errors."""
    return subprocess.Popen(
        [
            *prefix,
            sys.executable,
            "-W",
            "error",
            "-c",
            "import sys\nfrom pathlib import Path\n"
            "from nnkernels.backends.numba.compiling.object_cache import *\n" + script,
            *map(str, arguments),
        ],
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=100)
    return process.returncode, output


# --- what is stored can be loaded --------------------------------------------------------------


def test_what_one_process_stores_another_loads(cache, root):
    assert cache.load("f") is None
    cache.store("f", CODE)
    cache.store("g", b"")
    assert (cache.load("f"), cache.load("g")) == (CODE, b"")
    script = ONE_KEY + 'print(cache.load("f") == bytes(range(256)) * 5, cache.load("g"))'
    assert finish(child(script, root)) == (0, "True b''\n")


def test_storing_again_replaces(cache):
    cache.store("f", b"old")
    cache.store("f", CODE)
    assert cache.load("f") == CODE
    assert len(names(cache.folder)) == 1


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return ObjectCache(tmp_path_factory.mktemp("shared"), KEY)


ANY_NAME = st.text(st.characters(), max_size=300)  # lone surrogates and NUL, too


@settings(max_examples=150, deadline=None)
@given(contents=st.dictionaries(ANY_NAME, st.binary(max_size=3000), max_size=4))
def test_any_names_and_any_code(shared_cache, contents):
    for name, code in contents.items():
        shared_cache.store(name, code)
    assert {name: shared_cache.load(name) for name in contents} == contents


@settings(max_examples=150, deadline=None)
@given(one=ANY_NAME, other=ANY_NAME)
def test_file_names_are_plain_short_and_distinct(shared_cache, one, other):
    paths = [shared_cache._path(name) for name in (one, other)]
    for path in paths:
        assert re.fullmatch(r"[0-9A-Za-z_]{0,40}-[0-9a-f]{24}\.o", path.name)
        assert path.parent == shared_cache.folder
    assert (paths[0] == paths[1]) == (one == other)


def test_a_file_name_begins_readably(cache):
    cache.store("linear/relu:float32=C", CODE)
    assert only_file(cache).name.startswith("linear_relu_float32_C-")


def test_a_long_name_gives_a_short_file_name(cache):
    cache.store("kernel" * 1000, CODE)
    assert only_file(cache).name.startswith("kernelkernel")
    assert len(only_file(cache).name) < 80
    assert cache.load("kernel" * 1000) == CODE


def test_keys_do_not_mix(root, cache):
    cache.store("f", CODE)
    assert ObjectCache(root, "other").load("f") is None


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "/", "a\0", "ä", "a\n", "x" * 65])
def test_a_key_that_cannot_name_a_folder_is_refused(root, key):
    with pytest.raises(InputError, match="key must be"):
        ObjectCache(root, key)
    assert not root.exists()


def test_folders_and_files_are_for_their_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        cache = ObjectCache(tmp_path / "deep" / "nnkernels", KEY)
        cache.store("f", CODE)
    finally:
        os.umask(before)
    for folder in (cache.folder, *cache.folder.parents[:2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(cache).stat().st_mode) == 0o600


def test_the_default_is_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = default_cache(KEY)
    assert cache.folder == tmp_path / "nnkernels" / "numba" / KEY
    cache.store("f", CODE)
    assert default_cache(KEY).load("f") == CODE


# --- what is damaged is never returned ---------------------------------------------------------


def test_200_flipped_bits_give_200_right_answers(cache, stored):
    rng = random.Random(20)
    right = 0
    for _ in range(200):
        content = bytearray(stored.read_bytes())
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        stored.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            right += cache.load("f") is None
        assert not stored.exists()
        cache.store("f", CODE)
        assert cache.load("f") == CODE
    assert right == 200


@pytest.mark.parametrize("byte", range(48))
def test_every_byte_of_the_header_counts(cache, stored, byte):
    content = bytearray(stored.read_bytes())
    content[byte] ^= 0x80
    stored.write_bytes(content)
    assert_replaced(cache, match=re.escape(str(stored)))


@settings(max_examples=100, deadline=None)
@given(
    code=st.binary(max_size=200),
    edit=st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=60)),
)
def test_any_edit_is_noticed(shared_cache, code, edit):
    shared_cache.store("edited", code)
    path = shared_cache._path("edited")
    content = path.read_bytes()
    start, end, new = edit
    changed = content[:start] + new + content[end:]
    path.write_bytes(changed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        assert shared_cache.load("edited") == (code if changed == content else None)
    assert path.exists() == (changed == content)


@pytest.mark.parametrize("size", [0, 1, 47, 48, 49, len(CODE) + 47])
def test_a_truncated_file(cache, stored, size):
    os.truncate(stored, size)
    assert_replaced(cache)


@pytest.mark.parametrize(
    "content", [b"\x7fELF" + CODE, b"\0" * 2000, b"\x80\x04N." * 50], ids=["elf", "zeros", "pickle"]
)
def test_foreign_content(cache, stored, content):
    stored.write_bytes(content)
    assert_replaced(cache, match="no file of this cache")


def test_a_file_of_another_version(cache, stored, monkeypatch):
    monkeypatch.setattr(object_cache, "MAGIC", b"nnkobj\0\2")
    assert_replaced(cache, match="another version")


def test_a_huge_foreign_file_is_not_read(cache, stored):
    header = stored.read_bytes()[:48]
    stored.write_bytes(header)
    os.truncate(stored, 1 << 42)
    assert_replaced(cache, match="wrong length")


def test_a_file_under_another_name(cache, stored):
    stored.rename(cache._path("g"))
    assert_replaced(cache, "g", match="wrong checksum")


def test_a_file_of_another_key(root, cache, stored):
    other = ObjectCache(root, "other")
    stored.rename(other._path("f"))
    assert_replaced(other, match="wrong checksum")


def test_a_link_is_not_followed_even_to_good_content(cache, stored, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    stored.rename(elsewhere)
    stored.symlink_to(elsewhere)
    assert_replaced(cache)
    assert elsewhere.exists()
    assert not stored.is_symlink()


def test_a_pipe_does_not_block(cache, stored):
    stored.unlink()
    os.mkfifo(stored)
    assert_replaced(cache, match="not a regular file")


def test_a_file_that_others_may_write(cache, stored):
    stored.chmod(0o620)
    assert_replaced(cache, match="may write to it")


@needs_root
def test_a_file_of_another_user(cache, stored):
    os.chown(stored, NOBODY, -1)
    assert_replaced(cache, match="another user owns it")


def test_a_folder_in_the_files_place(cache, stored):
    stored.unlink()
    stored.mkdir()
    with pytest.warns(CacheWarning, match="not a regular file"):
        assert cache.load("f") is None
    with pytest.warns(CacheWarning, match="kept in memory"):
        cache.store("f", CODE)
    assert cache.load("f") == CODE


def test_damage_is_reported_once_per_process(root, cache):
    for name in ("f", "g", "h"):
        cache.store(name, CODE)
    for path in cache.folder.iterdir():
        path.write_bytes(b"")
    with pytest.warns(CacheWarning) as caught:
        assert [cache.load(name) for name in ("f", "g")] == [None, None]
        assert ObjectCache(root, KEY).load("h") is None
    assert len(caught) == 1


def test_no_descriptor_leaks(cache, stored):
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("the system does not list a process's open files")
    before = len(names(open_files))
    cache.load("f")
    stored.write_bytes(b"")
    with pytest.warns(CacheWarning):
        cache.load("f")
    cache.store("f", CODE)
    assert len(names(open_files)) == before


# --- many processes and threads at once --------------------------------------------------------

SHARED_WORK = (
    """
import random, time

def code(name):
    return name.encode() * 3000

print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
"""
    + ONE_KEY
    + """
rng = random.Random(int(sys.argv[3]))
for _ in range(5):
    for name in rng.sample([f"kernel/{i}" for i in range(20)], 20):
        if cache.load(name) not in (None, code(name)):
            sys.exit(f"wrong code for {name}")
        cache.store(name, code(name))
        if cache.load(name) != code(name):
            sys.exit(f"lost {name}")
"""
)


def test_8_processes_fill_a_cold_cache(root, tmp_path):
    start = tmp_path / "start"
    workers = [child(SHARED_WORK, root, start, seed) for seed in range(8)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 8
    start.touch()
    assert [finish(worker) for worker in workers] == [(0, "")] * 8
    cache = ObjectCache(root, KEY)
    assert len(names(cache.folder)) == 20
    for i in range(20):
        assert cache.load(f"kernel/{i}") == f"kernel/{i}".encode() * 3000


def run_in_threads(functions):
    results = []

    def run(function):
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_threads_share_a_cache(cache):
    def work():
        for i in range(30):
            name = f"kernel{i % 5}"
            cache.store(name, name.encode() * 2000)
            assert cache.load(name) == name.encode() * 2000

    assert run_in_threads([work] * 6) == [None] * 6
    assert len(names(cache.folder)) == 5


def test_threads_report_a_failure_once(cache, monkeypatch):
    together = threading.Barrier(8, timeout=60)

    def refuse(*args, **kwargs):
        together.wait()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.warns(CacheWarning) as caught:
        stores = [functools.partial(cache.store, f"f{i}", CODE) for i in range(8)]
        assert run_in_threads(stores) == [None] * 8
    assert len(caught) == 1
    assert [cache.load(f"f{i}") for i in range(8)] == [CODE] * 8


KILLED_AT = (
    """
import os, signal, tempfile

def fatal(*args, **kwargs):
    original(*args, **kwargs) if sys.argv[2] == "mkstemp" else None
    os.kill(os.getpid(), signal.SIGKILL)

module = {"mkstemp": tempfile, "replace": os}[sys.argv[2]]
original = getattr(module, sys.argv[2])
"""
    + ONE_KEY
    + """
setattr(module, sys.argv[2], fatal)
cache.store("f", b"new" * 1000)
"""
)


@pytest.mark.parametrize("step", ["mkstemp", "replace"])
def test_a_kill_during_a_write_leaves_the_old_file(root, cache, stored, step):
    assert finish(child(KILLED_AT, root, step)) == (-signal.SIGKILL, "")
    assert ObjectCache(root, KEY).load("f") == CODE
    (temporary,) = [path for path in cache.folder.iterdir() if path != stored]
    assert temporary.suffix == ".tmp"
    make_old(temporary, days=1)
    ObjectCache(root, KEY)
    assert names(cache.folder) == [stored.name]


ENDLESS_WRITER = (
    ONE_KEY
    + """
print("ready", flush=True)
while True:
    for i in range(50):
        cache.store(f"f{i}", bytes([i]) * 100_000)
"""
)


def test_a_kill_at_any_moment_leaves_no_bad_file(root):
    for _ in range(5):
        writer = child(ENDLESS_WRITER, root)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0.0, 0.1))
        writer.kill()
        finish(writer)
        cache = ObjectCache(root, KEY)
        for i in range(50):
            assert cache.load(f"f{i}") in (None, bytes([i]) * 100_000)


def test_only_old_temporary_files_are_removed(root, cache, stored):
    for name in (".old.tmp", ".new.tmp", "kept"):
        (cache.folder / name).touch()
    make_old(cache.folder / ".old.tmp", days=1)
    make_old(cache.folder / "kept", days=1)
    make_old(stored, days=100)
    ObjectCache(root, KEY)
    assert names(cache.folder) == sorted([".new.tmp", "kept", stored.name])


# --- folders that must not be used -------------------------------------------------------------


def assert_memory_only(make, match):
    """``make()`` gives a cache that warns once and works; nothing of it reaches the disk."""
    with pytest.warns(CacheWarning, match=match) as caught:
        cache = make()
    assert len(caught) == 1
    assert "XDG_CACHE_HOME" in str(caught[0].message)
    assert cache.load("f") is None
    cache.store("f", CODE)
    cache.store("f", CODE + b"2")
    assert cache.load("f") == CODE + b"2"
    return cache


LEVELS = ["", "numba", f"numba/{KEY}"]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("level", LEVELS)
def test_one_that_others_may_write(root, cache, stored, level, mode):
    before = stored.read_bytes()
    (root / level).chmod(mode)
    assert_memory_only(lambda: ObjectCache(root, KEY), "other users may write")
    assert stored.read_bytes() == before


@needs_root
@pytest.mark.parametrize("level", LEVELS)
def test_one_that_another_user_owns(root, cache, stored, level):
    before = stored.read_bytes()
    os.chown(root / level, NOBODY, -1)
    assert_memory_only(lambda: ObjectCache(root, KEY), f"belongs to user {NOBODY}, not to you")
    assert stored.read_bytes() == before


def test_one_of_a_user_who_is_not_us(root, cache, monkeypatch):
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert_memory_only(lambda: ObjectCache(root, KEY), f"belongs to user {user}, not to you")


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_link(root, cache, stored, tmp_path, level):
    (root / level).rename(tmp_path / "elsewhere")
    (root / level).symlink_to(tmp_path / "elsewhere")
    assert_memory_only(lambda: ObjectCache(root, KEY), "is a symbolic link")
    assert stored.exists()


def test_the_root_may_be_the_users_own_link(root, cache, stored, tmp_path):
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    assert ObjectCache(root, KEY).load("f") == CODE
    (tmp_path / "elsewhere").chmod(0o777)
    assert_memory_only(lambda: ObjectCache(root, KEY), "other users may write")


@pytest.mark.parametrize("level", LEVELS)
def test_a_file_or_a_dangling_link_in_its_place(root, level):
    for plant in (Path.touch, lambda path: path.symlink_to("nowhere")):
        shutil.rmtree(root, ignore_errors=True)
        (root / level).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        plant(root / level)
        with pytest.warns(CacheWarning, match="cannot use the cache folder"):
            cache = ObjectCache(root, KEY)
        cache.store("f", CODE)
        assert cache.load("f") == CODE
        (root / level).unlink()


def test_one_that_depends_on_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_memory_only(lambda: ObjectCache(Path("~", ".cache"), KEY), "working folder")
    assert names(tmp_path) == []


# --- folders that cannot be written ------------------------------------------------------------


def refuse_writes(monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)


@pytest.mark.parametrize("name", ["ENOSPC", "EROFS", "EACCES", "EDQUOT", "EIO", "ENOENT"])
def test_a_refused_write_is_one_warning_and_old_code_stays_readable(cache, monkeypatch, name):
    cache.store("f", CODE)
    number = getattr(errno, name)
    refuse_writes(monkeypatch, number)
    with pytest.warns(CacheWarning, match=re.escape(os.strerror(number))) as caught:
        cache.store("g", b"g")
        cache.store("h", b"h")
    assert len(caught) == 1
    monkeypatch.undo()
    cache.store("i", b"i")  # in memory from now on
    assert [cache.load(name) for name in "fghi"] == [CODE, b"g", b"h", b"i"]
    assert len(names(cache.folder)) == 1


def test_an_interrupted_write_leaves_nothing(cache, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.store("f", CODE)
    assert names(cache.folder) == []


def test_a_warning_made_an_error_loses_no_code(cache, stored, monkeypatch):
    refuse_writes(monkeypatch, errno.ENOSPC)
    with pytest.raises(CacheWarning):
        cache.store("f", b"new")
    assert cache.load("f") == b"new"


# Stores an old name and new ones where nothing can be written; says what came of it.
REFUSED = """
import warnings

def attempt(cache):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("f", "new", "newer"):
            cache.store(name, b"x" * 100_000)
    loaded = [cache.load(name) == b"x" * 100_000 for name in ("f", "new", "newer")]
    print(cache.load("old"), loaded, len(caught), caught[0].message)
"""


def assert_refused(outcome, reason):
    assert outcome[0] == 0, outcome[1]
    assert outcome[1].startswith("b'old' [True, True, True] 1 compiled kernels are kept in memory")
    assert reason in outcome[1]


@pytest.fixture
def open_folder():
    """A folder that every user can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_read_only_folder(open_folder):
    script = (
        REFUSED
        + """
import os
if os.getuid() == 0:  # to whom permissions mean nothing
    os.chown(sys.argv[1], 65534, 65534)
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
cache = ObjectCache(Path(sys.argv[1]) / "nnkernels", "0123456789abcdef")
cache.store("old", b"old")
cache.folder.chmod(0o500)
attempt(ObjectCache(Path(sys.argv[1]) / "nnkernels", "0123456789abcdef"))
cache.folder.chmod(0o700)
"""
    )
    assert_refused(finish(child(script, open_folder)), "Permission denied")


def test_a_read_only_folder_without_a_cache(open_folder):
    script = """
import os, warnings
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cache = ObjectCache(Path(sys.argv[1]) / "nnkernels", "key")
    cache.store("f", b"code")
print(cache.load("f"), len(caught), caught[0].message)
"""
    open_folder.chmod(0o555)
    code, output = finish(child(script, open_folder))
    assert code == 0, output
    assert output.startswith("b'code' 1 compiled kernels are kept in memory")
    assert "Permission denied" in output
    assert names(open_folder) == []


def test_a_limit_on_the_size_of_files(root):
    script = (
        REFUSED
        + ONE_KEY
        + """
import resource
cache.store("old", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
attempt(cache)
"""
    )
    assert_refused(finish(child(script, root)), "File too large")
    assert len(names(ObjectCache(root, KEY).folder)) == 1


@functools.cache
def mount_prefix():
    """A command that runs another one where it may mount what nobody else sees."""
    tries = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
    for prefix in tries:
        with tempfile.TemporaryDirectory() as folder:
            probe = [*prefix, "mount", "-t", "tmpfs", "none", folder]
            try:
                if subprocess.run(probe, capture_output=True, timeout=30).returncode == 0:
                    return prefix
            except FileNotFoundError:
                break
    return None


@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=64k", "No space left on device"), ("remount,ro", "Read-only file system")],
)
def test_a_disk_that_is_full_or_read_only(tmp_path, options, reason):
    if mount_prefix() is None:
        pytest.skip("this user may not mount a small file system")
    script = (
        REFUSED
        + """
import subprocess
mount = ["mount", "-t", "tmpfs", "none", sys.argv[1], "-o"]
subprocess.run([*mount, "size=64k"], check=True)
cache = ObjectCache(Path(sys.argv[1]) / "nnkernels", "0123456789abcdef")
cache.store("old", b"old")
if sys.argv[2] != "size=64k":
    subprocess.run([*mount, sys.argv[2]], check=True)
attempt(ObjectCache(Path(sys.argv[1]) / "nnkernels", "0123456789abcdef"))
if len(list(cache.folder.iterdir())) != 1:
    sys.exit("something was left behind")
"""
    )
    assert_refused(finish(child(script, tmp_path, options, prefix=mount_prefix())), reason)


# --- keys --------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("x = 1\n")
    (folder / "inner" / "kernel.py").write_text("y = 2\n")
    return folder


def test_a_key_is_short_stable_and_a_folder_name(package, root):
    key = source_key(package, "numba 1", "cpu")
    assert re.fullmatch("[0-9a-f]{24}", key)
    assert source_key(package, "numba 1", "cpu") == key
    assert ObjectCache(root, key).folder.name == key


def test_a_key_does_not_depend_on_the_place(package, tmp_path):
    shutil.copytree(package, tmp_path / "copy")
    assert source_key(tmp_path / "copy") == source_key(package)


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: (p / "__init__.py").write_text("x = 2\n"),
        lambda p: (p / "inner" / "kernel.py").write_text("y = 2\n\n"),
        lambda p: (p / "inner" / "kernel.py").rename(p / "inner" / "kernels.py"),
        lambda p: (p / "inner" / "kernel.py").rename(p / "kernel.py"),
        lambda p: (p / "new.py").touch(),
        lambda p: (p / "__init__.py").unlink(),
    ],
    ids=["edited", "edited below", "renamed", "moved", "added", "removed"],
)
def test_a_changed_source_changes_the_key(package, edit):
    before = source_key(package, "fact")
    edit(package)
    assert source_key(package, "fact") != before


def test_what_is_no_source_does_not_count(package):
    before = source_key(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "kernel.pyc").write_bytes(b"x")
    (package / "notes.txt").write_text("x")
    assert source_key(package) == before


@settings(max_examples=150, deadline=None)
@given(one=st.lists(ANY_NAME, max_size=3), other=st.lists(ANY_NAME, max_size=3))
def test_different_facts_give_different_keys(one, other):
    folder = Path(object_cache.__file__).parent
    assert (source_key(folder, *one) == source_key(folder, *other)) == (one == other)


def test_facts_keep_their_places(package):
    assert source_key(package, "ab", "c") != source_key(package, "a", "bc")
    assert source_key(package, "a", "") != source_key(package, "a")


def test_a_fact_does_not_pass_for_a_file(package):
    (package / "last.py").write_text("z = 3\n")
    with_file = source_key(package)
    (package / "last.py").unlink()
    assert source_key(package, "last.py", "z = 3\n") != with_file


def test_a_folder_without_source_gives_no_key(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="no Python file"):
            source_key(folder)


# --- keys that nobody uses any more ------------------------------------------------------------


def test_a_new_key_removes_what_was_unused_for_long(root):
    days = {"old": 31, "recent": 29, "keptopen": 31}
    caches = [ObjectCache(root, key) for key in days]
    for cache in caches:
        cache.store("f", CODE)
        make_old(cache.folder, days[cache.folder.name])
    (root / "numba" / "not ours").mkdir()
    make_old(root / "numba" / "not ours", 31)
    ObjectCache(root, "keptopen")  # an existing key removes nothing, but is used now
    assert names(root / "numba") == ["keptopen", "not ours", "old", "recent"]
    ObjectCache(root, "new")
    assert names(root / "numba") == ["keptopen", "new", "not ours", "recent"]


def test_a_link_among_the_keys_is_not_followed(root, cache, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    link = root / "numba" / "link"
    link.symlink_to(precious)
    os.utime(link, (0, 0), follow_symlinks=False)
    ObjectCache(root, "new")
    assert names(precious) == ["file"]


def test_only_some_are_removed_at_once(root):
    (root / "numba").mkdir(mode=0o700, parents=True)
    root.chmod(0o700)
    for i in range(20):
        (root / "numba" / f"old{i}").mkdir()
        make_old(root / "numba" / f"old{i}", 100)
    ObjectCache(root, KEY)
    assert len(names(root / "numba")) == 20 - 16 + 1
