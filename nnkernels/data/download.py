"""Downloads that end: https only, bounded in size and in total time, checked before they count.

pooch makes the temporary file (exclusively, in the target folder), calls the downloader here, and
renames the file to its final name when that returns. A file has been verified and synced to disk by
then.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import logging
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nnkernels.errors import DatasetError
from nnkernels.files import sync_folder

_CHUNK = 2**16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Attributes:
        name: its name in the cache.
        urls: where it is; the tries go round them.
        max_bytes: the largest size accepted.
        verify: raises ``DatasetError`` when the file at the path is not the right one.
    """

    name: str
    urls: tuple[str, ...]
    max_bytes: int
    verify: Callable[[Path], object]


@dataclass(frozen=True)
class Policy:
    """How long and how often to try. ``clock``, ``sleep`` and ``loopback`` serve the tests.

    Attributes:
        total_s: seconds for one file, all tries together.
        stall_s: seconds without a byte after which a try is given up.
        tries: attempts for one file.
        backoff_s: pause before the second try; it doubles before each further one.
        clock: monotonic seconds.
        sleep: waits that many seconds.
        loopback: also accept http from this machine itself.
    """

    total_s: float = 600.0
    stall_s: float = 20.0
    tries: int = 3
    backoff_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    loopback: bool = False


def fetch(remote: Remote, folder: Path, policy: Policy) -> None:
    """Download ``remote`` to ``folder``, replacing a file of that name.

    Raises:
        DatasetError: no try gave the right file; the message holds the reason of each. Nothing is
            left in the folder.
    """
    end = policy.clock() + policy.total_s
    failures = []
    (folder / remote.name).unlink(missing_ok=True)
    for attempt in range(policy.tries):
        if attempt:
            policy.sleep(min(policy.backoff_s * 2 ** (attempt - 1), max(end - policy.clock(), 0)))
        share = (end - policy.clock()) / (policy.tries - attempt)
        url = remote.urls[attempt % len(remote.urls)]
        try:
            _try_once(remote, url, folder, _Deadline(policy, share))
        except (OSError, ValueError, http.client.HTTPException) as cause:
            failures.append(f"{url}: {_reason(cause)}")
        else:
            return
    raise DatasetError(f"cannot download {remote.name}: " + "; ".join(failures))


def _try_once(remote: Remote, url: str, folder: Path, deadline: _Deadline) -> None:
    import pooch

    store = pooch.create(
        path=folder,
        base_url="",
        registry={remote.name: None},
        urls={remote.name: url},
        retry_if_failed=0,
    )
    with _quiet(pooch.get_logger()):
        store.fetch(remote.name, downloader=functools.partial(_download, remote, deadline))
    sync_folder(folder)


def _download(remote: Remote, deadline: _Deadline, url: str, part: str, _store: object) -> None:
    """The downloader that pooch calls: ``url`` to the file ``part``, verified and synced."""
    _check_url(url, deadline.policy.loopback)
    request = urllib.request.Request(url, headers={"User-Agent": "nnkernels"})
    with (
        _opener(deadline).open(request) as response,
        Path(part).open("wb") as file,
        _progress(remote.name, response.length) as advance,
    ):
        _copy(response, file, remote.max_bytes, advance)
        file.flush()
        os.fsync(file.fileno())
    remote.verify(Path(part))


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    max_bytes: int,
    advance: Callable[[int], object],
) -> None:
    """The body of ``response`` to ``file``: all of it, and at most ``max_bytes``."""
    declared = response.length
    if declared is not None and declared > max_bytes:
        raise DatasetError(f"the server announces {declared} bytes; at most {max_bytes} are right")
    wanted = max_bytes + 1 if declared is None else declared
    received = 0
    # read1, because read(n) goes on waiting until all n bytes have come; the count ends the loop,
    # because some versions of read1 wait for more than the declared length.
    while received < wanted and (chunk := response.read1(_CHUNK)):
        file.write(chunk)
        received += len(chunk)
        advance(len(chunk))
    if received > max_bytes:
        raise DatasetError(f"the server sends more than {max_bytes} bytes")
    if declared is not None and received < declared:
        raise DatasetError(f"the answer broke off after {received} of {declared} bytes")


class _Deadline:
    """The end of one try; every wait on the network asks it how long it may last."""

    def __init__(self, policy: Policy, seconds: float) -> None:
        self.policy = policy
        self._seconds = seconds
        self._end = policy.clock() + seconds

    def next_wait(self) -> float:
        """Seconds that the next wait may take; ``TimeoutError`` when none are left."""
        left = self._end - self.policy.clock()
        if left <= 0:
            raise TimeoutError(f"not complete after {self._seconds:.3g} s")
        return min(left, self.policy.stall_s)


class _TimedReader(io.RawIOBase):
    """Reads from a socket; a server that drips bytes cannot outlast the deadline."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.next_wait())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """What http.client uses of a socket, under a deadline."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.next_wait())
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline))

    def close(self) -> None:
        self._sock.close()


def _connection(
    kind: type[http.client.HTTPConnection], deadline: _Deadline, host: str, **options: Any
) -> http.client.HTTPConnection:
    """A connection of ``kind`` whose every wait obeys ``deadline``."""
    options["timeout"] = deadline.next_wait()
    connection = kind(host, **options)
    plain_connect = connection.connect

    def connect() -> None:
        plain_connect()
        connection.sock = _TimedSocket(connection.sock, deadline)

    connection.connect = connect  # type: ignore[method-assign]
    return connection


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        make: Any = functools.partial(_connection, http.client.HTTPSConnection, self._deadline)
        return self.do_open(make, request, context=ssl.create_default_context())


class _LoopbackHttp(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        make: Any = functools.partial(_connection, http.client.HTTPConnection, self._deadline)
        return self.do_open(make, request)


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, loopback: bool) -> None:
        self._loopback = loopback

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any:
        fp.close()  # urllib would read this answer's body to its end, however long
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_url(newurl, self._loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """urllib's opener without the handlers for ``file:``, ``ftp:``, ``data:`` and ``http:``."""
    loopback = deadline.policy.loopback
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _CheckedRedirects(loopback),
        _Https(deadline),
    ]
    for handler in [*handlers, _LoopbackHttp(deadline)] if loopback else handlers:
        opener.add_handler(handler)
    return opener


def _check_url(url: str, loopback: bool) -> None:
    parts = urllib.parse.urlsplit(url)
    own = loopback and parts.scheme == "http" and parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not own:
        raise DatasetError(f"only https is followed, not {url!r}")


def _reason(cause: BaseException) -> str:
    """Why a try failed, in one printable line."""
    text = str(cause) or type(cause).__name__
    if isinstance(cause, urllib.error.HTTPError):
        cause.close()
        text = f"HTTP status {cause.code}"
        if 300 <= cause.code < 400:
            text += ": redirected in a circle, or to something other than https"
    elif isinstance(cause, urllib.error.URLError):
        text = str(cause.reason)
    return "".join(c if c.isprintable() else "?" for c in text)[:400]


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Hold back the notes that pooch writes to stderr."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr when that is a terminal; yields what counts its bytes."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield functools.partial(bar.advance, task)
