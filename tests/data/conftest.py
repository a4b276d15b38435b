"""Fixtures of the data tests: small IDX files, a misbehaving server."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.hits[self.path] += 1
        self.server.routes[self.path](self)

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        """Send ``body``; Content-Length is its length unless ``headers`` has one ("" for none)."""
        headers.setdefault("Content_Length", str(len(body)))
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def wait(self, seconds: float = 20.0) -> bool:
        """Wait; true when the test is over."""
        return self.server.over.wait(seconds)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Behaviour] = {}
        self.hits: Counter[str] = Counter()
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client hung up, as it should

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        connection.settimeout(20)
        return connection, address


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join(10)


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array."""
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


@pytest.fixture
def idx_of() -> Callable[[np.ndarray], bytes]:
    return idx_bytes


@pytest.fixture
def small_set() -> dict[str, bytes]:
    """The four files of a tiny image set, decompressed, by MNIST's names."""
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    labels = np.array([0, 3, 1, 2, 3], dtype=np.uint8)
    return {
        "train-images-idx3-ubyte": idx_bytes(images),
        "train-labels-idx1-ubyte": idx_bytes(labels),
        "t10k-images-idx3-ubyte": idx_bytes(images[:2]),
        "t10k-labels-idx1-ubyte": idx_bytes(labels[:2]),
    }


@pytest.fixture
def small_sums(small_set: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in small_set.items()}


@pytest.fixture
def small_folder(tmp_path: Path, small_set: dict[str, bytes]) -> Path:
    """A folder with the tiny set, two files plain and two compressed."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name, content in small_set.items():
        if "images" in name:
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder
