"""IDX files, the format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist).

Two zero bytes, a type code (8: unsigned bytes, the only one read here), the number of dimensions,
each size as a big-endian 32-bit number, then the values in C order. A file may be gzip-compressed.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnkernels.data.dataset import Dataset, FloatType
from nnkernels.errors import DatasetError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
LIMIT = 2**30  # bytes of values in one file
_CHUNK = 2**20
_GZIP = b"\x1f\x8b"


class Arrays(NamedTuple):
    """The four arrays of an IDX folder: images ``[rows, height, width]``, labels ``[rows]``."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]


def load_folder(*, path: Path, dtype: FloatType) -> Dataset:
    """The IDX files of a folder as a Dataset: pixels / 255 in rows, labels up to the highest seen.

    Raises:
        DatasetError: a file is missing or damaged, or the files do not fit together.
    """
    arrays = read_folder(path)
    classes = int(max(arrays.y_train.max(), arrays.y_test.max())) + 1
    return to_dataset(path.name, arrays, dtype=dtype, classes=classes, source="IDX files")


def to_dataset(
    name: str, arrays: Arrays, *, dtype: FloatType, classes: int, source: str
) -> Dataset:
    """``arrays`` as a Dataset, pixels divided by 255."""
    return Dataset(
        name=name,
        x_train=np.divide(arrays.x_train.reshape(len(arrays.x_train), -1), 255, dtype=dtype),
        y_train=arrays.y_train.astype(np.int64),
        x_test=np.divide(arrays.x_test.reshape(len(arrays.x_test), -1), 255, dtype=dtype),
        y_test=arrays.y_test.astype(np.int64),
        classes=classes,
        source=source,
    )


def read_folder(folder: Path, *, sums: Mapping[str, str] | None = None) -> Arrays:
    """Read the four files named in ``FILES`` (also ``.gz``, also ``-images.idx3``) of ``folder``.

    Args:
        folder: where they are.
        sums: SHA-256 of the decompressed content by name in ``FILES``, checked when given.

    Raises:
        DatasetError: a file is missing or damaged, has another sum, or the files do not fit
            together.
    """
    found = [_locate(folder, name) for name in FILES]
    expected = [sums[name] if sums else None for name in FILES]
    arrays = Arrays(
        *(
            read(path, ndim=rank(name), sha256=sha256)
            for path, name, sha256 in zip(found, FILES, expected, strict=True)
        )
    )
    _check_fit(folder, arrays)
    return arrays


def rank(name: str) -> int:
    """Number of dimensions in the file ``name`` of ``FILES``."""
    return 3 if "idx3" in name else 1


def read(
    path: Path, *, ndim: int, sha256: str | None = None, limit: int = LIMIT
) -> NDArray[np.uint8]:
    """The array in one IDX file of unsigned bytes, plain or gzip.

    Nothing larger than the file's header announces is ever held, and that at most ``limit`` bytes.

    Raises:
        DatasetError: the file cannot be read, is no such IDX file, is truncated or too long, or the
            SHA-256 of its decompressed content is not ``sha256``.
    """
    if not path.is_file():
        raise DatasetError(f"there is no file {str(path)!r}")
    try:
        with path.open("rb") as file:
            return read_stream(file, str(path), ndim=ndim, sha256=sha256, limit=limit)
    except OSError as cause:
        raise DatasetError(f"cannot read {str(path)!r}: {cause}") from cause


def read_stream(
    file: BinaryIO, name: str, *, ndim: int, sha256: str | None = None, limit: int = LIMIT
) -> NDArray[np.uint8]:
    """``read`` from an open, seekable file; ``name`` is for messages."""
    compressed = file.read(2) == _GZIP
    file.seek(0)
    try:
        if not compressed:
            return _parse(file, name, ndim, sha256, limit)
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _parse(unpacked, name, ndim, sha256, limit)
    except (gzip.BadGzipFile, EOFError, zlib.error) as cause:
        raise DatasetError(f"{name!r} is a damaged gzip file: {cause}") from cause


def _parse(
    stream: BinaryIO | gzip.GzipFile, name: str, ndim: int, sha256: str | None, limit: int
) -> NDArray[np.uint8]:
    header = _read_up_to(stream, 4 + 4 * ndim)
    shape = _shape(header, name, ndim)
    size = math.prod(shape)
    if not 0 < size <= limit:
        raise DatasetError(
            f"{name!r}: its header announces shape {shape}, {size} bytes; 1 to {limit} are accepted"
        )
    body = _read_up_to(stream, size + 1)
    if len(body) != size:
        fault = "is truncated" if len(body) < size else "goes on after its end"
        raise DatasetError(f"{name!r} {fault}: shape {shape} needs exactly {size} bytes of values")
    digest = hashlib.sha256(header + body).hexdigest() if sha256 else None
    if digest != sha256:
        raise DatasetError(
            f"{name!r} has the wrong content: SHA-256 {digest} after decompression, "
            f"expected {sha256}; remove the file and fetch it again"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _shape(header: bytes, name: str, ndim: int) -> tuple[int, ...]:
    """The sizes in the ``header`` of an IDX file of unsigned bytes in ``ndim`` dimensions."""
    magic = bytes((0, 0, 8, ndim))
    if header[:4] != magic:
        found = header[:4].hex(" ") if header else "an empty file"
        raise DatasetError(
            f"{name!r} is no IDX file of unsigned bytes in {ndim} dimensions: it should begin "
            f"with {magic.hex(' ')}, got {found}"
        )
    if len(header) != 4 + 4 * ndim:
        raise DatasetError(f"{name!r} is truncated: it ends within its header")
    return tuple(np.frombuffer(header, dtype=">u4", offset=4).tolist())


def _read_up_to(stream: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """``size`` bytes, or fewer where the stream ends; memory grows with what is really there."""
    parts = []
    while size and (part := stream.read(min(size, _CHUNK))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _locate(folder: Path, name: str) -> Path:
    dotted = name.replace("-idx", ".idx")
    for candidate in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise DatasetError(
        f"the folder {str(folder)!r} holds no {name} or {name}.gz; an IDX dataset is the files "
        + ", ".join(FILES)
    )


def _check_fit(folder: Path, arrays: Arrays) -> None:
    for part, x, y in (
        ("train", arrays.x_train, arrays.y_train),
        ("t10k", arrays.x_test, arrays.y_test),
    ):
        if len(x) != len(y):
            raise DatasetError(
                f"{str(folder)!r}: {len(x)} images but {len(y)} labels in the {part} files"
            )
    if arrays.x_train.shape[1:] != arrays.x_test.shape[1:]:
        raise DatasetError(
            f"{str(folder)!r}: training images {arrays.x_train.shape[1:]} and test images "
            f"{arrays.x_test.shape[1:]} differ in size"
        )
