"""Measured results as data: the schema ``nnkernels.bench/1``.

``null`` always means "not measured". Unknown keys are refused on reading. The committed
``schema/bench-1.json`` is :func:`json_schema` of these types.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from nnkernels.errors import ResultError
from nnkernels.files import as_path, write_atomically

FAMILY, VERSION = "nnkernels.bench", 1
SCHEMA = f"{FAMILY}/{VERSION}"
MAX_BYTES = 1 << 30
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all records."""


class Code(_Record, frozen=True):
    """Which nnkernels was measured; the sha is null outside of a git checkout."""

    version: str
    git_sha: str | None
    dirty: bool | None
    path: str


class Blas(_Record, frozen=True):
    """The BLAS library that NumPy uses, with the kernel it chose."""

    vendor: str
    version: str | None
    kernel: str | None
    threads: int
    layer: str | None


class Gpu(_Record, frozen=True):
    """A GPU; ``uuid_hash`` tells two of the same kind apart without naming them."""

    name: str
    uuid_hash: str | None
    cc: str
    mem_bytes: int
    driver: str | None
    l2_bytes: int | None
    ecc: bool | None


class Identity(_Record, frozen=True):
    """What makes two measurements comparable."""

    cpu: str
    arch: str
    cores_usable: int
    isa: list[str]
    l3_bytes: int | None
    mem_bytes: int
    blas: Blas | None
    python: str
    numpy: str
    numba: str | None
    cupy: str | None
    os: str
    virt: str | None
    gpus: list[Gpu] = []


class GpuState(_Record, frozen=True):
    """A GPU at one moment: its clock, its power, and in words what slows it down."""

    sm_mhz: int | None
    power_w: float | None
    throttle: list[str]


class Volatile(_Record, frozen=True):
    """What changes from minute to minute; ``gpus`` as at the end, in the identity's order."""

    load_start: list[float]
    load_end: list[float]
    mhz: list[float] | None
    governor: str | None
    steal_pct: float | None
    gpus: list[GpuState] = []


class Machine(_Record, frozen=True):
    """Where it was measured; ``fingerprint`` is the SHA-256 of the identity."""

    fingerprint: str
    identity: Identity
    volatile: Volatile
    env: dict[str, str]


class Settings(_Record, frozen=True):
    """How it was measured; ``threads`` null: a row says the number of its own."""

    threads: int | None
    affinity: list[int] | None
    cache: Literal["warm", "cold"]
    gc: Literal["off"]
    sample_target_s: float
    ci: float
    budget_s: float


class Correctness(_Record, frozen=True):
    """Largest error against the float64 reference; null where a result is not finite."""

    ok: bool
    max_rel_err: float | None
    tol: float


class Times(_Record, frozen=True):
    """Seconds a call, one a sample; ``process`` numbers the process that took each."""

    unit: Literal["s"]
    samples: list[float]
    process: list[int]
    median: float
    mad: float
    min: float
    p05: float
    p95: float
    ci: tuple[float, float]
    converged: bool
    contended: int


class TimesByKind(_Record, frozen=True):
    """``call``: on the host's clock, waiting for the end; the others are for GPUs.

    ``kernel``: on the device's clock, calls queued one behind the other on resident data;
    ``queued``: what the host needed to queue a call of these; ``graph``: whether each was the
    launch of one graph. ``e2e``: on the host's clock, with the transfers of inputs and results.
    """

    call: Times | None
    kernel: Times | None = None
    e2e: Times | None = None
    queued: Times | None = None
    graph: bool = False


class CostRecord(_Record, frozen=True):
    """Model cost of a call."""

    flop: float
    bytes: float
    items: int


class Rates(_Record, frozen=True):
    """Cost over the median time; ``pct_peak`` is a fraction of the measured ceiling ``bound``."""

    flop_s: float | None
    byte_s: float | None
    item_s: float | None
    pct_peak: float | None = None
    bound: str | None = None


class Memory(_Record, frozen=True):
    """Peak memory."""

    peak_rss_bytes: int | None = None
    device_pool_peak_bytes: int | None = None


class Energy(_Record, frozen=True):
    """Energy a call."""

    joules: float | None = None
    source: str | None = None


