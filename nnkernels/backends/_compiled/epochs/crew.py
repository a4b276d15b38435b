"""The threads that run an executable's steps: their memory, their tables, how they are woken."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from nnkernels.backends._compiled.epochs.engine import AWAY, MAILBOX, TABLE, Engine
from nnkernels.backends._compiled.epochs.memory import Private, Shared
from nnkernels.backends._compiled.epochs.plan import Plan
from nnkernels.backends._compiled.epochs.table import Table
from nnkernels.backends._compiled.epochs.tasks import Region
from nnkernels.program import Program, State
from nnkernels.program.format import ALIGNMENT
from nnkernels.spec import Array


class Job(NamedTuple):
    """What the threads of an executable have in common.

    Attributes:
        engine: the compiled loops.
        program, plan, state: what runs on what.
        shared: the arrays that all threads see.
        regions: the memory that the plan touches.
    """

    engine: Engine
    program: Program
    plan: Plan
    state: State
    shared: Shared
    regions: Sequence[Region]


class Member(NamedTuple):
    """One thread's memory and table."""

    private: Private
    table: Table


class Crew:
    """A number of threads that run steps together; the first of them is the caller's."""

    def __init__(self, job: Job, threads: int) -> None:
        self._job, self._threads = job, threads
        self.members = [self._member(thread) for thread in range(threads)]
        table = self.members[0].table
        self._prologue = [(task, table.record(task)) for task in job.plan.prologue]
        buffer = job.state.device.buffer
        self._barrier = buffer(2 * ALIGNMENT).view(np.int64)
        self._mailboxes = buffer(8 * MAILBOX * (threads - 1)).view(np.int64)
        self._mailboxes = self._mailboxes.reshape(threads - 1, MAILBOX)
        first, *others = (self._arguments(member) for member in self.members)
        self._first = first
        for mailbox, arguments in zip(self._mailboxes, others, strict=True):
            mailbox[TABLE : TABLE + len(arguments)] = arguments
        self._addresses = [int(mailbox.ctypes.data) for mailbox in self._mailboxes]
        self._calls = [entry.call for entry in job.engine.entries(threads)]
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def _member(self, thread: int) -> Member:
        job = self._job
        private = Private(job.state, job.regions)
        double = job.program.dtype == "float64"
        inputs = job.program.inputs
        table = Table(job.plan, job.shared, private, inputs, double, self._threads, thread)
        return Member(private, table)

    def _arguments(self, member: Member) -> list[int]:
        """What the walk gets for a member, without the number of steps."""
        counters = [member.private.counter(name) for name in ("row", "diverged")]
        barrier = int(self._barrier.ctypes.data)
        return [member.table.address, 0, *counters, barrier, self._threads]

    def feed(self, arrays: Mapping[str, Array]) -> None:
        """Use these input arrays."""
        for member in self.members:
            member.table.feed(arrays)

    def prologue(self) -> None:
        """Run what comes before a run of steps."""
        for task, record in self._prologue:
            task.step.entry.call(record.ctypes.data, 0, task.step.items)

    def run(self, steps: int, limit_s: float = 3600.0) -> int:
        """Run up to ``steps`` steps; returns how many were completed, -1 where a kernel failed.

        After ``limit_s`` seconds it ends with the step in which it is.
        """
        deadline_ns = time.monotonic_ns() + int(limit_s * 1e9)
        for member in self.members:
            member.private.fetch_state()
        self._barrier[:] = 0
        table, _, *rest = self._first
        try:
            if self._threads == 1:
                done: int = self._calls[0](table, steps, *rest, deadline_ns)
                return done
            return self._lead(table, steps, [*rest, deadline_ns])
        finally:  # also where Ctrl-C strikes: counters tell of the steps that were completed
            self.members[0].private.store_state()

    def _lead(self, table: int, steps: int, rest: Sequence[int]) -> int:
        """Run steps with workers, of which none is left waiting when this is interrupted."""
        lead, serve, reserve, dismiss = self._calls
        pool, addresses = self._workers(), self._addresses
        try:
            for mailbox, address in zip(self._mailboxes, addresses, strict=True):
                if reserve(address) == AWAY:
                    pool.submit(_serve, serve, mailbox)
            completed: int = lead(table, steps, *rest, addresses[0])
            return completed
        finally:
            for address in addresses:
                dismiss(address)

    def _workers(self) -> ThreadPoolExecutor:
        """Threads of this process: after a fork the parent's are gone."""
        if self._pool is None or self._process != os.getpid():
            self._mailboxes[:, 0] = AWAY
            self._pool, self._process = ThreadPoolExecutor(self._threads - 1), os.getpid()
        return self._pool


def _serve(serve: object, mailbox: Array) -> None:
    """Be a worker, for whom the mailbox lives as long as it may look into it."""
    serve(mailbox.ctypes.data)  # type: ignore[operator]  # a ctypes function
