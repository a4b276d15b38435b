"""mnist: the real files, the cache, the download."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkernels.data import load
from nnkernels.data.download import Policy
from nnkernels.data.sources import mnist
from nnkernels.errors import DatasetError, DTypeError, InputError

QUICK = Policy(total_s=20, stall_s=5, tries=1, loopback=True)


def test_the_known_facts_of_the_real_files(mnist_folder: str) -> None:
    data = load("mnist", directory=mnist_folder)
    assert data.x_train.shape == (60_000, 784)
    assert data.x_test.shape == (10_000, 784)
    assert abs(data.x_train.mean(dtype=np.float64) - 0.130660) < 1e-6
    assert abs(data.x_train.std(dtype=np.float64) - 0.308108) < 1e-6
    assert data.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_train).tolist() == counts
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)


@pytest.fixture
def cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_sums: dict[str, str],
) -> Path:
    """An empty cache, and a tiny set that stands for MNIST."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NNKERNELS_MNIST", raising=False)
    monkeypatch.delenv("NNKERNELS_OFFLINE", raising=False)
    monkeypatch.setattr(mnist, "_SUMS", small_sums)
    return tmp_path / "nnkernels" / "mnist"


@pytest.fixture
def mirror(server: Any, small_set: dict[str, bytes]) -> Any:
    """The server, with the tiny set at ``/set/``."""
    for name, content in small_set.items():
        packed = gzip.compress(content)
        server.routes[f"/set/{name}.gz"] = lambda h, packed=packed: h.answer(packed)
    return server


def fetch(server: Any) -> Any:
    return mnist.from_cache((server.url + "/set/",), QUICK)


def stored(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("[!.]*"))


FILES = sorted(f"{name}.gz" for name in mnist._SUMS)


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_folder_is_checked_by_its_sums(
    cache: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    options: dict[str, Any] = {} if by_environment else {"directory": small_folder}
    if by_environment:
        monkeypatch.setenv("NNKERNELS_MNIST", str(small_folder))
    assert len(load("mnist", **options).x_train) == 5
    path = small_folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DatasetError, match=r"SHA-256 [0-9a-f]{64} .* expected [0-9a-f]{64}"):
        load("mnist", **options)
    assert not cache.exists()


@pytest.mark.parametrize("directory", [3, b"x"])
def test_a_directory_that_is_no_path(directory: Any) -> None:
    with pytest.raises(DTypeError, match="directory must be a str"):
        load("mnist", directory=directory)


def test_an_option_of_another_dataset() -> None:
    with pytest.raises(InputError, match="Known: directory"):
        load("mnist", train=10)


def test_the_second_load_takes_the_cache(cache: Path, mirror: Any) -> None:
    first, second = fetch(mirror), fetch(mirror)
    assert (first.x_train == second.x_train).all()
    assert sorted(mirror.hits.values()) == [1, 1, 1, 1]
    assert stored(cache) == FILES
    assert cache.stat().st_mode & 0o777 == 0o700


def test_load_reads_the_cache(cache: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(mirror)
    monkeypatch.setenv("NNKERNELS_OFFLINE", "1")
    data = load("mnist")
    assert data.y_train.tolist() == [0, 3, 1, 2, 3]
    assert (data.classes, data.source) == (10, "downloaded, SHA-256 verified")


def test_a_damaged_file_is_fetched_again(cache: Path, mirror: Any) -> None:
    fetch(mirror)
    (cache / FILES[0]).write_bytes(b"damaged")
    assert fetch(mirror).x_train.shape == (5, 2, 3)
    assert sorted(mirror.hits.values()) == [1, 1, 1, 2]


def test_offline_refuses(cache: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKERNELS_OFFLINE", "1")
    with pytest.raises(
        DatasetError, match=r"NNKERNELS_OFFLINE forbids.*NNKERNELS_MNIST.*directory=.*glyphs"
    ):
        load("mnist")
    assert not mirror.hits
    monkeypatch.setenv("NNKERNELS_OFFLINE", "0")
    fetch(mirror)


def test_a_wrong_file_is_removed_and_the_remedy_named(cache: Path, mirror: Any) -> None:
    mirror.routes[f"/set/{FILES[0]}"] = mirror.routes[f"/set/{FILES[1]}"]
    with pytest.raises(
        DatasetError, match=rf"cannot download {FILES[0]}.*Remedy: set NNKERNELS_MNIST"
    ):
        fetch(mirror)
    assert FILES[0] not in stored(cache)
    assert not list(cache.glob("tmp*"))


CODE = """
import json, sys
from nnkernels.data.download import Policy
from nnkernels.data.sources import mnist
mnist._SUMS = json.loads(sys.argv[2])
arrays = mnist.from_cache((sys.argv[1],), Policy(total_s=20, stall_s=10, loopback=True))
print(arrays.y_train.tolist())
"""


@contextlib.contextmanager
def child(server: Any, sums: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CODE, server.url + "/set/", json.dumps(sums)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


def test_eight_processes_download_once(
    cache: Path, mirror: Any, small_sums: dict[str, str]
) -> None:
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(child(mirror, small_sums)) for _ in range(8)]
        results = [process.communicate(timeout=60) for process in started]
    assert results == [("[0, 3, 1, 2, 3]\n", "")] * 8
    assert sorted(mirror.hits.values()) == [1, 1, 1, 1]
    assert stored(cache) == FILES


def test_a_download_killed_half_way_leaves_nothing_that_counts(
    cache: Path, mirror: Any, small_sums: dict[str, str]
) -> None:
    good = mirror.routes[f"/set/{FILES[0]}"]

    def stall(handler: Any) -> None:
        handler.answer(b"half", Content_Length="1000")
        handler.wait()

    mirror.routes[f"/set/{FILES[0]}"] = stall
    with child(mirror, small_sums) as process:
        until = time.monotonic() + 30
        while not list(cache.glob("tmp*")) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
    mirror.routes[f"/set/{FILES[0]}"] = good
    assert list(cache.glob("tmp*"))
    assert FILES[0] not in stored(cache)
    fetch(mirror)
    assert stored(cache) == FILES


def test_what_is_there_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNKERNELS_MNIST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in names:
        assert mnist.find() is None
        (tmp_path / "nnkernels" / "mnist" / f"{name}-ubyte.gz").touch()
    assert mnist.find() == tmp_path / "nnkernels" / "mnist"
    monkeypatch.setenv("NNKERNELS_MNIST", "there")
    assert (mnist.find(), mnist.find("here")) == ("there", "here")
