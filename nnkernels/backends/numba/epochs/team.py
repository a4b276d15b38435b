"""Threads that stay awake for a moment, so that the next run of steps finds them running.

To wake a thread takes tens of microseconds, and on some systems a time slice of the thread that
wakes it; a run of steps may take less. So a worker that has finished waits in compiled code, for at
most :data:`PATIENCE_NS`, for more work in its mailbox: see
:mod:`nnkernels.backends._compiled.epochs.engine`.
"""

from __future__ import annotations

from numba import njit

from nnkernels.backends._compiled.epochs.engine import (
    AWAY,
    DEADLINE,
    MAILBOX,
    PATIENCE_NS,
    RESERVED,
    RUNNING,
    SPINS,
    STEPS,
    TABLE,
    WAITING,
    WORK,
)
from nnkernels.backends.numba.compiling.intrinsics import (
    atomic_load,
    atomic_replace,
    atomic_swap,
    load_word,
    now_ns,
    relax,
    store_word,
    yield_processor,
)
from nnkernels.backends.numba.epochs.walker import walk

_walk = njit(walk)


def serve(mailbox: int) -> int:
    """Be a worker: run what comes into the mailbox, until nothing comes for a while."""
    atomic_replace(mailbox, AWAY, WAITING)
    while True:
        if not _has_work(mailbox):
            return 0
        at = mailbox + 8 * TABLE
        _walk(
            load_word(at),
            load_word(at + 8),
            load_word(at + 16),
            load_word(at + 24),
            load_word(at + 32),
            load_word(at + 40),
            load_word(at + 48),
        )
        atomic_swap(mailbox, WAITING)


@njit
def _has_work(mailbox: int) -> bool:
    """Wait for work and take it; False when the worker is to leave instead."""
    began, spins = now_ns(), 0
    while True:
        state = atomic_load(mailbox)
        if state == WORK and atomic_replace(mailbox, WORK, RUNNING) == WORK:
            return True
        if state in (AWAY, RUNNING):  # dismissed, or another one was called for it
            return False
        relax()
        spins += 1
        if spins > SPINS:
            yield_processor()
        late = spins % 64 == 0 and now_ns() - began > PATIENCE_NS
        if late and atomic_replace(mailbox, WAITING, AWAY) == WAITING:
            return False


def reserve(mailbox: int) -> int:
    """Keep a worker from leaving; returns its state before: one that was AWAY must be called."""
    return int(atomic_swap(mailbox, RESERVED))


def dismiss(mailbox: int) -> int:
    """Let a worker leave, if there is one, that was reserved and got no work."""
    return int(atomic_replace(mailbox, RESERVED, AWAY))


def lead(
    table: int,
    steps: int,
    row: int,
    diverged: int,
    barrier: int,
    threads: int,
    deadline_ns: int,
    mailboxes: int,
) -> int:
    """Run steps together with the reserved workers, whose mailboxes lie one after the other.

    Their tables, rows and counters are in the mailboxes already. Returns the steps completed.
    """
    for worker in range(threads - 1):
        mailbox = mailboxes + 8 * MAILBOX * worker
        store_word(mailbox + 8 * STEPS, steps)
        store_word(mailbox + 8 * DEADLINE, deadline_ns)
        atomic_swap(mailbox, WORK)
    completed = _walk(table, steps, row, diverged, barrier, threads, deadline_ns)
    for worker in range(threads - 1):
        mailbox, spins = mailboxes + 8 * MAILBOX * worker, 0
        while atomic_load(mailbox) >= WORK:
            relax()
            spins += 1
            if spins > SPINS:
                yield_processor()
    return int(completed)
