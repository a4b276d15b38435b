"""Writing files so that a crash, a full disk or Ctrl-C never leaves a half-written one.

And finding out whether a folder is private, so that nobody else can have written what is in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from nnkernels.errors import DTypeError, InputError, NnkernelsError

Buffer = bytes | bytearray | memoryview

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""Bits of a mode: whether the group or everybody may write."""


def as_path(function: str, path: str | os.PathLike[str]) -> Path:
    """``path`` as a Path, checked in the name of ``function``.

    Raises:
        DTypeError: ``path`` is neither ``str`` nor ``os.PathLike[str]``.
        InputError: no file can have that name.
    """
    try:
        result = Path(path)
        nameable = b"\0" not in os.fsencode(result)
    except TypeError:
        raise DTypeError(
            f"{function}: path must be a str or os.PathLike[str], got {type(path).__name__}"
        ) from None
    except UnicodeEncodeError:
        nameable = False
    if not nameable:
        raise InputError(
            f"{function}: path {str(path)!r} holds a character that no file name can have; "
            "remove it"
        )
    return result


def write_atomically(
    path: str | os.PathLike[str],
    data: Buffer | Iterable[Buffer],
    *,
    error: type[NnkernelsError] = NnkernelsError,
) -> None:
    """Replace the file at ``path`` by ``data`` (one buffer, or several to be joined).

    The data goes to a new file ``.NAME.PID.THREAD.tmp`` in the same folder, is synced to disk and
    renamed over ``path``; then the folder is synced. Whoever opens ``path`` sees the old content or
    the new, never a mixture. Temporary files that dead processes left for this target are removed
    first. The file's mode follows the umask; a symbolic link at ``path`` is replaced, not followed.
    POSIX systems only.

    Raises:
        DTypeError, InputError: ``path`` is no path, or ``data`` no bytes.
        NnkernelsError: (or the class given as ``error``) the file cannot be written; the message
            holds the path and the bytes needed, the cause is the ``OSError``. The old file is
            intact, unless only the last step, syncing the folder, failed.
    """
    target = as_path("write_atomically", path)
    chunks = _flat_views(data)
    try:
        _check_target(target)
        _remove_stale(target)
        _write_and_rename(target, chunks)
        sync_folder(target.parent)
    except OSError as cause:
        needed = sum(chunk.nbytes for chunk in chunks)
        raise error(
            f"cannot write {str(target)!r} ({needed} bytes needed): {cause.strerror}; "
            "check the folder, its permissions and its free space"
        ) from cause


def _flat_views(data: Buffer | Iterable[Buffer]) -> list[memoryview]:
    chunks = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    try:
        return [memoryview(chunk).cast("B") for chunk in chunks]
    except TypeError as cause:
        raise DTypeError(
            f"write_atomically: data must be contiguous bytes, or an iterable of them: {cause}"
        ) from None


def _check_target(target: Path) -> None:
    # Renaming over /dev/null would, for root, turn the device into a file.
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise OSError(errno.EINVAL, "it exists and is not a regular file")


def _own_temporary(target: Path) -> Path:
    name = f".{target.name}.{os.getpid()}.{threading.get_native_id()}.tmp"
    return target.with_name(name)


def _remove_stale(target: Path) -> None:
    """Remove what dead processes, or an earlier one with our numbers, left for ``target``."""
    temporary = re.compile(rf"\.{re.escape(target.name)}\.(\d{{1,7}})\.\d{{1,7}}\.tmp")
    own = _own_temporary(target)
    for entry in target.parent.iterdir():
        match = temporary.fullmatch(entry.name)
        if match and (entry.name == own.name or not _is_alive(int(match[1]))):
            # Another user's file in a sticky folder cannot be removed; that must not stop a save.
            with contextlib.suppress(OSError):
                entry.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_and_rename(target: Path, chunks: list[memoryview]) -> None:
    temporary = _own_temporary(target)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        try:
            for chunk in chunks:
                _write_all(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]


def sync_folder(folder: Path) -> None:
    """Make renames within ``folder`` durable.

    Raises:
        OSError: it is no folder, or cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Exposure(NamedTuple):
    """How others could have changed what is in a folder.

    Attributes:
        foreign: whether it, or a link to it, belongs to another user; else others may write to it.
        reason: the folder and what is wrong with it.
    """

    foreign: bool
    reason: str


def exposure(
    folder: Path, *, trusted: Collection[int] = (), writers: int = OTHERS_WRITE
) -> Exposure | None:
    """How others could have changed what is in ``folder``; None where it is private.

    Args:
        folder: the folder, or a link to it: then both must belong to the user.
        trusted: users whose folders are as good as one's own.
        writers: bits of the mode that must not be set.

    Raises:
        OSError: there is no such folder, or it cannot be asked.
    """
    for status in (folder.lstat(), folder.stat()):  # a link, and what it leads to
        if hasattr(os, "getuid") and status.st_uid not in (os.getuid(), *trusted):
            owner = f"user {status.st_uid}, not to you ({os.getuid()})"
            return Exposure(True, f"{str(folder)!r} belongs to {owner}")
    if folder.stat().st_mode & writers:
        found = f"other users may write to {str(folder)!r} and may have; remove it"
        return Exposure(False, found)
    return None
