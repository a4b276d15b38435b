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

AGAIN_S = 0.2
"""Seconds of work between two tries; with every try that changes nothing it doubles, up to 2."""

CLOCK_S = 1e-9
"""What a clock shows at least; it may stand still for a chunk."""

LONG_STEP_S = 5e-3
"""Seconds of a step beyond which the other number of threads is tried every 100 steps at most: over
several time slices a thread gets its share of a processor, and a try costs whole steps."""

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


class _Record:
    """How long steps take with some number of threads, from the last :data:`PROBE_S` or more.

    The first :data:`PROBE_S` do not count: until then threads are started, and moved to processors
    of their own.
    """

    def __init__(self, before_s: float = 0.0) -> None:
        self.step_s: float | None = None
        self.before_s = before_s
        self._warm = False
        self._steps, self._seconds = 0, 0.0

    def add(self, steps: int, seconds: float) -> None:
        """Learn of some more steps."""
        self._steps += steps
        self._seconds += max(seconds, CLOCK_S)
        if self._seconds < PROBE_S:
            return
        if self._warm:
            self.step_s = self._seconds / self._steps
        self._warm = True
        self._steps, self._seconds = 0, 0.0

    @property
    def estimate(self) -> float | None:
        """Seconds of a step, perhaps from few of them."""
        return self.step_s or (self._seconds / self._steps if self._steps else None)


class Pace:
    """Chooses the next chunk of steps from how long the last ones took.

    Args:
        threads: the most that may be used.
    """

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._records = {1: _Record(), threads: _Record()}
        self._current = self._chosen = threads
        self._worked_s = 0.0
        self._again_s = AGAIN_S

    def next(self) -> tuple[int, int]:
        """Threads, and how many steps, of the next chunk."""
        if self._due():
            self._records[self._other] = _Record(self._records[self._other].step_s or 0.0)
            self._chosen = self._other
        known = self._chosen == self._current and self._records[self._current].step_s is not None
        record = self._records[self._chosen]
        step_s = record.estimate
        if step_s is None and (present := self._records[self._current].estimate) is not None:
            step_s = max(record.before_s, present)
        if step_s is None:
            return self._chosen, 1
        return self._chosen, max(1, int((CHUNK_S if known else PROBE_S) / step_s))

    @property
    def _other(self) -> int:
        return 1 if self._current == self._most else self._most

    def _due(self) -> bool:
        """Whether it is time to begin to try the other number of threads."""
        step_s = self._records[self._current].step_s
        if self._most == 1 or self._chosen != self._current or step_s is None:
            return False
        other_s = self._records[self._other].step_s
        if other_s is None:
            return True
        pause_s = 100 * step_s if min(step_s, other_s) > LONG_STEP_S else 0.0
        return self._worked_s >= max(self._again_s, pause_s)

    def took(self, threads: int, steps: int, seconds: float) -> None:
        """Learn that a chunk took so long."""
        self._records[threads].add(steps, seconds)
        if threads == self._current:
            self._worked_s += seconds
        elif self._records[threads].step_s is not None:
            self._compare()

    def _compare(self) -> None:
        """Go on with the faster number of threads after a try."""
        tried, present = (self._records[n].step_s for n in (self._other, self._current))
        assert tried is not None and present is not None  # both were measured, or it was not due
        if tried < present:
            self._current, self._again_s = self._other, AGAIN_S
        else:
            self._again_s = min(2 * self._again_s, 10 * AGAIN_S)
        self._chosen, self._worked_s = self._current, 0.0
