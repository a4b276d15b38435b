from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from nnkernels.backends.cupy.compiling import code_cache
from nnkernels.backends.cupy.compiling.code_cache import CodeCache, CodeCacheWarning, Key

KEY = Key("losses-float32-sm_90", ("losses", "text", "-arch=sm_90", "13.0"), "cubin")
DATA = b"\x7fELF code\0"


class Compiler:
    def __init__(self, data=DATA):
        self.data, self.count = data, 0

    def __call__(self):
        self.count += 1
        return self.data


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "nnkernels" / "cupy"


def test_compiled_once_then_found_by_any_later_cache(folder):
    compiler = Compiler()
    first = CodeCache(folder).get(KEY, compiler)
    again = CodeCache(folder).get(KEY, compiler)
    assert compiler.count == 1
    assert first.fresh and not again.fresh
    assert first.path == again.path and first.path.parent == folder
    assert first.path.read_bytes() == DATA
    assert first.digest == again.digest == hashlib.sha256(DATA).hexdigest()


def test_the_name_tells_what_it_is_and_both_hashes(folder):
    path = CodeCache(folder).get(KEY, Compiler()).path
    assert (
        path.name == f"losses-float32-sm_90-{KEY.digest}-{hashlib.sha256(DATA).hexdigest()}.cubin"
    )


@pytest.mark.parametrize("changed", range(4))
def test_any_other_input_is_compiled_anew(folder, changed):
    inputs = list(KEY.inputs)
    inputs[changed] += "x"
    other = KEY._replace(inputs=tuple(inputs))
    compiler = Compiler()
    cache = CodeCache(folder)
    assert cache.get(KEY, compiler).path != cache.get(other, compiler).path
    assert compiler.count == 2


def test_text_cannot_move_from_one_input_to_the_next():
    assert KEY._replace(inputs=("ab", "c")).digest != KEY._replace(inputs=("a", "bc")).digest


@pytest.mark.parametrize("damage", [b"", DATA[:-1], b"\x7fELF CODE\0", DATA + b"x"])
def test_a_damaged_file_is_compiled_again_with_one_warning(folder, damage):
    compiler, path = Compiler(), CodeCache(folder).get(KEY, Compiler()).path
    cache = CodeCache(folder)
    path.write_bytes(damage)
    with pytest.warns(CodeCacheWarning, match=r"losses-float32-.* is damaged") as caught:
        assert cache.get(KEY, compiler).path.read_bytes() == DATA
        path.write_bytes(damage)
        assert cache.get(KEY, compiler).path.read_bytes() == DATA
    assert compiler.count == 2 and len(caught) == 1


def test_foreign_files_are_left_alone(folder):
    folder.mkdir(parents=True)
    right = hashlib.sha256(DATA).hexdigest()
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes(DATA)
    link = folder / f"{KEY.name}-{KEY.digest}-{right}.cubin"
    link.symlink_to(elsewhere)
    others = [folder / "losses-float32-sm_90.cubin", folder / f"x-{KEY.digest}-{right}.cubin"]
    for other in others:
        other.write_bytes(DATA)
    compiler = Compiler()
    made = CodeCache(folder).get(KEY, compiler)
    assert compiler.count == 1 and made.fresh
    assert not made.path.is_symlink() and elsewhere.read_bytes() == DATA
    assert all(other.exists() for other in others)


def test_processes_that_compile_at_once_all_get_good_files(folder):
    program = (
        "import sys, pathlib\n"
        "from nnkernels.backends.cupy.compiling.code_cache import CodeCache, Key\n"
        "cache = CodeCache(pathlib.Path(sys.argv[1]))\n"
        "for i in range(20):\n"
        "    made = cache.get(Key('a', (str(i),), 'cubin'), lambda: b'code' * 10000)\n"
        "    assert made.path.read_bytes() == b'code' * 10000\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(folder)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[1] for process in running] == [""] * 4
    assert len(list(folder.iterdir())) == 20


# --- folders that do not serve -----------------------------------------------------------------


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    cache = CodeCache(tmp_path / "file" / "cupy")
    compiler = Compiler()
    with pytest.warns(CodeCacheWarning, match="for this process only.*XDG_CACHE_HOME") as caught:
        path = cache.get(KEY, compiler).path
        other = cache.get(KEY._replace(name="updates-float32-sm_90"), compiler).path
    assert len(caught) == 1 and not cache.lasting
    assert path.read_bytes() == other.read_bytes() == DATA
    del cache
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_still_read(folder, monkeypatch):
    kept = CodeCache(folder).get(KEY, Compiler())

    def full(path, data):
        if Path(path).parent == folder:
            raise code_cache.NnkernelsError("cannot write") from OSError(28, "No space left")
        original(path, data)

    original = code_cache.write_atomically
    monkeypatch.setattr(code_cache, "write_atomically", full)
    cache = CodeCache(folder)
    assert cache.get(KEY, Compiler()).path == kept.path
    with pytest.warns(CodeCacheWarning, match="No space left"):
        path = cache.get(KEY._replace(inputs=("other",)), Compiler()).path
    assert path.read_bytes() == DATA and path.parent != folder
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_to_is_not_used(folder):
    CodeCache(folder).get(KEY, Compiler())
    folder.chmod(0o777)
    compiler = Compiler()
    with pytest.warns(CodeCacheWarning, match="other users may write"):
        assert CodeCache(folder).get(KEY, compiler).path.parent != folder
    assert compiler.count == 1


def test_a_folder_of_another_user_is_not_used_but_one_of_root_is(folder, monkeypatch):
    CodeCache(folder).get(KEY, Compiler())
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    monkeypatch.setattr(code_cache, "_ROOT_USER", owner)
    assert not CodeCache(folder).get(KEY, Compiler()).fresh
    monkeypatch.setattr(code_cache, "_ROOT_USER", owner + 2)
    with pytest.warns(CodeCacheWarning, match=f"belongs to user {owner}, not to you"):
        assert CodeCache(folder).get(KEY, Compiler()).fresh


def test_a_folder_that_depends_on_the_working_folder_is_not_used():
    with pytest.warns(CodeCacheWarning, match="depends on the working folder"):
        CodeCache(Path("relative")).get(KEY, Compiler())
    assert not Path("relative").exists()


def test_a_folder_is_private_and_made_where_it_is_missing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CodeCache(folder).get(KEY, Compiler())
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_vanishes_is_missed_once(folder):
    cache = CodeCache(folder)
    folder.rmdir()
    with pytest.warns(CodeCacheWarning, match="No such file"):
        assert cache.get(KEY, Compiler()).path.read_bytes() == DATA


# --- growth ------------------------------------------------------------------------------------


def test_what_nobody_used_for_long_makes_room_for_its_successor(folder):
    cache = CodeCache(folder)
    old, used = KEY._replace(inputs=("old",)), KEY._replace(inputs=("used",))
    other = KEY._replace(name="updates-float32-sm_90")
    paths = [cache.get(key, Compiler()).path for key in (old, used, other)]
    for path in paths:
        os.utime(path, (0, time.time() - code_cache.UNUSED_S - 60))
    cache.get(used, Compiler())
    cache.get(KEY, Compiler())
    assert [path.exists() for path in paths] == [False, True, True]