class Peer(_Record, frozen=True):
    """What the comparison with other libraries knows of a row besides.

    ``kind``: ``stock`` is a library as its users run it; only those are peers to beat.
    ``first_s``: building the candidate and its first step, compilation included. ``drift``: the
    error after ``drift_steps`` steps, for information; null where it is not finite.
    """

    title: str
    kind: Literal["ours", "stock", "hack"]
    note: str | None = None
    first_s: float | None = None
    drift: float | None = None
    drift_steps: int | None = None


class Result(_Record, frozen=True):
    """One workload at one size on one candidate: a backend, or a labelled baseline."""

    workload: str
    params: dict[str, int | float | str]
    dtype: str
    backend: str
    device: str | None
    correctness: Correctness | None
    compile_s: float | None
    prime_calls: int | None
    loops: int | None
    times: TimesByKind
    cost: CostRecord
    rates: Rates
    memory: Memory
    energy: Energy
    status: Literal["ok", "skipped", "failed", "incorrect"]
    reason: str | None
    size: str | None = None
    threads: int | None = None
    peer: Peer | None = None


class Ceiling(_Record, frozen=True):
    """A measured limit of this machine, in the process settings of the workloads it limits.

    ``what``: ``gemm_flops``, ``fma_flops``, ``read_bw``, ``copy_bw``, ``triad_bw``; of a link
    ``h2d_pinned_bw``, ``d2h_pageable_latency``, ...
    ``level`` is the memory that the arrays fit in (``L1``, ``L2``, ``L3``, ``memory``).
    """

    device: str
    dtype: str | None
    threads: int | None
    what: str
    value: float
    unit: Literal["FLOP/s", "B/s", "s"]
    method: str
    level: str | None = None
    array_bytes: int | None = None
    convention: str | None = None


class Side(_Record, frozen=True):
    """One side of a comparison: what was asked for, and what its workers say they are."""

    label: str
    code: Code
    versions: dict[str, str | None]


class Comparison(_Record, frozen=True):
    """One workload on both sides of an A/B run, or (``unpaired``) in two saved files.

    ``restarts`` holds, for each restart, the median over its pairs of ln(t_b / t_a); ``ratio`` is
    t_b / t_a with a confidence interval from them. ``min_detectable`` is the smallest slowdown
    that this run would have seen with 95 % probability, as a fraction. ``verdict`` is null where
    nothing was compared: ``status`` and ``reason`` say why. Unpaired, ``restarts`` is empty and
    ``pairs`` 0. ``screened`` holds the screening stage's restarts where the verdict is of the
    second stage. ``a_samples`` and ``b_samples`` are the raw pairs, in seconds a call, of the
    restarts that ``process`` numbers: first those of the screening stage.
    """

    workload: str
    size: str
    dtype: str
    backend: str
    a: str
    b: str
    status: Literal["ok", "new", "gone", "failed", "incorrect"]
    reason: str | None
    a_s: float | None
    b_s: float | None
    ratio: float | None
    ci_low: float | None
    ci_high: float | None
    restarts: list[float]
    pairs: int
    contended: int
    stage: Literal["screen", "confirm", "unpaired"]
    p: float | None
    p_holm: float | None
    margin: float
    verdict: Literal["slower", "faster", "same", "unsure"] | None
    min_detectable: float | None
    more_restarts: int | None
    screened: list[float] = []
    a_samples: list[float] = []
    b_samples: list[float] = []
    process: list[int] = []


class CrossoverPoint(_Record, frozen=True):
    """Both candidates at one size: seconds a call, and t_b / t_a with its interval."""

    size: int
    items: int
    a_s: float
    b_s: float
    ratio: float
    ci: tuple[float, float]


class Crossover(_Record, frozen=True):
    """From which size of ``sweep`` candidate ``b`` is faster than ``a``, in one scenario."""

    workload: str
    dtype: str
    a: str
    b: str
    sweep: str
    scenario: Literal["resident", "transfers"]
    points: list[CrossoverPoint]
    verdict: Literal["found", "always", "never", "unclear"]
    size: float | None
    interval: tuple[float, float] | None
    reason: str | None


