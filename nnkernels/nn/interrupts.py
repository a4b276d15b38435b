"""Signals that wait for the end of a training step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        """``SIGINT``, ``SIGTERM`` or nothing."""
        return signal.Signals(self.signal).name if self.signal is not None else ""


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
    """Note SIGINT and SIGTERM instead of acting on them.

    Only the main thread receives signals; elsewhere nothing is changed. A signal that nobody
    answered inside is raised again at the end.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return

    def note(number: int, frame: FrameType | None) -> None:
        pending.signal = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield pending
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if pending.signal is not None and not pending.answered:
            signal.raise_signal(pending.signal)
