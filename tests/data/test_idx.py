"""IDX files: right ones are read, damaged ones refused."""

import gzip
import hashlib
import io
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnkernels.data import idx, load
from nnkernels.errors import DatasetError

IdxOf = Callable[[np.ndarray], bytes]
SMALL = bytes((0, 0, 8, 1)) + struct.pack(">I", 5) + b"hello"


def parse(content: bytes, *, ndim: int = 1, limit: int = 1000) -> np.ndarray:
    return idx.read_stream(io.BytesIO(content), "file", ndim=ndim, limit=limit)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=7)), st.booleans())
def test_round_trip(array: np.ndarray, compressed: bool) -> None:
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    content = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
    read = parse(gzip.compress(content) if compressed else content, ndim=array.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (gzip.compress(b"", mtime=0), "an empty file"),
        (b"\0\0", "no IDX file"),
        (b"\0\0\x08\x03" + SMALL[4:], "no IDX file of unsigned bytes in 1 dimensions"),
        (b"\0\0\x0d\x01" + SMALL[4:], "no IDX file"),
        (b"PK\x03\x04" + SMALL[4:], "no IDX file"),
        (SMALL[:6], "ends within its header"),
        (SMALL[:-1], "is truncated"),
        (SMALL + b"\0", "goes on after its end"),
        (gzip.compress(SMALL + b"\0", mtime=0), "goes on after its end"),
        (SMALL[:4] + struct.pack(">I", 0), r"shape \(0,\), 0 bytes"),
        (SMALL[:4] + struct.pack(">I", 1001) + bytes(1001), "1001 bytes; 1 to 1000 are accepted"),
        (gzip.compress(SMALL, mtime=0)[:-9], "damaged gzip"),
        (gzip.compress(SMALL, mtime=0)[:-1], "damaged gzip"),
        (gzip.compress(SMALL, mtime=0) + b"junk", "damaged gzip"),
        (b"\x1f\x8b", "damaged gzip"),
    ],
)
def test_damaged_files(content: bytes, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        parse(content)


def test_a_header_of_absurd_sizes() -> None:
    header = bytes((0, 0, 8, 3)) + struct.pack(">III", *[2**31 - 1] * 3)
    with pytest.raises(DatasetError, match="are accepted"):
        parse(header, ndim=3, limit=idx.LIMIT)


@pytest.mark.parametrize("announced", [5, 2**29])
def test_memory_follows_the_content_and_a_bomb_is_not_unpacked(announced: int) -> None:
    # 5 values and 50 MB of zeros after them; or 2**29 values announced and 8 MB there.
    size = 50 * 2**20 if announced == 5 else 8 * 2**20
    header = SMALL[:4] + struct.pack(">I", announced)
    bomb = gzip.compress(header + bytes(size), 1)
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"truncated|goes on"):
        parse(bomb, limit=idx.LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 2**20


def test_a_wrong_sum_names_both(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(SMALL)
    right = hashlib.sha256(SMALL).hexdigest()
    assert idx.read(path, ndim=1, sha256=right).tobytes() == b"hello"
    with pytest.raises(DatasetError, match=f"SHA-256 {right} .*expected {'0' * 64}"):
        idx.read(path, ndim=1, sha256="0" * 64)


def test_no_file_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DatasetError, match="there is no file"):
            idx.read(path, ndim=1)


def test_a_folder_of_idx_files(small_folder: Path) -> None:
    data = load(small_folder, dtype="float64")
    assert data.x_train.shape == (5, 6)
    np.testing.assert_array_equal(data.x_train.ravel(), np.arange(30) / 255)
    assert data.y_train.tolist() == [0, 3, 1, 2, 3]
    assert (data.x_test == data.x_train[:2]).all()
    assert (data.classes, data.name) == (4, "small")


def test_the_dotted_spelling_of_the_names(small_folder: Path) -> None:
    for path in list(small_folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(load(small_folder).x_train) == 5


def test_a_missing_file_is_named(small_folder: Path) -> None:
    (small_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DatasetError, match="no t10k-labels-idx1-ubyte"):
        load(small_folder)


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        ("train-labels-idx1-ubyte", np.zeros(4, np.uint8), "5 images but 4 labels in the train"),
        ("t10k-images-idx3-ubyte", np.zeros((3, 2, 3), np.uint8), "3 images but 2 labels"),
        ("t10k-images-idx3-ubyte", np.zeros((2, 3, 3), np.uint8), "differ in size"),
        ("t10k-images-idx3-ubyte", np.zeros((2, 3), np.uint8), "no IDX file"),
    ],
)
def test_files_that_do_not_fit_together(
    small_folder: Path, idx_of: IdxOf, name: str, array: np.ndarray, match: str
) -> None:
    (small_folder / name).write_bytes(idx_of(array))  # the plain file comes before the .gz
    with pytest.raises(DatasetError, match=match):
        load(small_folder)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one to three random edits: a byte changed, a piece cut or inserted."""
    edited = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(edited) + 1)
        edit = rng.randrange(4)
        if edit == 0:
            edited[at : at + rng.randint(1, 4)] = b""
        elif edit == 1:
            edited[at:at] = rng.randbytes(rng.randint(1, 4))
        else:
            edited[at : at + 1] = rng.randbytes(1)
    return bytes(edited)


def assert_refused_or_same(content: bytes, count: int) -> None:
    """Compressed, every edit is found or changes nothing; a plain file has no checksum."""
    compressed = content[:2] == b"\x1f\x8b"
    refused = 0
    for seed in range(count):
        try:
            array = parse(mutate(content, random.Random(seed)))
        except DatasetError:
            refused += 1
        else:
            assert array.tobytes() == b"hello" or not compressed, seed
    assert refused > count / 4


FUZZED = pytest.mark.parametrize(
    "content", [SMALL, gzip.compress(SMALL, mtime=0)], ids=["plain", "gzip"]
)


@FUZZED
def test_fuzz(content: bytes) -> None:
    assert_refused_or_same(content, 3_000)


@FUZZED
@pytest.mark.slow
def test_fuzz_long(content: bytes) -> None:
    assert_refused_or_same(content, 50_000)
