"""From which size is one backend faster than another? Measures for :mod:`breakeven`'s search."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from nnkernels.bench import machine, results
from nnkernels.bench.breakeven import BreakEven, Measure, Ratio, search, spaced
from nnkernels.bench.harness import Sweep
from nnkernels.bench.recording import Recorder
from nnkernels.bench.session import Candidate, Effort, Plan, Trial, contest
from nnkernels.bench.statistics import paired_ratio
from nnkernels.names import parse_backend

Scenario = Literal["resident", "transfers"]

PAIRS = (8, 60)
"""Fewest and most pairs of samples at a size."""

PRIME_SECONDS = 0.2
"""Longest priming of a candidate at a size."""

BISECTIONS = 6
"""Sizes beyond the scan that time is kept for."""

PRECISION = 0.02
"""Width of a ratio's interval, relative to it, at which no more pairs are taken."""


class Listener(Protocol):
    """Is told how a run proceeds."""

    def measure(self, sweep: Sweep, size: int, done: float) -> None:
        """A size will be measured; ``done`` is the share of the whole budget that is spent."""

    def finish(self, found: Sequence[results.Crossover]) -> None:
        """A sweep has been searched."""


def plan_of(
    a: str, b: str, budget: float, threads: int | None, argv: Sequence[str] = (), seed: int = 0
) -> Plan:
    """How to compare two backends, on as many CPUs as the one with more threads may use."""
    effort = Effort(budget, *PAIRS, PRIME_SECONDS)
    cpus = cpus_for([a, b], threads)
    return Plan((), "default", (a, b), {}, effort, threads, argv, seed, cpus=cpus)


def cpus_for(names: Sequence[str], threads: int | None) -> Collection[int] | None:
    """The same CPUs for both, as many as threads; None where a library chooses its own number."""
    counts = [parse_backend(name).settings.get("threads", threads) or 0 for name in names]
    usable, most = machine.affinity(), max(counts)
    if usable is None or 0 in counts or len(usable) < most:
        return None
    return usable[-most:]


@dataclass
class Search:
    """A run under way; ``record()`` gives what has been found so far."""

    plan: Plan
    sweeps: Sequence[Sweep]
    crew: Sequence[Candidate]
    listener: Listener
    rows: list[results.Result] = field(default_factory=list)
    found: list[results.Crossover] = field(default_factory=list)
    complete: bool = False

    def __post_init__(self) -> None:
        plan = self.plan
        self._recorder = Recorder(plan.argv, plan.seed, plan.effort.budget, plan.threads)
        self._rng = np.random.default_rng(plan.seed)

    def run(self) -> None:
        """Search along every sweep."""
        for number, sweep in enumerate(self.sweeps):
            duel = Duel(self, sweep, self._left / (len(self.sweeps) - number))
            crossovers = list(duel.answers())
            self.found += crossovers
            self.listener.finish(crossovers)
        self.complete = True

    @property
    def _left(self) -> float:
        return max(self.plan.effort.budget - self._recorder.elapsed, 0.0)

    def contest(self, sweep: Sweep, size: int, seconds: float) -> tuple[Trial, Trial]:
        """Measure both candidates at a size of a sweep."""
        self.listener.measure(sweep, size, 1 - self._left / self.plan.effort.budget)
        case = sweep.at(size)
        a, b = (Trial(case, number, each) for number, each in enumerate(self.crew))
        deadline = time.perf_counter() + seconds
        contest((a, b), case, self.plan, self._rng, deadline, lambda: _precise(a, b))
        self.rows += [a.result(), b.result()]
        return a, b

    def record(self) -> results.Run:
        """Everything that is known so far, as one record."""
        return self._recorder.record(
            "crossover", self.rows, complete=self.complete, crossovers=self.found
        )


