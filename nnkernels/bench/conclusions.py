"""What a run answers, in sentences: the terminal and the reports say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from scipy import stats

from nnkernels.bench import rows
from nnkernels.bench.results import (
    CalibrationRow,
    Ceiling,
    Comparison,
    Crossover,
    Power,
    Result,
    Run,
    Times,
)
from nnkernels.bench.roofline import BANDWIDTH_CEILINGS, COMPUTE_CEILINGS
from nnkernels.bench.text import counted, listed, percent, quantity

TEXTBOOK = "textbook"
"""The baseline that is nobody's backend."""

PREDICT = "predict"
"""The workload of inference, which trains nothing."""

TimesByName = Mapping[str, Times]

UNPAIRED = (
    "The two files were measured at different times, so what changed on the machine in between "
    "counts as a change: only large differences are called, and 'nnkernels ab' confirms them."
)


def of_run(run: Run) -> list[str]:
    """The answers that a run gives, the most important first; at least one."""
    found = [
        *([] if run.complete else ["The run was interrupted: this is what it had measured."]),
        *(
            []
            if run.kind == "calibrate"
            else comparisons(run.comparisons, paired=run.kind != "compare")
        ),
        *crossovers(run.crossovers),
        *calibration(run.calibration),
        *_fastest(run),
        *ceilings(run.ceilings, run),
        *troubles(run.results),
    ]
    return found or ["Nothing was measured."]


# --- which backend is fastest -------------------------------------------------------------------


def _fastest(run: Run) -> list[str]:
    times = rows.cases(run)
    names = dict.fromkeys(name for found in times.values() for name in found)
    backends = [name for name in names if name != TEXTBOOK]
    return answers(times, backends) if backends and run.kind in ("bench", "peers") else []


def fastest(times: Mapping[str, TimesByName], backends: Sequence[str]) -> str:
    """The answer to "which backend is fastest here?", as a paragraph."""
    return " ".join(answers(times, backends))


def answers(times: Mapping[str, TimesByName], backends: Sequence[str]) -> list[str]:
    """The same in sentences."""
    sentences = [part for part in (_versus_textbook(times, name) for name in backends) if part]
    if len(backends) > 1:
        return [*_winners(times, backends), *sentences]
    alone = "No other backend was compared; 'nnkernels info' says what is available."
    return [*sentences, alone]


def _versus_textbook(times: Mapping[str, TimesByName], backend: str) -> str:
    both = {w: found for w, found in times.items() if TEXTBOOK in found and backend in found}
    inference = {w: found for w, found in both.items() if w.startswith(PREDICT)}
    training = {w: found for w, found in both.items() if w not in inference}
    parts = [
        f"{verb} {_ratios(found, backend)}"
        for verb, found in (("trains", training), ("runs", inference))
        if found
    ]
    if not parts:
        return ""
    return f"{backend} {' and '.join(parts)} times as fast as the textbook's NumPy code."


def _ratios(times: Mapping[str, TimesByName], backend: str) -> str:
    """``W1 2.10, W2 1.03 (unclear)``: how many times as fast as the textbook."""
    return ", ".join(
        f"{workload} {found[TEXTBOOK].median / found[backend].median:.2f}"
        f"{'' if apart(found[backend], found[TEXTBOOK]) else ' (unclear)'}"
        for workload, found in times.items()
    )


def apart(a: Times, b: Times) -> bool:
    """Whether the intervals of the medians do not overlap."""
    return a.ci[1] < b.ci[0] or b.ci[1] < a.ci[0]


def _winners(times: Mapping[str, TimesByName], backends: Sequence[str]) -> list[str]:
    """For every backend that is clearly fastest somewhere, where; then the undecided."""
    wins: dict[str, list[str]] = {}
    for workload, found in times.items():
        own = sorted((found[n].median, n) for n in backends if n in found)
        if len(own) > 1:
            (_, first), (_, second), *_ = own
            clear = apart(found[first], found[second])
            wins.setdefault(first if clear else "", []).append(workload)
    undecided = wins.pop("", [])
    lines = [f"{name} is the fastest backend for {', '.join(won)}." for name, won in wins.items()]
    if undecided:
        lines.append(f"No backend is clearly the fastest for {', '.join(undecided)}.")
    return lines


