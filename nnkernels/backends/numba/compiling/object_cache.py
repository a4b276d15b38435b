"""Compiled object code on disk, verified before anybody runs it.

A file holds bytes and their checksum, nothing that Python would have to interpret. The checksum
finds damage, not malice: against other users stand the folders, which must be private. A folder
that is not, or that cannot be written, costs time (kernels are compiled again), never an error.
POSIX systems only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import stat
import struct
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from nnkernels.errors import InputError
from nnkernels.files import OTHERS_WRITE, exposure

MAGIC = b"nnkobj\0\1"
"""What a file begins with; the last byte is the version of its layout."""

_HEADER = struct.Struct("<8s32sQ")  # magic, SHA-256 of key, name and code, length of the code
_KEY = re.compile("[0-9A-Za-z_-]{1,64}")
_UNUSED_S = 30 * 24 * 3600.0
_STALE_S = 3600.0
_REMOVED_AT_ONCE = 16
_REMEDY = "make it a writable folder of your own, or set XDG_CACHE_HOME to one"

# A lock that is taken once and never released: one warning per process, whatever threads do.
_first_damage = threading.Lock()


class CacheWarning(UserWarning):
    """Compiled code could not be kept or used again; results are not affected."""


class ObjectCache:
    """Object code by name, in the folder ``root/numba/key``.

    ``root``, ``numba`` and ``key`` are made with mode 0700 where they are missing. Each must belong
    to the current user, and nobody else may write to it; ``numba`` and ``key`` must not be symbolic
    links (``root`` may be one of the user's own). Otherwise nothing there is read or written: one
    :class:`CacheWarning` gives the reason and the remedy, and code is kept in memory. When a folder
    cannot be written (full, read-only), code is kept in memory too, after one such warning; what
    the folder already holds is still read.

    Threads and processes may share a cache. Beyond the warnings, which a filter may turn into
    errors, neither a method nor the constructor fails because of the folder or a file in it.

    Args:
        root: the cache folder of nnkernels; its parents are made where they are missing.
        key: names everything that the code depends on (see :func:`source_key`).

    Attributes:
        folder: where the files lie.

    Raises:
        InputError: ``key`` is not made of 1 to 64 letters, digits, ``_`` and ``-``.
    """

    def __init__(self, root: Path, key: str) -> None:
        if not _KEY.fullmatch(key):
            raise InputError(
                f"ObjectCache: key must be 1 to 64 letters, digits, '_' or '-', got {key!r}"
            )
        self.folder = root / "numba" / key
        self._key = key
        self._memory: dict[str, bytes] = {}
        self._trusted = self._writable = True
        self._first_failure = threading.Lock()
        try:
            _prepare(root, self.folder)
        except OSError as cause:
            self._trusted = False
            self._stop_writing(cause)

    def load(self, name: str) -> bytes | None:
        """The code stored under ``name``, or None where there is none that can be used.

        A file that is damaged, foreign or of another name is removed; the first of a process is
        reported by a :class:`CacheWarning`.
        """
        code = self._memory.get(name)
        if code is not None or not self._trusted:
            return code
        path = self._path(name)
        try:
            return _read(path, self._key, name)
        except FileNotFoundError:
            return None
        except OSError as cause:
            # Another process may have put a good file there since; losing it costs one compilation.
            with contextlib.suppress(OSError):
                path.unlink()
            _report_damage(path, cause)
            return None

    def store(self, name: str, code: bytes) -> None:
        """Keep ``code`` under ``name``, on disk where that is possible, else in memory."""
        if not self._writable:
            self._memory[name] = code
            return
        try:
            _write(self._path(name), self._key, name, code)
        except OSError as cause:
            self._memory[name] = code
            self._stop_writing(cause)

    def _path(self, name: str) -> Path:
        readable = re.sub("[^0-9A-Za-z_]+", "_", name)[:40]
        return self.folder / f"{readable}-{_digest(name.encode('utf-8', 'surrogatepass'))[:24]}.o"

    def _stop_writing(self, cause: OSError) -> None:
        self._writable = False
        if self._first_failure.acquire(blocking=False):
            warnings.warn(
                f"compiled kernels are kept in memory, and compiled again by the next process: "
                f"cannot use the cache folder {str(self.folder)!r}: {cause.strerror}; {_REMEDY}",
                CacheWarning,
                stacklevel=3,
            )


def default_cache(key: str) -> ObjectCache:
    """The cache for ``key`` in the user's cache folder (``XDG_CACHE_HOME`` moves it).

    Raises:
        InputError: ``key`` cannot name a folder, see :class:`ObjectCache`.
    """
    import platformdirs

    return ObjectCache(Path(platformdirs.user_cache_dir("nnkernels")), key)


def source_key(folder: Path, *facts: str) -> str:
    """24 hexadecimal digits that change with any Python file below ``folder`` and any fact.

    Names, contents and facts enter with their lengths, so that none can pass for another; what is
    no Python file (compiled modules, editors' backups) does not count.

    Raises:
        InputError: no Python file lies there; the key would not notice an edited kernel.
        OSError: a file cannot be read.
    """
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))
    if not files:
        raise InputError(f"source_key: no Python file below {str(folder)!r}")
    parts: list[bytes] = []
    for name, path in files:
        parts += [os.fsencode(name), path.read_bytes()]
    count = str(len(files)).encode()
    texts = [fact.encode("utf-8", "surrogatepass") for fact in facts]
    return _digest(MAGIC, count, *parts, *texts)[:24]


def _digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each after its length."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


# --- files -------------------------------------------------------------------------------------


def _checksum(key: str, name: str, code: bytes) -> bytes:
    return bytes.fromhex(_digest(key.encode(), name.encode("utf-8", "surrogatepass"), code))


def _read(path: Path, key: str, name: str) -> bytes:
    """The verified code in ``path``.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is a link, not ours, cannot be read, or does not hold what it should.
    """
    # Without O_NONBLOCK a pipe in the file's place would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EBADMSG, "not a regular file")
        if status.st_uid != os.getuid() or status.st_mode & OTHERS_WRITE:
            raise OSError(errno.EBADMSG, "another user owns it or may write to it")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            header = file.read(_HEADER.size)
            code = file.read(_announced(header, status.st_size))
    finally:
        os.close(descriptor)
    if header != _header(key, name, code):
        raise OSError(errno.EBADMSG, "wrong checksum")
    return code


def _announced(header: bytes, size: int) -> int:
    """The length of the code, told before it is read: a foreign file may be of any size."""
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        raise OSError(errno.EBADMSG, "no file of this cache, or of another version")
    length: int = _HEADER.unpack(header)[2]
    if length != size - _HEADER.size:
        raise OSError(errno.EBADMSG, "wrong length")
    return length


def _header(key: str, name: str, code: bytes) -> bytes:
    return _HEADER.pack(MAGIC, _checksum(key, name, code), len(code))


def _write(path: Path, key: str, name: str, code: bytes) -> None:
    """Replace ``path`` in one step.

    ``files.write_atomically`` does not fit: its temporary file is known to be abandoned when no
    process has its number, which is wrong for one that runs in another container or on another
    computer and shares the folder. Nothing is synced to disk, for the checksum finds what a power
    failure has torn.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    # mkstemp opens a new file (O_EXCL, O_NOFOLLOW) with mode 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_header(key, name, code))
            file.write(code)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _report_damage(path: Path, cause: OSError) -> None:
    if _first_damage.acquire(blocking=False):
        warnings.warn(
            f"the compiled code in {str(path)!r} cannot be used ({cause.strerror}); it is removed "
            "and the kernel compiled again (further files like it are not reported)",
            CacheWarning,
            stacklevel=3,
        )


# --- folders -----------------------------------------------------------------------------------


def _prepare(root: Path, folder: Path) -> None:
    """Make and check the folders down to ``folder``, and clear away what nobody needs.

    Raises:
        OSError: one cannot be made, or must not be trusted; ``strerror`` says why.
    """
    if not root.is_absolute():  # where the user has no home: "~/.cache" in any working folder
        raise OSError(errno.EPERM, "it depends on the working folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    for each in (root, folder.parent):
        each.mkdir(mode=0o700, exist_ok=True)
        _check_private(each, may_be_link=each == root)
    known = folder.exists()
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_private(folder, may_be_link=False)
    _remove_stale(folder)
    if not known:
        _remove_unused(folder)
    with contextlib.suppress(OSError):
        os.utime(folder)  # it is in use


def _check_private(folder: Path, *, may_be_link: bool) -> None:
    if folder.is_symlink() and not may_be_link:
        raise OSError(errno.EPERM, f"{str(folder)!r} is a symbolic link, remove it")
    exposed = exposure(folder)
    if exposed is not None:
        raise OSError(errno.EPERM, exposed.reason)


def _remove_stale(folder: Path) -> None:
    """Remove the temporary files of writers that died: a write takes milliseconds, not an hour."""
    for path in _older_than(_STALE_S, folder):
        if path.suffix == ".tmp":
            with contextlib.suppress(OSError):
                path.unlink()


def _remove_unused(folder: Path) -> None:
    """Remove some of the folders of other keys that no process has opened for 30 days."""
    unused = (path for path in _older_than(_UNUSED_S, folder.parent) if _KEY.fullmatch(path.name))
    for path in itertools.islice(unused, _REMOVED_AT_ONCE):
        shutil.rmtree(path, ignore_errors=True)  # does not follow links


def _older_than(age_s: float, folder: Path) -> Iterator[Path]:
    """What lies in ``folder``, untouched for ``age_s`` seconds; as much as can be found out."""
    before = time.time() - age_s
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                if path.lstat().st_mtime < before:
                    yield path
