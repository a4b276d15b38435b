"""Work that waits in streams, and the order in which it is done.

Nothing is done before something waits for it, and then only what that needs: so work that another
stream should have waited for is missed. With a seed, further work that is ready is done at random
moments: so work that should have waited for another stream comes too early.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable


class Work:
    """One piece of work.

    Args:
        run: does it.
        after: what must be done before.
    """

    __slots__ = ("after", "done", "run")

    def __init__(self, run: Callable[[], None], after: Iterable[Work]) -> None:
        self.run = run
        self.done = False
        self.after = [work for work in after if not work.done]

    def settle(self) -> None:
        """Count as done from now on."""
        self.done, self.run = True, _nothing
        self.after.clear()


class Scheduler:
    """The work that is not done yet, in the order in which it came.

    Args:
        seed: of the moments at which work is done before anything waits for it; None for never.
    """

    def __init__(self, seed: int | None) -> None:
        self._draw = None if seed is None else random.Random(seed)
        self._pending: dict[int, Work] = {}

    @property
    def idle(self) -> bool:
        """Whether all work is done."""
        return not self._pending

    def add(self, run: Callable[[], None], after: Iterable[Work]) -> Work:
        """Let ``run`` be called some time after the work ``after``."""
        work = Work(run, after)
        self._pending[id(work)] = work
        if self._draw is not None:
            for _ in range(self._draw.randrange(3)):
                self._do_something(self._draw)
        return work

    def finish(self, work: Work) -> None:
        """Do a piece of work and all that it must come after."""
        stack = [work]
        while stack:
            top = stack[-1]
            waiting = [other for other in top.after if not other.done]
            if waiting:
                stack.extend(waiting)
            else:
                stack.pop()
                self._do(top)

    def finish_all(self) -> None:
        """Do everything."""
        while self._pending:
            self.finish(next(iter(self._pending.values())))

    def _do_something(self, draw: random.Random) -> None:
        ready = [w for w in self._pending.values() if all(other.done for other in w.after)]
        if ready:
            self._do(draw.choice(ready))

    def _do(self, work: Work) -> None:
        if work.done:
            return
        self._pending.pop(id(work), None)
        run = work.run
        work.settle()
        try:
            run()
        except BaseException:
            self._drop_all()
            raise

    def _drop_all(self) -> None:
        """After an error nothing that was queued is done, as on a device whose context is lost."""
        for work in self._pending.values():
            work.settle()
        self._pending.clear()


def _nothing() -> None:
    """What is left of work that is done, so that it keeps nothing alive."""
