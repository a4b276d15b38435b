"""What the gate can see on this machine: equal code, and injected slowdowns, through all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import platformdirs
from msgspec import structs

from nnkernels.bench import machine, results
from nnkernels.bench.gate import verdicts
from nnkernels.bench.gate.pairs import Row
from nnkernels.bench.gate.resampling import Recorded
from nnkernels.bench.gate.session import Gate, Listener, Plan
from nnkernels.bench.results import CalibrationRow, Comparison, Power
from nnkernels.errors import ResultError

Name = tuple[str, str]
"""A workload and a backend."""


def file(threads: int) -> Path:
    """Where this machine's calibration for a number of threads is kept."""
    name = f"{machine.fingerprint(machine.identity())[:16]}-{threads}.json"
    return Path(platformdirs.user_state_dir("nnkernels")) / "calibration" / name


def stored(threads: int) -> Sequence[CalibrationRow]:
    """What was kept of this machine's calibration; empty where it was not calibrated.

    Raises:
        ResultError: the file is there and cannot be read.
    """
    path = file(threads)
    return results.read(path).calibration if path.exists() else ()


def recommended(threads: int) -> Mapping[Name, int]:
    """Restarts by workload and backend, as calibrated on this machine; empty where it was not.

    Raises:
        ResultError: the file is there and cannot be read.
    """
    return {(row.workload, row.backend): row.restarts for row in stored(threads) if row.restarts}


def noise(rows: Sequence[CalibrationRow]) -> Mapping[Name, float]:
    """Standard deviation of a restart's ln(ratio) of equal code, by workload and backend."""
    return {(row.workload, row.backend): row.spread for row in rows}


def store(run: results.Run) -> Path:
    """Keep the calibration ``run`` for :func:`recommended`; where it is.

    Raises:
        ResultError: it cannot be written.
    """
    path = file(run.settings.threads or 1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"calibrate: cannot make {str(path.parent)!r}: {error.strerror}"
        ) from error
    results.write(path, structs.replace(run, comparisons=[]))
    return path


@dataclass(frozen=True, slots=True)
class Trial:
    """Runs of the gate with one slowdown in every row, until there are enough comparisons."""

    inject: float
    comparisons: int