class Power(_Record, frozen=True):
    """How often an injected slowdown (a fraction; 0: none) was called what."""

    inject: float
    method: Literal["live", "resampled"]
    comparisons: int
    slower: int
    faster: int
    unsure: int


class CalibrationRow(_Record, frozen=True):
    """What the gate can see on one workload; ``spread`` is the deviation of a restart's d."""

    workload: str
    backend: str
    spread: float
    power: list[Power]
    restarts: int | None


class Target(_Record, frozen=True):
    """Training of one candidate to a test accuracy, once for every seed.

    ``seconds`` and ``epochs`` are null where it was not reached; what ``peer.first_s`` tells is not
    part of them.
    """

    backend: str
    threads: int
    peer: Peer
    status: Literal["ok", "skipped", "failed", "incorrect"]
    reason: str | None
    seconds: list[float | None]
    epochs: list[int | None]
    accuracy: list[float]


class Run(_Record, frozen=True):
    """One run of a measuring command; ``complete`` is false when it was interrupted.

    ``libraries``: versions of those that are compared with; null where one is not installed.
    """

    schema: Literal["nnkernels.bench/1"]
    kind: Literal["bench", "ab", "crossover", "roofline", "calibrate", "peers", "compare"]
    id: str
    created: str
    argv: list[str]
    seed: int
    duration_s: float
    complete: bool
    code: Code
    machine: Machine
    settings: Settings
    results: list[Result]
    ceilings: list[Ceiling] = []
    sides: list[Side] = []
    comparisons: list[Comparison] = []
    crossovers: list[Crossover] = []
    calibration: list[CalibrationRow] = []
    warnings: list[str] = []
    targets: list[Target] = []
    libraries: dict[str, str | None] = {}


def new_id() -> str:
    """A ULID: 48 bits of milliseconds and 80 random ones, sortable by time."""
    number = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of :class:`Run`."""
    return msgspec.json.schema(Run)


def encode(run: Run) -> bytes:
    """``run`` as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n"


def write(path: str | os.PathLike[str], run: Run) -> None:
    """Write ``run`` to ``path`` as JSON, atomically.

    Raises:
        ResultError: the file cannot be written.
    """
    write_atomically(path, encode(run), error=ResultError)


def read(path: str | os.PathLike[str]) -> Run:
    """Read what :func:`write` wrote.

    Raises:
        ResultError: no such file, not JSON, another schema, an unknown or missing key.
    """
    target = as_path("read", path)
    try:
        size = target.stat().st_size
        data = target.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise ResultError(
            f"cannot read {str(path)!r}: {error.strerror}; give a file written by 'bench -o'"
        ) from error
    if size > MAX_BYTES:
        raise ResultError(f"{str(path)!r} has {size} bytes; results have at most {MAX_BYTES}")
    return _decode(target, data)


def _decode(path: Path, data: bytes) -> Run:
    try:
        return msgspec.convert(_upgraded(path, msgspec.json.decode(data)), Run)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(
            f"{str(path)!r} is not a result of schema {SCHEMA}: {error}; measure again with this "
            "version of nnkernels"
        ) from error


def _upgraded(path: Path, document: Any) -> Any:
    """``document`` in the current version of the schema."""
    name = document.get("schema") if isinstance(document, dict) else None
    family, _, number = name.rpartition("/") if isinstance(name, str) else ("", "", "")
    if family != FAMILY or not number.isdecimal():
        return document
    version = int(number)
    if version > VERSION:
        raise ResultError(
            f"{str(path)!r} has the schema {name}, which is newer than {SCHEMA}: read it with the "
            "version of nnkernels that wrote it, or a later one"
        )
    for step in range(version, VERSION):
        document = UPGRADES[step](document)
    return document


def _from_0(document: dict[str, Any]) -> dict[str, Any]:
    """Version 0 knew only ``bench`` with warm caches, and did not say so."""
    settings = {"cache": "warm", "gc": "off", **document.get("settings", {})}
    return {**document, "schema": f"{FAMILY}/1", "kind": "bench", "settings": settings}


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {0: _from_0}
"""From each earlier version to the next."""
