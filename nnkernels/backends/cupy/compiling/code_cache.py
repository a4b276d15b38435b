"""Compiled modules on disk, where the driver loads them from, verified before it does.

The name of a file says what it is made from and what it must contain: two hashes, of all that the
compiler was given and of the file's bytes. So a file is replaced in one step, is used only when it
is what its name says, and ``sha256sum`` can compare it with another machine's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from nnkernels.errors import NnkernelsError
from nnkernels.files import exposure, write_atomically

UNUSED_S = 90 * 24 * 3600.0
"""A file of an older source or compiler is removed when nobody has used it for so long."""

_REMEDY = "make it a writable folder of your own, or set XDG_CACHE_HOME to one"
_ROOT_USER = 0


class CodeCacheWarning(UserWarning):
    """A compiled module could not be kept or used again; results are not affected."""


class Key(NamedTuple):
    """What a file is made from.

    Attributes:
        name: for people: module, storage type and target.
        inputs: all that the compiled bytes depend on.
        suffix: ``cubin`` or ``ptx``.
    """

    name: str
    inputs: tuple[str, ...]
    suffix: str

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that change with any input."""
        state = hashlib.sha256()
        for each in self.inputs:
            data = each.encode()
            state.update(len(data).to_bytes(8, "little"))
            state.update(data)
        return state.hexdigest()[:32]


class Compiled(NamedTuple):
    """A file with compiled code.

    Attributes:
        path: where it is.
        digest: SHA-256 of its content.
        fresh: whether it was compiled just now.
    """

    path: Path
    digest: str
    fresh: bool


class CodeCache:
    """Compiled code by :class:`Key`, in one folder.

    The folder is made with mode 0700 where it is missing. It must belong to the current user, or to
    root (an image of a container), and nobody else may write to it; otherwise nothing there is
    used. Where it cannot be used or written, one :class:`CodeCacheWarning` gives the reason and the
    remedy, and code goes to a private temporary folder that is removed with the cache. What a
    folder that cannot be written already holds is still used.

    Threads and processes may share a folder.

    Args:
        folder: by default ``cupy`` in nnkernels' cache folder (``XDG_CACHE_HOME`` moves it).

    Attributes:
        folder: where files are kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._temporary: Path | None = None
        self._reason = _why_unusable(self.folder)

    def get(self, key: Key, compiled: Callable[[], bytes]) -> Compiled:
        """The file for ``key``; ``compiled()`` gives its content where no good one is known."""
        known = self._known(key)
        if known is not None:
            return known
        data = compiled()
        digest = hashlib.sha256(data).hexdigest()
        return Compiled(self._store(key, digest, data), digest, fresh=True)

    @property
    def lasting(self) -> bool:
        """Whether all that was compiled is in :attr:`folder`."""
        return self._temporary is None

    # --- reading -------------------------------------------------------------------------------

    def _known(self, key: Key) -> Compiled | None:
        if self._reason:
            return None
        for path, digest in _files(self.folder, key.name, key.suffix, key.digest):
            if _sha256(path) == digest:
                with contextlib.suppress(OSError):  # not ours to mark, or a read-only folder
                    os.utime(path)
                return Compiled(path, digest, fresh=False)
            self._warn(
                "damage",
                f"the compiled code in {str(path)!r} is damaged; it is compiled again (further "
                "files like it are not reported)",
            )
            with contextlib.suppress(OSError):
                path.unlink()
        return None

    # --- writing -------------------------------------------------------------------------------

    def _store(self, key: Key, digest: str, data: bytes) -> Path:
        name = f"{key.name}-{key.digest}-{digest}.{key.suffix}"
        if not self._reason:
            try:
                write_atomically(self.folder / name, data)
                self._remove_unused(key)
                return self.folder / name
            except NnkernelsError as error:
                self._warn_unusable(_told(error.__cause__ or error))
        else:
            self._warn_unusable(self._reason)
        path = self._temporary_folder() / name
        write_atomically(path, data)
        return path

    def _temporary_folder(self) -> Path:
        with self._lock:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="nnkernels-"))
                weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
            return self._temporary

    def _remove_unused(self, key: Key) -> None:
        for path, _ in _files(self.folder, key.name, key.suffix):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - UNUSED_S:
                    path.unlink()

    def _warn_unusable(self, reason: str) -> None:
        self._warn(
            "unusable",
            "compiled kernels are kept for this process only: cannot use the cache folder "
            f"{str(self.folder)!r}: {reason}; {_REMEDY}",
        )

    def _warn(self, what: str, message: str) -> None:
        """Once for every cache."""
        with self._lock:
            first = what not in self._warned
            self._warned.add(what)
        if first:
            warnings.warn(message, CodeCacheWarning, stacklevel=5)


def default_folder() -> Path:
    """The cache folder of the current user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("nnkernels")) / "cupy"


def _files(folder: Path, name: str, suffix: str, key: str = "") -> Iterator[tuple[Path, str]]:
    """Regular files of ``name``, for one key or all, and the digest of the content of each."""
    pattern = re.compile(rf"{re.escape(name)}-{key or '[0-9a-f]{32}'}-([0-9a-f]{{64}})\.{suffix}")
    with contextlib.suppress(OSError):  # the folder was removed meanwhile
        for entry in sorted(folder.iterdir()):
            match = pattern.fullmatch(entry.name)
            if match and entry.is_file() and not entry.is_symlink():
                yield entry, match[1]


def _sha256(path: Path) -> str:
    """The digest of a file's content; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _told(error: BaseException) -> str:
    """What the system said."""
    return getattr(error, "strerror", None) or str(error)


def _why_unusable(folder: Path) -> str:
    """Why ``folder`` cannot be used, after it was made where it is missing; empty where it can."""
    if not folder.is_absolute():  # where the user has no home: "~/.cache" in any working folder
        return "it depends on the working folder"
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        exposed = exposure(folder, trusted={_ROOT_USER})
        return exposed.reason if exposed else ""
    except OSError as error:
        return _told(error)
