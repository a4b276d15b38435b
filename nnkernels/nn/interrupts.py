"""Signals that wait for the end of a training step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Pending:
    """The signal that arrived while signals were deferred; None as long as none did.

    ``answered`` is set by whoever acts on it; else it is raised again when deferring ends.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.answered = False

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """``SIGINT``, ``SIGTERM``, ``SIGHUP`` or nothing."""
        return signal.Signals(self.signal).name if self.signal is not None else ""


def _nohup(number: int) -> bool:
    """Whether it is the signal of a terminal that closes, which this process is to outlive."""
    return signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
    """Note SIGINT, SIGTERM and SIGHUP instead of acting on them.

    Only the main thread receives signals; elsewhere nothing is changed. SIGHUP stays ignored where
    it is, by nohup. A signal that nobody answered inside is raised again at the end.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return

    def note(number: int, frame: FrameType | None) -> None:
        pending.signal = number

    before = {number: signal.signal(number, note) for number in SIGNALS if not _nohup(number)}
    try:
        yield pending
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if pending.signal is not None and not pending.answered:
            signal.raise_signal(pending.signal)
