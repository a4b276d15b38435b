"""Downloads from a server that stalls, drips, lies and redirects."""

import gzip
import hashlib
import itertools
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkernels.data import download, idx
from nnkernels.data.download import Policy, Remote, fetch
from nnkernels.errors import DatasetError

CONTENT = bytes((0, 0, 8, 1)) + struct.pack(">I", 3000) + np.arange(3000).astype(np.uint8).tobytes()
SHA_256 = hashlib.sha256(CONTENT).hexdigest()
PACKED = gzip.compress(CONTENT, 0)
LIMIT = 5_000


def verify(path: Path) -> None:
    idx.read(path, ndim=1, sha256=SHA_256)


def policy(**changes: Any) -> Policy:
    quick: dict[str, Any] = {"total_s": 20.0, "stall_s": 10.0, "tries": 1, "sleep": lambda _: None}
    return Policy(**{**quick, **changes}, loopback=True)


def get(server: Any, folder: Path, *paths: str, **changes: Any) -> None:
    urls = tuple(server.url + path for path in paths or ("/file",))
    fetch(Remote("set.gz", urls, LIMIT, verify), folder, policy(**changes))


def assert_refused(server: Any, folder: Path, match: str, **changes: Any) -> None:
    """The download fails within its limits, for the reason ``match``, and leaves nothing."""
    start = time.monotonic()
    with pytest.raises(DatasetError, match=match) as caught:
        get(server, folder, **changes)
    assert time.monotonic() - start < 15
    assert str(caught.value).startswith("cannot download set.gz: http://127.0.0.1:")
    assert list(folder.iterdir()) == []


def test_a_good_file_arrives(server: Any, tmp_path: Path) -> None:
    server.routes["/file"] = lambda h: h.answer(PACKED)
    get(server, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set.gz"]
    assert (tmp_path / "set.gz").read_bytes() == PACKED
    assert (tmp_path / "set.gz").stat().st_mode & 0o077 == 0


def test_a_file_without_announced_size_arrives(server: Any, tmp_path: Path) -> None:
    server.routes["/file"] = lambda h: h.answer(PACKED, Content_Length="")
    get(server, tmp_path)
    assert (tmp_path / "set.gz").read_bytes() == PACKED


def test_a_chunked_file_arrives(server: Any, tmp_path: Path) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PACKED), PACKED)
    server.routes["/file"] = lambda h: h.answer(
        chunks, Content_Length="", Transfer_Encoding="chunked"
    )
    get(server, tmp_path)
    assert (tmp_path / "set.gz").read_bytes() == PACKED


def test_an_old_file_is_replaced(server: Any, tmp_path: Path) -> None:
    (tmp_path / "set.gz").write_bytes(b"old")
    server.routes["/file"] = lambda h: h.answer(PACKED)
    get(server, tmp_path)
    assert (tmp_path / "set.gz").read_bytes() == PACKED


def test_a_server_that_keeps_the_connection_open(server: Any, tmp_path: Path) -> None:
    def behaviour(handler: Any) -> None:
        handler.answer(PACKED)
        handler.wait()

    server.routes["/file"] = behaviour
    get(server, tmp_path)
    assert (tmp_path / "set.gz").read_bytes() == PACKED


def test_a_redirect_is_followed(server: Any, tmp_path: Path) -> None:
    server.routes["/file"] = lambda h: h.answer(status=302, Location="/there")
    server.routes["/there"] = lambda h: h.answer(PACKED)
    get(server, tmp_path)
    assert (tmp_path / "set.gz").read_bytes() == PACKED


def broken_off(handler: Any) -> None:
    handler.answer(PACKED[:1000], Content_Length=str(len(PACKED)))


def reset(handler: Any) -> None:
    handler.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def raw(content: bytes) -> Callable[[Any], object]:
    return lambda handler: handler.wfile.write(content)


ALTERED = gzip.compress(CONTENT[:-1] + b"\0", 0)


