"""The private cache folder."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnkernels.data import cache
from nnkernels.errors import DatasetError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def test_it_is_made_for_its_owner_alone(home: Path) -> None:
    folder = cache.private_folder("set")
    assert folder == home / "nnkernels" / "set"
    assert cache.private_folder("set") == folder
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}


@pytest.mark.parametrize("name", ["nnkernels", "nnkernels/set"])
def test_one_that_everybody_may_write_is_refused(home: Path, name: str) -> None:
    cache.private_folder("set")
    (home / name).chmod(0o777)
    with pytest.raises(DatasetError, match=r"everybody may write .* chmod 700"):
        cache.private_folder("set")


def test_one_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.private_folder("set")
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(DatasetError, match=f"belongs to user {user}, not to you"):
        cache.private_folder("set")


def test_a_link_is_judged_by_what_it_leads_to(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    target.chmod(0o777)
    (home / "nnkernels").mkdir(parents=True)
    (home / "nnkernels" / "set").symlink_to(target)
    with pytest.raises(DatasetError, match="everybody may write"):
        cache.private_folder("set")
    target.chmod(0o700)
    assert cache.private_folder("set").resolve() == target


def test_a_link_made_by_another_user_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.private_folder("set")
    stranger = SimpleNamespace(st_uid=os.getuid() + 1)
    monkeypatch.setattr(Path, "lstat", lambda _: stranger)
    with pytest.raises(DatasetError, match=f"belongs to user {stranger.st_uid}, not to you"):
        cache.private_folder("set")


def test_a_file_in_its_place(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "nnkernels").touch()
    with pytest.raises(DatasetError, match="cannot use the cache folder"):
        cache.private_folder("set")


def test_the_lock_excludes_and_is_freed(tmp_path: Path) -> None:
    with (
        cache.locked(tmp_path, 1),
        pytest.raises(DatasetError, match=r"another process has been filling .* for 0\.01 s"),
        cache.locked(tmp_path, 0.01),
    ):
        pytest.fail("locked twice")
    with cache.locked(tmp_path, 0.01):
        pass


def test_a_killed_process_frees_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from nnkernels.data import cache\n"
        "with cache.locked(pathlib.Path(sys.argv[1]), 1): os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=False)
    assert run.returncode == -9
    with cache.locked(tmp_path, 1):
        pass
