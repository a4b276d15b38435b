"""Two saved sets of results, compared as well as that can be done: not well, and saying so.

The samples of two files were not taken in turns, so whatever happened to the machine in between is
in the difference: only ``nnkernels ab`` takes it out. Hence what is demanded here of a change:

* both sides ran on equal machines, with equal settings (:func:`check_comparable`);
* the unit is a process, by the median of its samples, for samples of one process share its luck
  (memory layout, CPU); at least :data:`LEAST` processes a side;
* the ratio of the sides' medians is at least :data:`MARGIN`, and :data:`NOISE` times what
  processes of equal code differ by;
* an exact permutation test of the processes' log medians has p <= :data:`ALPHA`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from scipy import stats

from nnkernels.bench.results import Comparison, Identity, Result, Run, Side
from nnkernels.bench.rows import Row, row_of, times_of
from nnkernels.bench.text import percent
from nnkernels.errors import InputError, NotComparableError

LEAST = 5
MARGIN = 0.10
NOISE = 3
ALPHA = 0.01
CONFIDENCE = 0.95
SHORTEST, LONGEST = 1e-12, 1e12
"""Seconds between which a time is taken for one."""

Verdict = Literal["slower", "faster", "same", "unsure"]


@dataclass(frozen=True, slots=True)
class Saved:
    """One side: the runs that stand for it, at least one.

    Raises:
        InputError: a run is there twice; it would count for two.
    """

    label: str
    runs: Sequence[Run]

    def __post_init__(self) -> None:
        ids = [run.id for run in self.runs]
        if twice := {id for id in ids if ids.count(id) > 1}:
            raise InputError(
                f"compare: {self.label!r} holds the run {min(twice)} more than once, which would "
                "count it as several; remove the copies"
            )

    @property
    def side(self) -> Side:
        """Who was measured, by the last of its runs."""
        run = self.runs[-1]
        return Side(self.label, run.code, _versions(run.machine.identity))


def _versions(identity: Identity) -> dict[str, str | None]:
    return {name: getattr(identity, name) for name in ("python", "numpy", "numba", "cupy")}


# --- may they be compared at all ----------------------------------------------------------------

SETTINGS = ("threads", "cache")
"""Settings that change what a time means."""


def differences(a: Run, b: Run) -> list[str]:
    """Facts of the machines, and settings, that differ: ``numpy: 2.4.5, then 2.4.6``."""
    pairs = [
        *_facts(a, b),
        *((s, getattr(a.settings, s), getattr(b.settings, s)) for s in SETTINGS),
    ]
    found = [f"{name}: {_short(old)}, then {_short(new)}" for name, old, new in pairs if old != new]
    if not found and a.machine.fingerprint != b.machine.fingerprint:
        found = ["the fingerprint, made by another version of nnkernels"]
    return found


def _facts(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    """Facts of both machines by name; those of the BLAS one by one."""
    old, new = (msgspec.to_builtins(run.machine.identity) for run in (a, b))
    blas = [facts.pop("blas") or {} for facts in (old, new)]
    inner = dict.fromkeys([*blas[0], *blas[1]])
    return [
        *((name, old[name], new[name]) for name in old),
        *((f"BLAS {name}", blas[0].get(name), blas[1].get(name)) for name in inner),
    ]


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_comparable(old: Saved, new: Saved) -> None:
    """Refuse sides that were not measured in the same way on equal machines.

    Raises:
        NotComparableError: naming the facts that differ.
    """
    first = old.runs[0]
    for run in [*old.runs[1:], *new.runs]:
        if found := differences(first, run):
            raise NotComparableError(
                f"compare: {old.label!r} and {new.label!r} were not measured under equal "
                f"conditions ({'; '.join(found)}); measure both here, or let 'nnkernels ab' do it"
            )


# --- the comparison -----------------------------------------------------------------------------


class Judgement(NamedTuple):
    """A verdict on one row, with the numbers that it rests on."""

    verdict: Verdict
    ratio: float | None
    ci: tuple[float, float] | None
    p: float | None
    margin: float
    reason: str | None


def judge(old: Sequence[float], new: Sequence[float], noise: float = 0.0) -> Judgement:
    """Compare per-process medians.

    Args:
        old, new: seconds, one a process.
        noise: standard deviation of ln(time) between processes of equal code, as far as known; what
            the processes given differ by counts where that is more.
    """
    sides = [np.asarray(side, np.float64) for side in (old, new)]
    if not all(len(side) and ((side > SHORTEST) & (side < LONGEST)).all() for side in sides):
        return Judgement("unsure", None, None, None, MARGIN, "no usable times on one side")
    a, b = (np.log(side) for side in sides)
    floor = min(max(noise, _spread(a), _spread(b)), 1.0)
    margin = max(MARGIN, math.expm1(NOISE * floor))
    ratio = float(np.exp(np.median(b) - np.median(a)))
    if (least := min(len(a), len(b))) < LEAST:
        reason = f"{least} process{'es' * (least > 1)} on one side, at least {LEAST} are needed"
        return Judgement("unsure", ratio, None, None, margin, reason)
    ci, p = _interval(a, b), _permutation(a, b)
    verdict = _verdict(ratio, ci, p, margin)
    return Judgement(verdict, ratio, ci, p, margin, _reason(verdict, margin))


def _spread(logs: np.ndarray[Any, Any]) -> float:
    return float(np.std(logs, ddof=1)) if len(logs) > 1 else 0.0


def _permutation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Two-sided: exact for up to nine processes a side, then by 9,999 random ones."""
    found = stats.permutation_test(
        (b, a),
        lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=math.comb(18, 9) if len(a) + len(b) <= 18 else 9999,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _interval(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Welch's, of the ratio: with five units a bootstrap's would be much too narrow."""
    squares = [float(np.var(side, ddof=1)) / len(side) for side in (a, b)]
    middle = float(np.mean(b) - np.mean(a))
    error = math.sqrt(sum(squares))
    if error < 1e-12:  # equal but for rounding
        return math.exp(middle), math.exp(middle)
    freedom = sum(squares) ** 2 / sum(
        s**2 / (len(side) - 1) for s, side in zip(squares, (a, b), strict=True)
    )
    low, high = stats.t.interval(CONFIDENCE, freedom, middle, error)
    return math.exp(low), math.exp(high)


def _verdict(ratio: float, ci: tuple[float, float], p: float, margin: float) -> Verdict:
    low, high = 1 / (1 + margin), 1 + margin
    if p <= ALPHA and ratio >= high:
        return "slower"
    if p <= ALPHA and ratio <= low:
        return "faster"
    # Where the noise is above the least margin, "the same within 50 %" would say nothing.
    return "same" if margin == MARGIN and low < ci[0] <= ci[1] < high else "unsure"


def _reason(verdict: Verdict, margin: float) -> str | None:
    if verdict != "unsure":
        return None
    return f"neither shown to differ by {percent(margin)} nor to be within {percent(MARGIN)}"


def compare(
    old: Saved, new: Saved, noise: Mapping[tuple[str, str], float] | None = None
) -> list[Comparison]:
    """Every row of both sides, those on one side only too.

    Args:
        old, new: see :func:`check_comparable`.
        noise: by workload and backend, what ``calibrate`` found restarts to differ by.

    Raises:
        InputError: no row is on both sides.
    """
    a, b = _Rows(old), _Rows(new)
    if not a.found.keys() & b.found.keys():
        raise InputError(
            f"compare: {old.label!r} and {new.label!r} have no row in common; measure the same "
            "workloads and backends on both sides"
        )
    floors = noise or {}
    rows = dict.fromkeys([*a.found, *b.found])
    return [_compared(row, a, b, floors.get((row.workload, row.backend), 0.0)) for row in rows]


class _Rows:
    """The rows of a side: medians of the processes that timed them, or why they were not timed."""

    def __init__(self, saved: Saved) -> None:
        self.label = saved.label
        self.found: dict[Row, list[float]] = {}
        self.trouble: dict[Row, Result] = {}
        for run in saved.runs:
            for result in run.results:
                self._add(run, result)

    def _add(self, run: Run, result: Result) -> None:
        if result.status == "skipped":
            return
        if result.status != "ok":
            row = row_of(run, result)
            self.found.setdefault(row, [])
            self.trouble.setdefault(row, result)
        for kind, times in times_of(result):
            medians = self.found.setdefault(row_of(run, result, kind), [])
            samples, process = np.array(times.samples), np.array(times.process)
            medians += [float(np.median(samples[process == p])) for p in np.unique(process)]


def _compared(row: Row, a: _Rows, b: _Rows, noise: float) -> Comparison:
    status, reason = _status(row, a, b)
    found = None
    if status == "ok":
        found = judge(a.found[row], b.found[row], noise)
        reason = found.reason
    return Comparison(
        workload=row.workload,
        size=row.size,
        dtype=row.dtype,
        backend=row.backend if row.kind == "call" else f"{row.backend} ({row.kind})",
        a=a.label,
        b=b.label,
        status=status,
        reason=reason,
        a_s=_median(a.found.get(row)),
        b_s=_median(b.found.get(row)),
        ratio=found and found.ratio,
        ci_low=found.ci[0] if found and found.ci else None,
        ci_high=found.ci[1] if found and found.ci else None,
        restarts=[],
        pairs=0,
        contended=0,
        stage="unpaired",
        p=found and found.p,
        p_holm=None,
        margin=found.margin if found else MARGIN,
        verdict=found and found.verdict,
        min_detectable=None,
        more_restarts=None,
    )


def _status(
    row: Row, a: _Rows, b: _Rows
) -> tuple[Literal["ok", "new", "gone", "failed", "incorrect"], str | None]:
    if row not in a.found:
        return "new", f"not in {a.label}"
    if row not in b.found:
        return "gone", f"not in {b.label}"
    for side in (b, a):
        if result := side.trouble.get(row):
            status: Any = result.status
            return status, f"{side.label}: {result.reason or result.status}"
    return "ok", None


def _median(seconds: Sequence[float] | None) -> float | None:
    return float(np.median(seconds)) if seconds else None