def troubles(results: Sequence[Result]) -> list[str]:
    """What was not timed, and why; where that is all that a candidate did, without its list."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for result in results:
        if result.status != "ok":
            key = (result.status, result.backend, result.reason or "unknown")
            found.setdefault(key, []).append(rows.case_name(result.workload, rows.size_of(result)))
    worked = {result.backend for result in results if result.status != "skipped"}
    return [
        _trouble(status, backend, reason, cases, whole=backend not in worked)
        for (status, backend, reason), cases in sorted(found.items())
    ]


def _trouble(status: str, backend: str, reason: str, cases: list[str], *, whole: bool) -> str:
    if status == "skipped":
        return f"{backend} was skipped{'' if whole else f' on {listed(cases)}'}: {reason}."
    if status == "incorrect":
        return f"{backend} gave wrong results on {listed(cases)} and was not timed: {reason}."
    return f"{backend} failed on {listed(cases)}: {reason}."


# --- did it get slower --------------------------------------------------------------------------


def comparisons(found: Sequence[Comparison], *, paired: bool = True) -> list[str]:
    """The answer to "did it get slower?"; ``paired`` is false for two saved files."""
    if not found:
        return []
    judged = [c for c in found if c.verdict is not None]
    lines = [_changed(judged, "slower"), _changed(judged, "faster"), _rest(found, judged)]
    return [line for line in (*lines, _sight(judged), "" if paired else UNPAIRED) if line]


def _changed(judged: Sequence[Comparison], verdict: str) -> str:
    changed = sorted(
        (c for c in judged if c.verdict == verdict and c.ratio is not None),
        key=lambda c: c.ratio or 1.0,
        reverse=verdict == "slower",
    )
    if not changed:
        return "" if verdict == "faster" else _none_slower(judged)
    named = [f"{comparison_name(c)} {times_as_long(c)}" for c in changed]
    of = f"{len(changed)} of {counted(len(judged), 'workload')}"
    return f"{changed[0].b} is {verdict} than {changed[0].a} on {of}: {listed(named)}."


def _none_slower(judged: Sequence[Comparison]) -> str:
    if not judged:
        return "Nothing could be compared."
    unsure = any(c.verdict == "unsure" for c in judged)
    return f"No workload of {len(judged)} was {'shown to be ' if unsure else ''}slower."


def comparison_name(found: Comparison) -> str:
    """``softmax[64x1000] numba``."""
    return f"{rows.case_name(found.workload, found.size)} {found.backend}"


def times_as_long(found: Comparison) -> str:
    """``takes 1.121 times as long (1.109 to 1.133)``."""
    interval = ""
    if found.ci_low is not None and found.ci_high is not None:
        interval = f" ({found.ci_low:.3f} to {found.ci_high:.3f})"
    return f"takes {found.ratio:.3f} times as long{interval}"


def _rest(found: Sequence[Comparison], judged: Sequence[Comparison]) -> str:
    same = sum(c.verdict == "same" for c in judged)
    unsure = [comparison_name(c) for c in judged if c.verdict == "unsure"]
    apart_from = [f"{comparison_name(c)} ({c.status})" for c in found if c.status != "ok"]
    parts = []
    if same:
        margin = max(c.margin for c in judged if c.verdict == "same")
        parts.append(f"{same} {'is' if same == 1 else 'are'} the same within {percent(margin)}")
    if unsure:
        parts.append(f"{len(unsure)} unsure: {listed(unsure)}")
    if apart_from:
        parts.append(f"{len(apart_from)} not compared: {listed(apart_from)}")
    return f"{'; '.join(parts)}." if parts else ""


def _sight(judged: Sequence[Comparison]) -> str:
    """What could have been seen: the worst of all rows."""
    seen = [(c.min_detectable, comparison_name(c)) for c in judged if c.min_detectable is not None]
    if not seen:
        return ""
    worst, name = max(seen)
    return (
        f"A slowdown of {percent(worst)} or more would have been seen on every workload with 95 % "
        f"probability (the least certain is {name})."
    )


# --- from which size ----------------------------------------------------------------------------

SCENARIOS = {"resident": "with the data in place", "transfers": "with transfers"}


def crossovers(found: Sequence[Crossover]) -> list[str]:
    """The answer to "from which size does it pay?"."""
    return [
        f"{c.workload} {c.dtype}, {SCENARIOS[c.scenario]}: {_from_which_size(c)}." for c in found
    ]


def crossed(found: Sequence[Crossover]) -> list[str]:
    """All answers about two backends, one sentence for each kind of data."""
    return [
        f"{SCENARIOS[scenario].capitalize()}, {_wins(several)}."
        for scenario in SCENARIOS
        if (several := [c for c in found if c.scenario == scenario])
    ]


def _wins(found: Sequence[Crossover]) -> str:
    """``numba is faster than numpy from matmul n = 96; always for relu; never for adam``."""
    at = [f"{c.workload} {c.sweep} = {c.size:,.0f}" for c in found if c.size is not None]
    parts = [f"from {listed(at)}"] if at else []
    for verdict, words in (
        ("always", "at every measured size of"),
        ("never", "at no measured size of"),
        ("unclear", "in no clear way for"),
    ):
        names = [f"{c.workload} ({c.sweep})" for c in found if c.verdict == verdict]
        parts += [f"{words} {listed(names)}"] if names else []
    return f"{found[0].b} is faster than {found[0].a} {'; '.join(parts)}"


def _from_which_size(found: Crossover) -> str:
    measured = [point.size for point in found.points]
    span = (
        f"from {found.sweep} = {min(measured):,} to {max(measured):,}" if measured else "measured"
    )
    if found.verdict == "found" and found.size is not None:
        between = ""
        if found.interval is not None:
            between = f" (between {found.interval[0]:,.0f} and {found.interval[1]:,.0f})"
        return f"{found.b} is faster than {found.a} from {found.sweep} = {found.size:,.0f}{between}"
    if found.verdict == "always":
        return f"{found.b} is faster than {found.a} at every size {span}"
    if found.verdict == "never":
        return f"{found.b} is faster than {found.a} at no size {span}"
    return f"undecided between {found.a} and {found.b}: {found.reason or 'the intervals overlap'}"


# --- how far from the machine's limits ----------------------------------------------------------


def ceilings(found: Sequence[Ceiling], run: Run) -> list[str]:
    """What this machine can do, and which rows come nearest to it."""
    return [*_limits(found), *_nearest(run)]


def _limits(found: Sequence[Ceiling]) -> Iterator[str]:
    best: dict[tuple[str, str], Ceiling] = {}
    for ceiling in found:
        cached = ceiling.level not in (None, "memory")
        if ceiling.what not in COMPUTE_CEILINGS and (
            ceiling.what not in BANDWIDTH_CEILINGS or cached
        ):
            continue
        key = (ceiling.device, ceiling.unit)
        if key not in best or ceiling.value > best[key].value:
            best[key] = ceiling
    if best:
        named = [f"{quantity(c.value, c.unit)} ({ceiling_name(c)})" for c in best.values()]
        yield f"Measured here, at most: {listed(named)}."


def ceiling_name(found: Ceiling) -> str:
    """``cpu gemm float32, 2 threads``."""
    threads = f", {counted(found.threads, 'thread')}" if found.threads else ""
    what = found.what.removesuffix("_flops").removesuffix("_bw").replace("_", " ")
    level = f" {found.level}" if found.level else ""
    return f"{found.device} {what}{level}{f' {found.dtype}' if found.dtype else ''}{threads}"


def _nearest(run: Run) -> Iterator[str]:
    placed = [(r.rates.pct_peak, r) for r in run.results if r.rates.pct_peak is not None]
    if placed:
        share, best = max(placed, key=lambda pair: pair[0])
        case = rows.case_name(best.workload, rows.size_of(best))
        yield (
            f"Nearest to its limit is {case} on {best.backend}, with {percent(share)} of "
            f"the {best.rates.bound or 'measured'} ceiling."
        )


# --- can the gate be trusted --------------------------------------------------------------------


def calibration(found: Sequence[CalibrationRow]) -> list[str]:
    """False alarms, and how often injected slowdowns were found."""
    if not found:
        return []
    totals: dict[tuple[float, str], list[Power]] = {}
    for row in found:
        for power in row.power:
            totals.setdefault((power.inject, power.method), []).append(power)
    spread = max(found, key=lambda row: row.spread)
    return [
        *(_power_sentence(*key, powers) for key, powers in sorted(totals.items())),
        f"Restarts differ by up to {percent(spread.spread)} ({spread.workload} {spread.backend}).",
    ]


def _power_sentence(inject: float, method: str, powers: Sequence[Power]) -> str:
    tried = sum(p.comparisons for p in powers)
    slower = sum(p.slower for p in powers)
    if inject:
        return (
            f"A slowdown of {percent(inject)} was found in {slower} of {tried} {method} "
            "comparisons."
        )
    alarms = slower + sum(p.faster for p in powers)
    # Resampled comparisons share their restarts: they are not independent trials.
    sure = f": at most {percent(_upper(alarms, tried))} with 95 % confidence"
    return (
        f"{counted(alarms, 'false alarm')} in {tried} {method} comparisons of equal code"
        f"{sure if method == 'live' else ''}."
    )


def _upper(count: int, tried: int) -> float:
    """The 95 % upper limit of a rate (Clopper and Pearson)."""
    if not tried:
        return 1.0
    interval = stats.binomtest(count, tried, alternative="less").proportion_ci(0.95, "exact")
    return float(interval.high)