@dataclass
class Calibration:
    """A calibration under way; ``record()`` gives what is known so far.

    Args:
        plan: of every run of the gate: the same side twice.
        trials: what to inject, and how often; a run judges its injected rows each alone, as a
            regression is that comes alone, and its rows without injection as any run does.
        listener: is told how it proceeds.
    """

    plan: Plan
    trials: Sequence[Trial]
    listener: Listener
    complete: bool = False
    _found: list[tuple[float, results.Run]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        self._created = datetime.now(UTC)
        self._start = machine.Start()
        self._last: results.Run | None = None

    def run(self) -> None:
        """Take all trials; errors as with :meth:`Gate.run`."""
        for trial in self.trials:
            compared = 0
            while compared < trial.comparisons:
                run = self._gate(trial, compared)
                judged = sum(c.verdict is not None for c in run.comparisons)
                if not judged:
                    raise ResultError(
                        "calibrate: nothing could be compared; see 'nnkernels ab . .'"
                    )
                compared += judged
        self.complete = True

    def _gate(self, trial: Trial, compared: int) -> results.Run:
        plan = replace(
            self.plan,
            inject=lambda row: trial.inject,
            alone=trial.inject > 0,
            seed=self.plan.seed + len(self._found),
        )
        gate = Gate(plan, _Scaled(self.listener, trial, compared))
        gate.run()
        run = gate.record()
        self._found.append((trial.inject, run))
        return run

    def _comparisons(self, inject: float | None = None) -> Iterator[Comparison]:
        for slowdown, run in self._found:
            if inject is None or slowdown == inject:
                yield from (c for c in run.comparisons if c.verdict is not None)

    def rows(self) -> list[CalibrationRow]:
        """Every workload: live counts, and where equal code was compared the resampled ones."""
        names = dict.fromkeys((c.workload, c.backend) for c in self._comparisons())
        slowdowns = list(dict.fromkeys(trial.inject for trial in self.trials))
        return [self._row(name, slowdowns) for name in names]

    def _row(self, name: Name, slowdowns: Sequence[float]) -> CalibrationRow:
        rng = np.random.default_rng(self.plan.seed)
        live = [self._live(name, slowdown) for slowdown in slowdowns]
        recorded = recorded_of([c for c in self._comparisons(0.0) if _name(c) == name])
        if recorded is None:
            return CalibrationRow(*name, 0.0, [p for p in live if p.comparisons], None)
        restarts = recorded.recommended(rng)
        resampled = recorded.powers(sorted({0.0, *slowdowns}), restarts, rng)
        power = [*(p for p in live if p.comparisons), *resampled]
        return CalibrationRow(*name, recorded.spread, power, restarts)

    def _live(self, name: Name, slowdown: float) -> Power:
        words = [c.verdict for c in self._comparisons(slowdown) if _name(c) == name]
        counts = [words.count(word) for word in ("slower", "faster", "unsure")]
        return Power(slowdown, "live", len(words), *counts)

    def record(self) -> results.Run:
        """Everything that is known so far, as one record."""
        runs = [run for _, run in self._found]
        settings = runs[-1].settings if runs else _settings(self.plan)
        return results.Run(
            schema="nnkernels.bench/1",
            kind="calibrate",
            id=results.new_id(),
            created=self._created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            argv=[machine.scrub(a) for a in self.plan.argv],
            seed=self.plan.seed,
            duration_s=round(time.perf_counter() - self._began, 3),
            complete=self.complete,
            code=machine.code(),
            machine=machine.describe(self._start),
            settings=settings,
            results=[],
            sides=runs[-1].sides if runs else [],
            comparisons=[c for run in runs for c in run.comparisons],
            calibration=self.rows(),
        )


def _name(found: Comparison) -> Name:
    return found.workload, found.backend


def _settings(plan: Plan) -> results.Settings:
    return results.Settings(
        threads=plan.threads,
        affinity=None,
        cache="warm",
        gc="off",
        sample_target_s=plan.effort.sample,
        ci=verdicts.CONFIDENCE,
        budget_s=0.0,
    )


def recorded_of(found: Sequence[Comparison]) -> Recorded | None:
    """All restarts of one workload on equal code; None where there are too few."""
    logs = []
    for comparison in found:
        process = np.array(comparison.process)
        ratios = np.log(np.array(comparison.b_samples) / np.array(comparison.a_samples))
        logs += [ratios[process == number] for number in np.unique(process)]
    if len(logs) < verdicts.LEAST:
        return None
    pairs = min(len(each) for each in logs)
    return Recorded(np.array([each[:pairs] for each in logs]))


class _Scaled:
    """The progress of one run of a trial, in comparisons of the trial."""

    def __init__(self, listener: Listener, trial: Trial, compared: int) -> None:
        self._listener, self._trial, self._compared = listener, trial, compared

    def proceed(self, stage: str, done: float, total: float) -> None:
        """``done`` of ``total`` rounds of this run."""
        what = f"{100 * self._trial.inject:g} % slower" if self._trial.inject else "equal code"
        left = self._trial.comparisons - self._compared
        step = min(1.0, done / total) * min(left, self._compared or left)
        self._listener.proceed(f"{what}: {stage}", self._compared + step, self._trial.comparisons)


# --- the quick self-test -----------------------------------------------------------------------

QUICK = 0.15
QUICK_WORKLOADS = "gate and (W4 or matmul or relu or sigmoid) and not backward"
QUICK_TARGET = "sigmoid"


@dataclass(frozen=True, slots=True)
class SelfTest:
    """One run with one injected slowdown, and one with none."""

    slowed: results.Run
    equal: results.Run

    def troubles(self) -> list[str]:
        """What did not come out as it must; empty where the gate can be trusted."""
        found = [*_wrong(self.slowed, QUICK_TARGET), *_wrong(self.equal, None)]
        return list(dict.fromkeys(found))


def _wrong(run: results.Run, target: str | None) -> Iterator[str]:
    if target is not None and target not in {c.workload for c in run.comparisons}:
        yield f"{target}, which was to be slowed, was not compared"
    for comparison in run.comparisons:
        name = f"{comparison.workload} {comparison.backend}"
        said = comparison.verdict or comparison.status
        if comparison.workload == target:
            if said != "slower":
                yield f"{name} was slowed by {QUICK:.0%} and is called {said}"
        elif said not in ("same", "unsure"):
            yield f"{name} is the same code and is called {said}"


def self_test(plan: Plan, listener: Listener) -> SelfTest:
    """Run the gate twice, on a few workloads; errors as with :meth:`Gate.run`."""
    runs = []
    for target in (QUICK_TARGET, None):
        gate = Gate(replace(plan, inject=_injection(target)), listener)
        gate.run()
        runs.append(gate.record())
    return SelfTest(*runs)


def _injection(target: str | None) -> Callable[[Row], float]:
    def inject(row: Row) -> float:
        return QUICK if row.case.workload == target else 0.0

    return inject
