"""What the user names as a side of a comparison, and how its workers are started.

A side is a git revision, a source tree, a wheel, an installed environment, or a backend of the
running nnkernels. A revision is checked out, and a wheel unpacked, in a temporary folder that goes
with the block that :func:`prepared` opens, whatever ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

import nnkernels
from nnkernels import plugins
from nnkernels.bench import machine
from nnkernels.bench.results import Code
from nnkernels.errors import InputError, UnknownNameError
from nnkernels.names import parse_backend

PATIENCE = 120.0
"""Seconds for checking out, unpacking, and importing once."""

PREFIX, LOCK = "nnkernels-ab-", "lock"
"""Of the names of temporary folders, and the file in each that its process keeps locked."""

YOUNG = 60.0
"""Seconds of age below which a temporary folder that is not locked is let be."""

_PROBE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import nnkernels
print(json.dumps([nnkernels.__file__, nnkernels.__version__]))
"""
_OWN_PATH = "import json, sys; print(json.dumps(sys.path))"


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: what people call it.
        what: what kind of thing it is, and what must be known about it.
        python: the interpreter of its workers.
        path: their ``sys.path``.
        root: the folder that nnkernels must be imported from.
        code: which nnkernels it is.
        backend: the only backend it runs; None where the sides are versions.
    """

    label: str
    what: str
    python: str
    path: Sequence[str]
    root: Path
    code: Code
    backend: str | None = None


def split(a: str, b: str | None) -> tuple[str, str]:
    """Two sides from the command line: ``A B``, ``A..B``, or ``A`` against the working tree.

    Raises:
        InputError: there are three.
    """
    if b is None and ".." in a and not Path(a).exists():
        first, _, second = a.partition("..")
        return first or "HEAD", second.lstrip(".") or "HEAD"
    return a, "." if b is None else b


@contextlib.contextmanager
def prepared(a: str, b: str) -> Iterator[tuple[Side, Side]]:
    """The two sides, ready for workers until the block ends.

    Raises:
        InputError: one does not exist, cannot be unpacked, or its nnkernels cannot be imported; or
            one is a backend, and the other is not.
    """
    backends = [_is_backend(name) for name in (a, b)]
    if all(backends):
        yield _backend_side(a), _backend_side(b)
        return
    if any(backends):
        raise InputError(
            f"ab: {a!r} and {b!r}: one is a backend, the other a version; compare two backends, or "
            "two versions with -b BACKEND"
        )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_workplace())
        places = [stack.enter_context(_placed(a, folder / "a"))]
        places.append(stack.enter_context(_placed(b, folder / "b")))
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(_side, places)
        yield first, second


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary folder, locked while this process lives; those of killed ones are removed."""
    _sweep()
    temporary = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    with temporary as name, filelock.FileLock(Path(name) / LOCK):
        yield Path(name)


def _sweep() -> None:
    """Remove the folders, with their worktrees, that processes of ours left when they were killed.

    Such a folder has a lock that nobody holds. A young one may be about to be locked.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, filelock.Timeout):
            found = folder.lstat()
            young = time.time() - found.st_mtime < YOUNG
            if young or found.st_uid != os.getuid() or not (folder / LOCK).is_file():
                continue
            with filelock.FileLock(folder / LOCK, timeout=0), _uninterrupted():
                for record in folder.glob("*/.git"):
                    _forget(record.parent)
                shutil.rmtree(folder, ignore_errors=True)


def _is_backend(name: str) -> bool:
    """Whether ``name`` is a backend's: one that is known, in its written form."""
    if Path(name).exists() and os.sep in name:
        return False
    try:
        return parse_backend(name).base in plugins.availability()
    except (InputError, UnknownNameError):
        return False


def own() -> Side:
    """The running nnkernels."""
    package = Path(nnkernels.__file__).parent
    return Side("this", "running", sys.executable, sys.path, package.parent, machine.code())


