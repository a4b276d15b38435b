"""``mnist``: handwritten digits (Yann LeCun, Corinna Cortes, Christopher Burges), 28 x 28 pixels.

From a folder of the user's, or downloaded once. Either way the SHA-256 sums of the decompressed
files must be those of the original distribution.
"""

from __future__ import annotations

import os
from pathlib import Path

from nnkernels.data import cache, idx
from nnkernels.data.dataset import Dataset, FloatType
from nnkernels.data.download import Policy, Remote, fetch
from nnkernels.errors import DatasetError, DTypeError

_SUMS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_LARGEST = 60_000 * 28 * 28  # bytes of values in the largest file, and more than any file gzipped
_REMEDY = (
    "set NNKERNELS_MNIST to a folder of the four IDX files, give the folder (load's directory=), "
    "or take 'glyphs', which needs no download"
)


def load(*, dtype: FloatType, directory: str | os.PathLike[str] | None = None) -> Dataset:
    """60,000 training and 10,000 test images, ``[rows, 784]`` in [0, 1], in the original order.

    Read from ``directory``, else from the folder in the environment variable ``NNKERNELS_MNIST``,
    else from the user's cache, which is filled by download unless ``NNKERNELS_OFFLINE`` is set.

    Raises:
        DTypeError: ``directory`` is no path.
        DatasetError: a file is missing, damaged or not MNIST's, or the download fails.
    """
    arrays, source = _read(directory)
    return idx.to_dataset("mnist", arrays, dtype=dtype, classes=10, source=source)


def find(directory: str | os.PathLike[str] | None = None) -> str | os.PathLike[str] | None:
    """The folder that ``load`` reads without a download; None where there is none.

    ``directory``, else that in ``NNKERNELS_MNIST``, neither of them looked into; else the user's
    cache if it holds all files.

    Raises:
        DatasetError: the cache cannot be used.
    """
    named = _named(directory)
    if named is not None:
        return named
    folder = cache.private_folder("mnist")
    return folder if all((folder / _file(name)).is_file() for name in _SUMS) else None


def _named(directory: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    return os.environ.get("NNKERNELS_MNIST") or None if directory is None else directory


def _read(directory: str | os.PathLike[str] | None) -> tuple[idx.Arrays, str]:
    directory = _named(directory)
    if directory is None:
        return from_cache(_MIRRORS, Policy()), "downloaded, SHA-256 verified"
    if not isinstance(directory, str | os.PathLike):
        raise DTypeError(
            f"load('mnist'): directory must be a str or os.PathLike, got {type(directory).__name__}"
        )
    return idx.read_folder(Path(directory), sums=_SUMS), "IDX files, SHA-256 verified"


def from_cache(mirrors: tuple[str, ...], policy: Policy) -> idx.Arrays:
    """The arrays from the cache, whose missing or damaged files are downloaded first.

    Raises:
        DatasetError: the cache cannot be used, the download fails or is forbidden.
    """
    folder = cache.private_folder("mnist")
    try:
        return idx.read_folder(folder, sums=_SUMS)
    except DatasetError as missing:
        if os.environ.get("NNKERNELS_OFFLINE", "") not in ("", "0"):
            raise DatasetError(
                f"MNIST is not in the cache and NNKERNELS_OFFLINE forbids downloads: {_REMEDY} "
                f"({missing})"
            ) from missing
    try:
        _fill(folder, mirrors, policy)
    except (DatasetError, OSError) as cause:
        raise DatasetError(f"load('mnist'): {cause}. Remedy: {_REMEDY}") from cause
    return idx.read_folder(folder, sums=_SUMS)


def _fill(folder: Path, mirrors: tuple[str, ...], policy: Policy) -> None:
    """Download what ``folder`` lacks, unless another process has done so meanwhile."""
    with cache.locked(folder, policy.total_s * len(_SUMS)):
        for leftover in folder.glob("tmp*"):  # of a process killed while downloading
            leftover.unlink()
        for name in _SUMS:
            remote = _remote(name, mirrors)
            try:
                remote.verify(folder / remote.name)
            except DatasetError:
                fetch(remote, folder, policy)


def _remote(name: str, mirrors: tuple[str, ...]) -> Remote:
    def verify(path: Path) -> None:
        idx.read(path, ndim=idx.rank(name), sha256=_SUMS[name], limit=_LARGEST)

    file = _file(name)
    return Remote(file, tuple(mirror + file for mirror in mirrors), _LARGEST, verify)


def _file(name: str) -> str:
    """Name in the cache, and at the mirrors."""
    return f"{name}.gz"
