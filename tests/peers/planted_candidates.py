"""Candidates with faults: imported by worker processes only."""

import os
import time

from benchmarks.peers.candidates import Unable
from benchmarks.peers.candidates.textbook import Textbook


class Wrong(Textbook):
    """A step that is a thousandth too long."""

    def outputs(self):
        initial = [*(w for w, _ in self._problem.initial), *(b for _, b in self._problem.initial)]
        pairs = zip(super().outputs(), initial, strict=True)
        return [i + 1.001 * (found - i) for found, i in pairs]


class Drifting(Textbook):
    """Right at the first step only."""

    def outputs(self):
        return [1.5 * p if self._next > 1 else p for p in super().outputs()]


class NotFinite(Textbook):
    def outputs(self):
        return [p * float("nan") for p in super().outputs()]


class Incomplete(Textbook):
    def outputs(self):
        return super().outputs()[:-1]


class Hanging(Textbook):
    def run(self, steps):
        time.sleep(600)


class Crashing(Textbook):
    def run(self, steps):
        os._exit(7)


class Tiring(Textbook):
    """Gives up after it has been judged."""

    def run(self, steps):
        if self._next >= 20:
            raise RuntimeError("enough")
        super().run(steps)


class CannotSay:
    def __init__(self, problem, threads):
        raise Unable("it has no such loss")