@pytest.mark.parametrize(
    ("behaviour", "match"),
    [
        (lambda h: h.answer(status=404), "HTTP status 404"),
        (lambda h: h.answer(status=500), "HTTP status 500"),
        (lambda h: h.answer(status=429, Retry_After="9999"), "HTTP status 429"),
        (broken_off, f"broke off after 1000 of {len(PACKED)} bytes"),
        (
            lambda h: h.answer(PACKED[:1000], Content_Length=""),
            "damaged gzip",
        ),
        (lambda h: h.answer(PACKED, Content_Length="1000"), "damaged gzip"),
        (lambda h: h.answer(PACKED, Content_Length="99999999999"), "announces 99999999999 bytes"),
        (lambda h: h.answer(PACKED, Content_Length="5001"), "announces 5001 bytes"),
        (lambda h: h.answer(bytes(5001), Content_Length=""), "sends more than 5000 bytes"),
        (lambda h: h.answer(ALTERED), f"SHA-256 (?!{SHA_256}).* expected {SHA_256}"),
        (lambda h: h.answer(b""), "an empty file"),
        (lambda h: h.answer(b"<html>", Content_Type="text/html"), "no IDX file"),
        (reset, "onnection|disconnected|closed"),
        (raw(b"nonsense\r\n\r\n"), "nonsense"),
        (raw(b"\x1b]0;evil\x07\r\n\r\n"), r"evil"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"), "more than 100 headers"),
        (
            lambda h: h.answer(b"5\r\nabc", Content_Length="", Transfer_Encoding="chunked"),
            "IncompleteRead|bytes read",
        ),
    ],
)
def test_wrong_answers(
    server: Any, tmp_path: Path, behaviour: Callable[[Any], None], match: str
) -> None:
    server.routes["/file"] = behaviour
    assert_refused(server, tmp_path, match)


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("file:///etc/passwd", "HTTP status 302: redirected in a circle, or to something other"),
        ("ftp://127.0.0.1/file", "only https is followed, not 'ftp://127.0.0.1/file'"),
        ("http://192.0.2.1/file", "only https is followed"),
        ("http://localhost.example/file", "only https is followed"),
        ("data:,hello", "HTTP status 302"),
        ("/file", "HTTP status 302: redirected in a circle"),
        ("http://[broken", "Invalid IPv6 URL"),
    ],
)
def test_bad_redirects(server: Any, tmp_path: Path, location: str, match: str) -> None:
    server.routes["/file"] = lambda h: h.answer(b"moved", status=302, Location=location)
    assert_refused(server, tmp_path, match)


def test_an_endless_chain_of_redirects(server: Any, tmp_path: Path) -> None:
    paths = ["/file", *(f"/{i}" for i in range(40))]
    for here, there in itertools.pairwise(paths):
        server.routes[here] = lambda h, there=there: h.answer(status=302, Location=there)
    assert_refused(server, tmp_path, "HTTP status 302: redirected in a circle")
    assert sum(server.hits.values()) <= 11


def test_a_redirect_with_an_endless_body(server: Any, tmp_path: Path) -> None:
    def behaviour(handler: Any) -> None:
        handler.answer(b"x", status=302, Location="/there", Content_Length="99999999999")
        while not handler.wait(0.001):
            handler.wfile.write(bytes(1000))

    server.routes["/file"] = behaviour
    server.routes["/there"] = lambda h: h.answer(PACKED)
    get(server, tmp_path)
    assert (tmp_path / "set.gz").read_bytes() == PACKED


def stalled_head(handler: Any) -> None:
    handler.wait()


def stalled_body(handler: Any) -> None:
    handler.answer(PACKED[:100], Content_Length=str(len(PACKED)))
    handler.wait()


@pytest.mark.parametrize("behaviour", [stalled_head, stalled_body])
def test_a_stall_ends_the_try(
    server: Any, tmp_path: Path, behaviour: Callable[[Any], None]
) -> None:
    server.routes["/file"] = behaviour
    assert_refused(server, tmp_path, "timed out", stall_s=0.1)


