"""The compiled loop over a plan's table: whole epochs without returning to Python.

The table is that of :mod:`nnkernels.backends._compiled.epochs.engine`.
"""

from __future__ import annotations

import math

from numba import njit

from nnkernels.backends._compiled.epochs.engine import (
    BARRIER,
    GUARD,
    LOOK,
    MEMBER,
    RUN,
    SPINS,
    WINDOW,
)
from nnkernels.backends.numba.compiling.intrinsics import (
    atomic_add,
    atomic_load,
    call_entry,
    load_word,
    now_ns,
    relax,
    store_word,
    view,
    yield_processor,
)


@njit
def wait(barrier: int, goal: int) -> None:
    """Arrive at a barrier, and wait until ``goal`` threads have arrived since it was zero."""
    atomic_add(barrier, 1)
    spins = 0
    while atomic_load(barrier) < goal:
        relax()
        spins += 1
        if spins > SPINS:
            yield_processor()


@njit
def is_finite(address: int, double: int) -> bool:
    """Whether the number at an address is finite."""
    if double:
        return math.isfinite(view(address, 1, 0.0)[0])
    return bool(load_word(address) & 0x7F800000 != 0x7F800000)


@njit
def run_members(members: int, count: int, first: int, last: int, chunk: int) -> int:
    """Call ``count`` members chunk by chunk; returns whether one of them failed."""
    failures = 0
    start = first
    while start < last:
        stop = min(last, start + chunk)
        for member in range(count):
            at = members + 8 * MEMBER * member
            factor = load_word(at + 16)
            failures |= call_entry(load_word(at), load_word(at + 8), start * factor, stop * factor)
        start = stop
    return failures != 0


def walk(
    table: int,
    steps: int,
    row: int,
    diverged: int,
    barrier: int,
    threads: int,
    deadline_ns: int,
) -> int:
    """Run up to ``steps`` steps; returns how many were completed, or -1 where a kernel failed.

    Addresses are given of the table, of this thread's counters ``row`` and ``diverged`` (set to 1
    by a loss that is not finite), and of the barrier of all ``threads``. Behind the barrier lie two
    goals: the one at which all are to stop because a kernel failed, and the one after which they
    are to stop because it is past ``deadline_ns`` on the system's monotonic clock. No thread may
    leave while another is on its way to a barrier; so a thread that finds it late says so before
    the step's first barrier, and all leave when the step is done.
    """
    arrivals = 0
    for step in range(steps):
        if step > 0 and (threads > 1 or step % LOOK == 0) and now_ns() > deadline_ns:
            if threads == 1:
                return step
            store_word(barrier + 16, arrivals + 1)
        at = table
        while True:
            kind = load_word(at)
            if kind == RUN:
                count, chunk = load_word(at + 8), load_word(at + 32)
                if run_members(at + 40, count, load_word(at + 16), load_word(at + 24), chunk):
                    if threads == 1:
                        return -1
                    store_word(barrier + 8, arrivals + threads)
                at += 40 + 8 * MEMBER * count
            elif kind == BARRIER:
                arrivals += threads
                wait(barrier, arrivals)
                if 0 < atomic_load(barrier + 8) <= arrivals:
                    return -1
                at += 8
            elif kind == WINDOW:
                place = load_word(at + 16) + load_word(row) * load_word(at + 24)
                store_word(load_word(at + 8), place)
                at += 32
            elif kind == GUARD:
                if not is_finite(load_word(at + 8), load_word(at + 16)):
                    store_word(diverged, 1)
                    return step
                at += 24
            else:
                break
        if 0 < atomic_load(barrier + 16) <= arrivals:
            return step + 1
    return steps


@njit
def run_timed(member: int, start: int, stop: int) -> None:
    """Call a member and add the time to its clock."""
    factor, clock = load_word(member + 16), load_word(member + 24)
    began = now_ns()
    call_entry(load_word(member), load_word(member + 8), start * factor, stop * factor)
    store_word(clock, load_word(clock) + now_ns() - began)


def walk_timed(table: int, steps: int, row: int) -> int:
    """Run ``steps`` steps on one thread, adding up what every member takes; ends at a bad loss."""
    for step in range(steps):
        at = table
        while True:
            kind = load_word(at)
            if kind == RUN:
                count, last, chunk = load_word(at + 8), load_word(at + 24), load_word(at + 32)
                start = load_word(at + 16)
                while start < last:
                    stop = min(last, start + chunk)
                    for member in range(count):
                        run_timed(at + 40 + 8 * MEMBER * member, start, stop)
                    start = stop
                at += 40 + 8 * MEMBER * count
            elif kind == WINDOW:
                place = load_word(at + 16) + load_word(row) * load_word(at + 24)
                store_word(load_word(at + 8), place)
                at += 32
            elif kind == GUARD:
                if not is_finite(load_word(at + 8), load_word(at + 16)):
                    return step
                at += 24
            else:
                break
    return steps