def _precise(a: Trial, b: Trial) -> bool:
    """Whether more pairs would not help."""
    if not (a.ok and b.ok):
        return True
    ratio, low, high = paired_ratio(a.samples("call"), b.samples("call"))
    return (high - low) / ratio < PRECISION


@dataclass
class _Pairs:
    """Seconds a call of both candidates, in pairs."""

    a: list[float] = field(default_factory=list)
    b: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        return Ratio(*paired_ratio(self.a, self.b))


class Duel:
    """Two candidates along one sweep: what was measured, and what follows from it.

    A size is measured in all scenarios at once. Measured again, it keeps its earlier pairs.
    """

    def __init__(self, search: Search, sweep: Sweep, seconds: float) -> None:
        self._search, self._sweep = search, sweep
        self._sizes = spaced(sweep.low, sweep.high)
        self._share = seconds / (len(self._sizes) + BISECTIONS)
        self._found: dict[Scenario, dict[int, _Pairs]] = {}
        self._failure: str | None = None

    def answers(self) -> Iterator[results.Crossover]:
        """The crossover with resident data; where data must travel, also the one with transfers."""
        yield self._answer("resident")
        if "transfers" in self._found:
            yield self._answer("transfers")

    def _answer(self, scenario: Scenario) -> results.Crossover:
        found = search(self._measure_in(scenario), self._sizes)
        sweep, (a, b) = self._sweep, self._search.plan.backends
        points = sorted(self._found.get(scenario, {}).items())
        return results.Crossover(
            workload=sweep.workload,
            dtype=sweep.at(sweep.low).dtype,
            a=a,
            b=b,
            sweep=sweep.over,
            scenario=scenario,
            points=[_point(sweep, size, pairs) for size, pairs in points],
            verdict=found.verdict,
            size=found.size,
            interval=found.interval,
            reason=self._failure or reason(found, b),
        )

    def _measure_in(self, scenario: Scenario) -> Measure:
        known = set(self._found.get(scenario, ()))

        def measure(size: int) -> Ratio | None:
            if size in known:
                known.remove(size)
            elif not self._take(size):
                return None
            pairs = self._found.get(scenario, {}).get(size)
            return pairs.ratio if pairs else None

        return measure

    def _take(self, size: int) -> bool:
        """Measure a size; whether both candidates could do it."""
        a, b = self._search.contest(self._sweep, size, self._share)
        for trial in (a, b):
            if not trial.ok:
                result = trial.result()
                self._failure = f"{result.backend} at {size:,}: {result.status}, {result.reason}"
                return False
        self._keep("resident", size, a.samples("call"), b.samples("call"))
        if a.samples("e2e") or b.samples("e2e"):
            far = [trial.samples("e2e") or trial.samples("call") for trial in (a, b)]
            self._keep("transfers", size, *far)
        return True

    def _keep(self, scenario: Scenario, size: int, a: Sequence[float], b: Sequence[float]) -> None:
        pairs = self._found.setdefault(scenario, {}).setdefault(size, _Pairs())
        pairs.a += a
        pairs.b += b


def _point(sweep: Sweep, size: int, pairs: _Pairs) -> results.CrossoverPoint:
    ratio = pairs.ratio
    return results.CrossoverPoint(
        size=size,
        items=sweep.at(size).cost.items,
        a_s=float(np.median(pairs.a)),
        b_s=float(np.median(pairs.b)),
        ratio=ratio.value,
        ci=(ratio.low, ratio.high),
    )


def reason(found: BreakEven, b: str) -> str | None:
    """What else there is to say of an answer about ``b``."""
    if found.verdict == "unclear" and found.wins_below is None:
        return "at no size could the two be told apart"
    said = []
    if found.wins_below is not None:
        how = "too" if found.verdict == "found" else "only"
        said.append(f"{b} is faster {how} up to {found.wins_below:,}")
    if found.ties is not None:
        said.append(f"from {found.ties[0]:,} to {found.ties[1]:,} the two are equally fast")
    return "; ".join(said) or None