@pytest.mark.parametrize("behaviour", [stalled_head, stalled_body])
def test_a_wait_ends_with_the_deadline(
    server: Any, tmp_path: Path, behaviour: Callable[[Any], None]
) -> None:
    server.routes["/file"] = behaviour
    assert_refused(server, tmp_path, r"timed out|not complete", total_s=0.2, stall_s=60)


def ticking() -> Callable[[], float]:
    """A clock that advances by one second whenever it is read."""
    ticks = itertools.count()
    return lambda: float(next(ticks))


def drip(handler: Any, start: bytes) -> None:
    handler.wfile.write(start)
    while not handler.wait(0.001):
        handler.wfile.write(b"A")


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1"],
    ids=["body", "header", "status"],
)
def test_a_drip_cannot_outlast_the_deadline(server: Any, tmp_path: Path, start: bytes) -> None:
    server.routes["/file"] = lambda h: drip(h, start)
    assert_refused(server, tmp_path, "not complete after", clock=ticking(), total_s=60)


def test_three_tries_with_growing_pauses_go_round_the_mirrors(server: Any, tmp_path: Path) -> None:
    server.routes["/one"] = lambda h: h.answer(status=500)
    server.routes["/two"] = lambda h: h.answer(status=404)
    pauses: list[float] = []
    with pytest.raises(DatasetError, match=r"/one: .* 500; .*/two: .* 404; .*/one: .* 500$"):
        get(server, tmp_path, "/one", "/two", tries=3, backoff_s=0.5, sleep=pauses.append)
    assert pauses == [0.5, 1.0]
    assert server.hits == {"/one": 2, "/two": 1}


def test_the_second_mirror_helps(server: Any, tmp_path: Path) -> None:
    server.routes["/one"] = stalled_body
    server.routes["/two"] = lambda h: h.answer(PACKED)
    get(server, tmp_path, "/one", "/two", tries=2, stall_s=0.1)
    assert (tmp_path / "set.gz").read_bytes() == PACKED


def test_all_tries_share_one_deadline(server: Any, tmp_path: Path) -> None:
    server.routes["/file"] = lambda h: drip(h, b"")
    clock = ticking()
    assert_refused(server, tmp_path, "not complete", clock=clock, total_s=90, tries=3)
    assert server.hits["/file"] == 3
    assert clock() < 100


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "nonsense"]
)
def test_only_https_is_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(DatasetError, match="only https is followed"):
        fetch(Remote("set.gz", (url,), LIMIT, verify), tmp_path, policy())


def test_loopback_is_for_tests_only(server: Any, tmp_path: Path) -> None:
    server.routes["/file"] = lambda h: h.answer(PACKED)
    remote = Remote("set.gz", (server.url + "/file",), LIMIT, verify)
    with pytest.raises(DatasetError, match="only https is followed, not 'http://127"):
        fetch(remote, tmp_path, Policy(tries=1))
    assert not server.hits


def test_a_server_that_speaks_no_tls(server: Any, tmp_path: Path) -> None:
    url = server.url.replace("http:", "https:") + "/file"
    with pytest.raises(DatasetError, match=r"SSL|TLS"):
        fetch(Remote("set.gz", (url,), LIMIT, verify), tmp_path, policy())


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{free.getsockname()[1]}/file"
        with pytest.raises(DatasetError, match="refused"):
            fetch(Remote("set.gz", (url,), LIMIT, verify), tmp_path, policy())


def test_reasons_hold_no_control_characters(server: Any, tmp_path: Path) -> None:
    server.routes["/file"] = raw(b"HTTP/1.1 abc\x1b]0;evil\x07\r\n\r\n")
    with pytest.raises(DatasetError) as caught:
        get(server, tmp_path)
    assert str(caught.value).isprintable()


def test_piped_output_stays_silent(
    server: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.routes["/file"] = lambda h: h.answer(PACKED)
    get(server, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with download._progress("set.gz", 1000) as advance:
        advance(1000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "set.gz" in captured.err
