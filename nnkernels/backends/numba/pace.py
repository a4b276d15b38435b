"""How many steps to run at once, and by how many threads.

With several threads a step has barriers, which cost little while every thread has a processor to
itself, and very much while another process takes one away: a thread then waits for a whole time
slice of that process. So the pace of one thread is tried now and then, and the faster number of
threads goes on. The results do not depend on it where our own kernels run.
"""

from __future__ import annotations

import os

from nnkernels.program import Program
from nnkernels.program.builder import solved_dims
from nnkernels.program.format import Instruction
from nnkernels.spec import get_op

CHUNK_S = 0.1
"""Seconds that one chunk of steps is meant to take, so that signals are seen soon."""

PROBE_S = 0.01
"""Seconds for trying the other number of threads."""

AGAIN_S = 1.0
"""Seconds of work between two tries; with every try that changes nothing it doubles, up to 8."""

THREADED_FLOPS = 2e6
"""Flops of a step from which a second thread is worth its barriers.

Measured on two CPUs with AVX-512: a step of W4 (8 Mflop) is 1.5 times faster with two threads, one
of 20-16-16-1 on 32 rows (0.1 Mflop) is slower.
"""


def processors() -> int:
    """Physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, psutil.cpu_count(logical=False) or 1))


def default_threads(program: Program) -> int:
    """1 for a Program of little work, else the physical cores."""
    return processors() if flops(program) >= THREADED_FLOPS else 1


def flops(program: Program) -> float:
    """Model flops of one step."""
    return sum(_flops(program, instruction) for instruction in program.instructions)


def _flops(program: Program, instruction: Instruction) -> float:
    first = next((o for o in instruction.outputs if o is not None), None)
    size = 0 if first is None else program.slots[first].elements
    return get_op(instruction.op).flops(solved_dims(program, instruction), size)


class Pace:
    """Chooses the next chunk of steps from how long the last ones took.

    Args:
        threads: the most that may be used.
    """

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._step_s: dict[int, float] = {}
        self._current = threads
        self._worked_s = 0.0
        self._again_s = AGAIN_S

    def next(self) -> tuple[int, int]:
        """Threads, and how many steps, of the next chunk."""
        threads = self._candidate()
        step_s = self._step_s.get(threads) or self._step_s.get(self._current)
        if step_s is None:
            return threads, 1
        seconds = CHUNK_S if threads == self._current else PROBE_S
        return threads, max(1, int(seconds / step_s))

    def _candidate(self) -> int:
        if self._most == 1 or self._current not in self._step_s:
            return self._current
        due = self._other not in self._step_s or self._worked_s >= self._again_s
        return self._other if due else self._current

    @property
    def _other(self) -> int:
        return 1 if self._current == self._most else self._most

    def took(self, threads: int, steps: int, seconds: float) -> None:
        """Learn that a chunk took so long."""
        step_s = seconds / steps
        if threads == self._current:
            self._worked_s += seconds
            self._step_s[threads] = step_s
            return
        self._worked_s = 0.0
        self._step_s[threads] = step_s
        if step_s < self._step_s[self._current]:
            self._current, self._again_s = threads, AGAIN_S
        else:
            self._again_s = min(2 * self._again_s, 8 * AGAIN_S)
