"""The compiled loops that walk over tables, and what they and Python must agree on.

A table is a list of int64, read from left to right once a step; :mod:`.table` makes it::

    WINDOW   cell, base, stride: write ``base + row * stride`` to the cell of a record
    RUN      members, first, last, chunk; then for each member entry, record, factor, clock
    BARRIER  wait for all threads
    GUARD    address of the loss, whether it is float64: end the run if it is not finite
    END

RUN calls its members one after the other on units ``[first, last)``, ``chunk`` of them at a time,
so that what one member leaves in the cache the next one finds there. A member has ``factor`` items
a unit; ``clock`` is where the timed walk adds up its nanoseconds. Everything is reached through a
pointer: a new network, or another kernel, changes the table and compiles nothing.

A worker, which is any thread but the first, takes its work from a mailbox, sixteen int64 of shared
memory: its state, then what the walk gets. Only a worker whose state is WAITING may leave, and then
it is AWAY. Who wants it to work first makes it RESERVED, and has it called if it was AWAY; then it
cannot leave any more. It takes its WORK by making it RUNNING, so that a worker called twice works
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nnkernels.backends._compiled.entry import Entry

END, WINDOW, RUN, BARRIER, GUARD = range(5)
LENGTHS = {END: 1, WINDOW: 4, RUN: 5, BARRIER: 1, GUARD: 3}
MEMBER = 4
"""Words of a member."""

AWAY, WAITING, RESERVED, WORK, RUNNING = range(5)
MAILBOX = 16
"""Words of a mailbox: two cache lines."""

TABLE, STEPS, DEADLINE = 1, 2, 7
"""Places in it of the walk's arguments, which begin with the table."""

LOOK = 8
"""Steps of one thread between two looks at the clock."""

SPINS = 2000
"""Looks at a barrier, or at a mailbox, before the processor is left to others."""

PATIENCE_NS = 2_000_000
"""How long a worker without work waits before it leaves."""


@dataclass(frozen=True)
class Engine:
    """The loops of one backend, as functions of int64.

    Attributes:
        walk: table, steps, row, diverged, barrier, threads, deadline_ns: run up to ``steps``
            steps; gives how many were completed, or -1 where a kernel failed. Addresses are given
            of the table, of this thread's counters ``row`` and ``diverged`` (set to 1 by a loss
            that is not finite), and of the barrier of all ``threads``.
        walk_timed: table, steps, row: the same on one thread, timing every member.
        lead: what ``walk`` gets and the address of the mailboxes: run together with the workers.
        serve: mailbox: be a worker, until nothing comes for a while.
        reserve: mailbox: keep a worker from leaving; gives its state before.
        dismiss: mailbox: let a worker leave that was reserved and got no work.
        load: has entries ready to be called, which may take long the first time.
        uses_blas: whether an entry calls a BLAS library.
    """

    walk: Entry
    walk_timed: Entry
    lead: Entry
    serve: Entry
    reserve: Entry
    dismiss: Entry
    load: Callable[[Iterable[Entry]], object]
    uses_blas: Callable[[Entry], bool]

    def entries(self, threads: int) -> list[Entry]:
        """What so many threads need besides the kernels."""
        if threads == 1:
            return [self.walk]
        return [self.lead, self.serve, self.reserve, self.dismiss]
