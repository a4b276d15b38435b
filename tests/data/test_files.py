"""The user's own files: .csv, .npy, .npz."""

import io
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkernels.data import load
from nnkernels.errors import DatasetError, InputError

TABLE = np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 1.0], [5.0, 6.0, 2.0], [7.0, 8.0, 1.0]])


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def rows_of(data: Any) -> list[list[float]]:
    x = np.vstack([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    return sorted(np.column_stack([x, y]).tolist())


@pytest.mark.parametrize(
    "text",
    [
        "1,2,0\n3,4,1\n5,6,2\n7,8,1\n",
        "a,b,label\r\n1,2,0\r\n3,4,1\r\n5,6,2\r\n7,8,1",
        '\ufeff"a","b","label"\n\n 1.0,2e0,"0"\n3,4,1\n\n5,6,2\n7,8,1\n\n',
    ],
)
def test_csv(tmp_path: Path, text: str) -> None:
    data = load(csv_file(tmp_path, text), dtype="float64")
    assert rows_of(data) == TABLE.tolist()
    assert (data.classes, len(data.x_test)) == (3, 1)


@pytest.mark.parametrize("target", [0, -3, "a"])
def test_csv_target_column(tmp_path: Path, target: int | str) -> None:
    path = csv_file(tmp_path, "a,b,c\n1,2,0\n3,4,1\n")
    data = load(path, target=target, task="regression", test_fraction=0)
    assert sorted(data.y_train.ravel()) == [1, 3]
    assert sorted(map(tuple, data.x_train.tolist())) == [(2, 0), (4, 1)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("a,b\n", "0 rows cannot be split"),
        ("1\n2\n", "at least two columns"),
        ("1,2\n3\n", "line 2 has 1 column, the first line has 2; give every row"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 columns"),
        ("a,b\n1,2\n3,x\n", r"line 3, column 2 \('b'\) holds 'x', which is not a finite number"),
        ("1,2\n\n3,x\n", r"line 3, column 2 holds 'x'"),
        ("1,x\n3,4\n", "line 1, column 2 holds 'x'"),
        ("1,2\nnan,4\n", "line 2, column 1 holds 'nan'"),
        ("1,2\n3,-inf\n", "line 2, column 2 holds '-inf'"),
        ("1,2\n, 4\n", "line 2, column 1 holds nothing"),
        ("1,2\n3,1e39\n5,6", "holds 1e[+]39"),
        ('1,2\n"3,4\n', "as a CSV file"),
        ("1;2\n3;4\n", "at least two columns|line 2, column 1"),
    ],
)
def test_csv_faults_are_located(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        load(csv_file(tmp_path, text), task="regression")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_a_number_that_is_not_finite_is_named_by_its_row_in_the_file(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"t{suffix}"
    table = np.arange(300.0).reshape(100, 3)
    table[37, 1] = 1e300  # finite in the file, not in float32
    if suffix == ".npy":
        np.save(path, table)
    elif suffix == ".npz":
        np.savez(path, x=table[:, :2], y=table[:, 2])
    else:
        np.savetxt(path, table, delimiter=",")
    for seed in range(3):
        with pytest.raises(DatasetError, match=r"1e\+300 in row 37, column 1 "):
            load(path, seed=seed)


def test_a_target_that_is_no_label_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    table = np.zeros((100, 2))
    table[37, 1] = 0.5
    np.save(path, table)
    with pytest.raises(DatasetError, match=r"0\.5 in row 37 "):
        load(path, task="classification")


def test_csv_of_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("größe,b\n1,2\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="as a CSV file"):
        load(path)


def test_csv_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = csv_file(tmp_path, "1,2\n3,4\n")
    monkeypatch.setattr("nnkernels.data.files.LIMIT", 7)
    with pytest.raises(DatasetError, match="larger than 7 bytes"):
        load(path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": 2}, "target must be a column number from -2 to 1 or a name"),
        ({"target": -3}, "target must be"),
        ({"target": True}, "target must be"),
        ({"target": 1.0}, "target must be"),
        ({"target": "heigth"}, "Did you mean 'height'"),
        ({"task": "guess"}, "task must be one of"),
        ({"test_fraction": 2}, "test_fraction must be a number from 0 to 1"),
        ({"directory": "x"}, "there is no option 'directory'"),
    ],
)
def test_csv_bad_options(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        load(csv_file(tmp_path, "height,b\n1,2\n3,4\n"), **options)


def test_a_name_needs_a_header(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The file has no header"):
        load(csv_file(tmp_path, "1,2\n3,4\n"), target="a")


@pytest.mark.parametrize(
    "table",
    [TABLE, np.asfortranarray(TABLE), TABLE.astype(">f4"), TABLE.astype(np.int8)],
    ids=["C", "Fortran", "big-endian", "int8"],
)
def test_npy(tmp_path: Path, table: np.ndarray) -> None:
    np.save(tmp_path / "table.npy", table)
    data = load(tmp_path / "table.npy")
    assert rows_of(data) == TABLE.tolist()
    assert data.classes == 3


def test_npy_target_column(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", TABLE)
    data = load(tmp_path / "table.npy", target=0, task="regression")
    assert sorted(np.append(data.y_train, data.y_test)) == [1, 3, 5, 7]


@pytest.mark.parametrize("keep", [0.0, 0.25])
def test_npz_of_x_and_y(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=TABLE[:, :2], y=TABLE[:, 2], other=np.array([None]))
    data = load(path, test_fraction=keep)
    assert rows_of(data) == TABLE.tolist()
    assert len(data.x_test) == keep * 4


def test_npz_of_two_parts(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    y = np.arange(6)
    np.savez(path, x_train=images[:4], y_train=y[:4], x_test=images[4:], y_test=y[4:])
    data = load(path)
    assert (data.x_train == images[:4].reshape(4, 4)).all()
    assert data.y_test.tolist() == [4, 5]
    with pytest.raises(InputError, match="split already"):
        load(path, test_fraction=0.5)


@pytest.mark.parametrize("names", [[], ["x"], ["x_train", "y_train", "x_test"]])
def test_npz_without_the_arrays(tmp_path: Path, names: list[str]) -> None:
    np.savez(tmp_path / "set.npz", **dict.fromkeys(names, TABLE))
    with pytest.raises(DatasetError, match="must hold the arrays"):
        load(tmp_path / "set.npz")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_nothing_is_unpickled(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    path, mark = tmp_path / f"evil{suffix}", tmp_path / "mark"
    array = np.array([[Bomb(mark)] * 2] * 2, dtype=object)
    if not wrapped:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    elif suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, x=array, y=array)
    with pytest.raises(DatasetError):
        load(path)
    assert not mark.exists()


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header(text: str) -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "damaged or no .npy file"),
        (b"\x93NUMPY\x03\x00" + npy_bytes(TABLE)[8:], r"version \(3, 0\) is not supported"),
        (npy_bytes(TABLE)[:-1], "needs exactly 96 bytes"),
        (npy_bytes(TABLE) + b"\0", "needs exactly 96 bytes"),
        (npy_bytes(TABLE.astype(complex)), "must hold numbers, got complex128"),
        (npy_bytes(np.array([["a", "b"]])), "must hold numbers"),
        (npy_bytes(np.zeros((2, 0))), "at least two columns"),
        (npy_bytes(np.zeros(4)), r"rows and columns is needed, got shape \(4,\)"),
        (npy_header("{'descr':'<f8','fortran_order':False,'shape':(-1,2)}"), "must hold numbers"),
        (
            npy_header("{'descr':'<f8','fortran_order':False,'shape':(9999999999,9999999999)}"),
            "there are at most",
        ),
        (npy_header("-" * 117), "damaged or no .npy file"),
        (npy_header("(" * 117), "damaged or no .npy file"),
        (npy_header("__import__('os')"), "damaged or no .npy file"),
    ],
)
def test_damaged_npy(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "table.npy"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=match):
        load(path)


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy_bytes(TABLE))
    with pytest.raises(DatasetError, match="only deflate compression"):
        load(path)


def test_an_array_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "set.npz", x=np.zeros((1000, 10)), y=np.zeros(1000))
    monkeypatch.setattr("nnkernels.data.files.LIMIT", 79_999)
    with pytest.raises(DatasetError, match="needs 80000 bytes; there are at most 79999"):
        load(tmp_path / "set.npz")


def contents(folder: Path) -> dict[str, bytes]:
    np.savez_compressed(folder / "set.npz", x=TABLE[:, :2], y=TABLE[:, 2])
    packed = (folder / "set.npz").read_bytes()
    return {"set.npz": packed, "set.npy": npy_bytes(TABLE), "set.csv": b"a,b\n1,2\n3,4.5\n"}


def fuzz(folder: Path, name: str, count: int) -> None:
    """Load ``count`` edits of a file: a Dataset or a DatasetError, never anything else."""
    content = contents(folder)[name]
    path = folder / name
    refused = 0
    for seed in range(count):
        rng = random.Random(seed)
        edited = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(edited))
            edited[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        path.write_bytes(edited)
        try:
            load(path)
        except DatasetError:
            refused += 1
    assert refused > count / 10


@pytest.mark.parametrize("name", ["set.npz", "set.npy", "set.csv"])
def test_fuzz(tmp_path: Path, name: str) -> None:
    fuzz(tmp_path, name, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set.npz", "set.npy", "set.csv"])
def test_fuzz_long(tmp_path: Path, name: str) -> None:
    fuzz(tmp_path, name, 20_000)
