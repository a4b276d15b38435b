"""The user's private cache folder, and the lock that lets one process at a time fill it."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from nnkernels.errors import DatasetError
from nnkernels.files import exposure


def private_folder(name: str) -> Path:
    """The folder ``name`` in the cache of nnkernels, made with mode 0700 where it is missing.

    Raises:
        DatasetError: it cannot be made, or it is one that another user could change.
    """
    import platformdirs

    top = Path(platformdirs.user_cache_dir("nnkernels"))
    try:
        top.parent.mkdir(parents=True, exist_ok=True)
        for folder in (top, top / name):
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_private(folder)
    except OSError as cause:
        raise DatasetError(f"cannot use the cache folder {str(top / name)!r}: {cause}") from cause
    return top / name


def _check_private(folder: Path) -> None:
    exposed = exposure(folder, writers=stat.S_IWOTH)
    if exposed is None:
        return
    if exposed.foreign:
        raise DatasetError(
            f"the cache folder {exposed.reason}; remove it, or set XDG_CACHE_HOME to a folder of "
            "your own"
        )
    raise DatasetError(
        f"everybody may write to the cache folder {str(folder)!r}; check what is in it, then run: "
        f"chmod 700 '{folder}'"
    )


@contextlib.contextmanager
def locked(folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of ``folder``; the system frees it when its process dies.

    Raises:
        DatasetError: another process kept it for ``timeout_s`` seconds.
    """
    import filelock

    try:
        with filelock.FileLock(folder / ".lock", timeout=timeout_s):
            yield
    except filelock.Timeout as cause:
        raise DatasetError(
            f"another process has been filling {str(folder)!r} for {timeout_s:g} s; try again later"
        ) from cause