def _backend_side(name: str) -> Side:
    return replace(own(), label=name, what="backend", backend=name)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a side lies; ``root`` is None where its interpreter knows."""

    label: str
    what: str
    python: str
    root: Path | None


@contextlib.contextmanager
def _placed(name: str, folder: Path) -> Iterator[_Place]:
    """Bring what ``name`` means to where it can be imported."""
    path = Path(name)
    if path.suffix == ".whl":
        yield _unpacked(path, folder)
    elif (path / "nnkernels" / "__init__.py").is_file():
        yield _tree(path)
    elif (python := _interpreter(path)) is not None:
        yield _Place(name, "environment", str(python), None)
    elif path.exists() and (os.sep in name or name.startswith(".")):
        raise InputError(
            f"ab: {name!r} is neither a source tree (a folder with nnkernels/__init__.py), nor a "
            "wheel, nor an environment or its python"
        )
    else:
        with _checked_out(name, folder) as place:
            yield place


def _interpreter(path: Path) -> Path | None:
    """The python that ``path`` is, or that is in the environment ``path``."""
    if path.is_file() and path.name.startswith("python") and os.access(path, os.X_OK):
        return path.absolute()
    python = path / "bin" / "python"
    if (path / "pyvenv.cfg").is_file() and python.is_file():
        return python.absolute()
    return None


def _tree(path: Path) -> _Place:
    root = path.resolve()
    found = machine.code_in(root / "nnkernels", "")
    changed = ", uncommitted changes" if found.dirty else ""
    label = found.git_sha[:7] if found.git_sha and not found.dirty else str(path)
    return _Place(label, f"tree{changed}", sys.executable, root)


def _unpacked(wheel: Path, folder: Path) -> _Place:
    if not wheel.is_file():
        raise InputError(f"ab: {str(wheel)!r}: no such file")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    target = ["--no-deps", "--no-index", "--target", str(folder), str(wheel.absolute())]
    _run([*command, *target], f"the wheel {str(wheel)!r} cannot be installed")
    return _Place(wheel.stem.split("-py")[0], "wheel", sys.executable, folder)


# --- git ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _checked_out(revision: str, folder: Path) -> Iterator[_Place]:
    """A worktree of ``revision`` in ``folder``.

    Raises:
        InputError: no repository, no such revision, or it has no nnkernels.
    """
    top = Path(_git(None, f"{revision!r} is no file here, and", "rev-parse", "--show-toplevel"))
    sha = _git(
        top,
        f"there is no revision {revision!r}, nor a file or folder of that name",
        *("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"),
    )
    try:
        add = ("worktree", "add", "--quiet", "--detach", "--force", str(folder), sha)
        _git(top, f"{revision!r} cannot be checked out", *add)
        if not (folder / "nnkernels" / "__init__.py").is_file():
            raise InputError(f"ab: revision {revision!r} has no nnkernels/__init__.py at its top")
        yield _Place(sha[:7], "worktree", sys.executable, folder)
    finally:
        with _uninterrupted():
            _remove(top, folder)


def _remove(top: Path, folder: Path) -> None:
    """Remove the worktree, then the record of it in the repository: a half-made one's too."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(InputError):
        _git(top, "", "worktree", "remove", "--force", "--force", str(folder))


def _forget(worktree: Path) -> None:
    """Remove a worktree of whatever repository, as far as there still is one."""
    common = ("rev-parse", "--path-format=absolute", "--git-common-dir")
    with contextlib.suppress(InputError):
        _remove(Path(_git(worktree, "", *common)), worktree)


def _git(folder: Path | None, trouble: str, *arguments: str) -> str:
    """Output of git in ``folder``, without the repository's hooks and those variables that a hook
    which runs us has set."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    place = [] if folder is None else ["-C", str(folder)]
    command = ["git", *place, "-c", f"core.hooksPath={os.devnull}", *arguments]
    return _run(command, trouble, environment).strip()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let nothing that a terminal or a job's end sends stop the cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended_by = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ended_by}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- importing ---------------------------------------------------------------------------------


def _side(place: _Place) -> Side:
    """Import the nnkernels of ``place`` once, to know that it can be and which it is."""
    path = _path_of(place)
    trouble = f"{place.label} ({place.what}) cannot be imported"
    file, version = json.loads(_run([place.python, "-c", _PROBE, json.dumps(path)], trouble))
    package = Path(file).resolve().parent
    root = place.root or package.parent
    return Side(
        place.label, place.what, place.python, path, root, machine.code_in(package, version)
    )


def _path_of(place: _Place) -> list[str]:
    """``sys.path``: this process's after a tree's root, or an environment's own."""
    if place.root is not None:
        return [str(place.root), *map(str, sys.path)]
    trouble = f"{place.label}: its python does not run"
    path: list[str] = json.loads(_run([place.python, "-I", "-c", _OWN_PATH], trouble))
    return path


def _run(command: Sequence[str], trouble: str, environment: dict[str, str] | None = None) -> str:
    """Output of a program, which a Ctrl-C of the terminal does not reach.

    Raises:
        InputError: ``trouble``, and the last line that the program wrote.
    """
    options: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace"}
    try:
        done = subprocess.run(
            command, **options, timeout=PATIENCE, env=environment, start_new_session=True
        )
    except FileNotFoundError as error:
        raise InputError(f"ab: {trouble}: {command[0]} is not installed") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"ab: {trouble}: {error}") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise InputError(f"ab: {trouble}{f': {said[-1]}' if said else ''}")
    return str(done.stdout)
