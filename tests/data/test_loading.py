"""load: names, paths, options."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkernels.data import load, names, read_table
from nnkernels.data.loading import _find
from nnkernels.errors import (
    DatasetError,
    DTypeError,
    InputError,
    NnkernelsError,
    UnknownNameError,
)


def test_names_are_the_modules_in_sources() -> None:
    assert names() == ["digits", "glyphs", "mnist", "spirals"]


def test_every_named_dataset_takes_keyword_arguments_only() -> None:
    for name in names():
        _, loader = _find(name)
        assert loader.__kwdefaults__ is not None
        assert loader.__defaults__ is None


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float64, np.dtype("float32")])
def test_dtype_is_that_of_the_features(dtype: Any) -> None:
    data = load("glyphs", train=2, test=1, dtype=dtype)
    assert data.x_train.dtype == data.x_test.dtype == np.dtype(dtype)


def test_the_two_dtypes_hold_the_same_pixels() -> None:
    single, double = (load("glyphs", train=20, test=1, dtype=d) for d in ("float32", "float64"))
    assert (single.x_train == double.x_train.astype(np.float32)).all()


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'glyphs'"):
        load("glyph")


@pytest.mark.parametrize("name", ["", "nothing", "a\0b", "x" * 5000])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown dataset"):
        load(name)


@pytest.mark.parametrize("path", ["nowhere/data.csv", "data.csv", Path("mnist"), "./glyphs"])
def test_a_missing_file(path: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="no file or folder"):
        load(path)


def test_a_name_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spirals").mkdir()
    assert load("spirals", train=1, test=1).name == "spirals"
    with pytest.raises(DatasetError, match="holds no train-images"):
        load("./spirals")


@pytest.mark.parametrize("file", ["/dev/null", "data.txt", "data"])
def test_a_file_of_another_kind(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").touch()
    (tmp_path / "data").touch()
    with pytest.raises(DatasetError, match="not a folder of IDX files nor a file named"):
        load(file)


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (DTypeError, "dtype must be float32 or float64, got 'int8'", {"dtype": "int8"}),
        (DTypeError, "dtype must be", {"dtype": "nonsense"}),
        (DTypeError, "dtype must be", {"dtype": 3}),
        (InputError, "seed must be a whole number", {"seed": -1}),
        (InputError, "seed must be a whole number", {"seed": 2**64}),
        (InputError, "seed must be a whole number", {"seed": 0.5}),
        (InputError, "Did you mean 'train'", {"trian": 3}),
        (InputError, "there is no option 'directory' here", {"directory": "x"}),
        (InputError, "there is no option 'path' here", {"path": "x"}),
    ],
)
def test_bad_arguments(error: type[NnkernelsError], match: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        load("glyphs", **arguments)


@pytest.mark.parametrize("name", [None, 3, b"glyphs"])
def test_a_name_of_another_type(name: Any) -> None:
    with pytest.raises(DTypeError, match="name_or_path must be a str"):
        load(name)


def test_none_means_the_default() -> None:
    assert len(load("spirals", train=None, test=1, directory=None).x_train) == 2_000


def test_the_largest_seed() -> None:
    assert len(load("spirals", seed=2**64 - 1, train=3).x_train) == 3


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".CSV"])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_table_is_read_as_it_stands(
    tmp_path: Path, suffix: str, columns: int, dtype: str
) -> None:
    path = tmp_path / f"table{suffix}"
    values = np.random.default_rng(0).normal(size=(20, columns))
    if suffix == ".npy":
        np.save(path, np.asfortranarray(values))
    else:
        np.savetxt(path, values, delimiter=",", fmt="%.17g", header="a,b,c"[: 2 * columns - 1])
    got = read_table(path, dtype=dtype)
    assert (got.dtype, got.flags.c_contiguous) == (np.dtype(dtype), True)
    assert (got == values.astype(dtype)).all()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("t.csv", b"1,2\n3,nan\n", "line 2, column 2"),
        ("t.csv", b"1,2\n3,1e300\n", "the table holds 1e[+]300 in row 1, column 1"),
        ("t.csv", None, "no file or folder"),
        ("t.npz", b"PK", "is not a file named [*][.]csv, [*][.]npy"),
        ("t.npy", b"", "damaged or no [.]npy file"),
    ],
)
def test_tables_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes | None, match: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=match):
        read_table(tmp_path / name)


def test_bad_arguments_of_read_table(tmp_path: Path) -> None:
    with pytest.raises(DTypeError, match="read_table: path must be"):
        read_table(3)  # type: ignore[arg-type]  # the wrong type is the test
    with pytest.raises(DTypeError, match="read_table: dtype must be"):
        read_table(tmp_path / "t.csv", dtype="int64")
