"""Measured results as data: the schema ``nnkernels.bench/1``.

``null`` always means "not measured". Unknown keys are refused on reading. The committed
``schema/bench-1.json`` is :func:`json_schema` of these types.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from nnkernels.errors import ResultError
from nnkernels.files import as_path, write_atomically

SCHEMA = "nnkernels.bench/1"
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


class Volatile(_Record, frozen=True):
    """What changes from minute to minute."""

    load_start: list[float]
    load_end: list[float]
    mhz: list[float] | None
    governor: str | None
    steal_pct: float | None


class Machine(_Record, frozen=True):
    """Where it was measured; ``fingerprint`` is the SHA-256 of the identity."""

    fingerprint: str
    identity: Identity
    volatile: Volatile
    env: dict[str, str]


class Settings(_Record, frozen=True):
    """How it was measured; ``threads`` null is the libraries' own number."""

    threads: int | None
    affinity: list[int] | None
    cache: Literal["warm"]
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
    """``call``: on the host's clock, waiting for the end; the others are for GPUs."""

    call: Times | None
    kernel: Times | None = None
    e2e: Times | None = None


class CostRecord(_Record, frozen=True):
    """Model cost of a call."""

    flop: float
    bytes: float
    items: int


class Rates(_Record, frozen=True):
    """Cost over the median time."""

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


class Run(_Record, frozen=True):
    """One run of ``nnkernels bench``; ``complete`` is false when it was interrupted."""

    schema: Literal["nnkernels.bench/1"]
    kind: Literal["bench"]
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
        return msgspec.json.decode(data, type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(
            f"{str(path)!r} is not a result of schema {SCHEMA}: {error}; measure again with this "
            "version of nnkernels"
        ) from error
