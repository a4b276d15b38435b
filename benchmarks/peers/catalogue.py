"""The candidates: what they are called, what runs them, what they need."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import nnkernels
from nnkernels.bench import machine
from nnkernels.errors import InputError, NnkernelsError, unknown

Kind = Literal["ours", "stock", "hack"]

OURS = "nnkernels"
REMEDY = "python -m pip install '.[peers]'"
PREFERRED = "numba"
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"
"""MKL asks this function of its own whether it may use the code it has for Intel's CPUs."""

_HERE = f"{__package__}.candidates"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that trains.

    Attributes:
        name: what ``--candidates`` calls it.
        title: what tables call it.
        target: ``module:Class`` in the worker.
        kind: ``stock`` is a library as its users run it; only those are peers to beat.
        options: arguments of the class.
        needs: modules that must be installed.
        environment: variables of its process.
        note: what a reader of its times should know.
        missing: why it cannot run here; None when it can.
    """

    name: str
    title: str
    target: str
    kind: Kind = "stock"
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    missing: str | None = None

    @property
    def label(self) -> str:
        """What results call it: ours by the backend."""
        return str(self.options["backend"]) if self.kind == "ours" else self.name


_TORCH, _JAX = f"{_HERE}.pytorch:PyTorch", f"{_HERE}.with_jax"
_ON_CPU = {"JAX_PLATFORMS": "cpu"}

PEERS = (
    Candidate("torch", "PyTorch eager", _TORCH, options={"compiled": False}, needs=("torch",)),
    Candidate(
        "torch-compile", "torch.compile", _TORCH, options={"compiled": True}, needs=("torch",)
    ),
    Candidate(
        "torch-intel",
        "PyTorch eager (hack)",
        _TORCH,
        kind="hack",
        options={"compiled": False},
        needs=("torch",),
        note="a preloaded library tells MKL that the CPU is Intel's; not a stock peer",
    ),
    Candidate(
        "jax",
        "JAX, a call a step",
        f"{_JAX}:Step",
        needs=("jax",),
        environment=_ON_CPU,
    ),
    Candidate(
        "jax-loop",
        "JAX, loop inside jit",
        f"{_JAX}:Loop",
        needs=("jax",),
        environment=_ON_CPU,
        note="the peer to beat",
    ),
    Candidate(
        "sklearn",
        "scikit-learn",
        f"{_HERE}.scikit:Scikit",
        needs=("sklearn",),
        note="many batches a call; where they are gathered, 64 at a time",
    ),
    Candidate("textbook", "textbook NumPy", f"{_HERE}.textbook:Textbook"),
)


def names() -> list[str]:
    """What ``--candidates`` takes; ``nnkernels`` stands for every backend."""
    return [OURS, *(peer.name for peer in PEERS)]


def choose(wanted: Sequence[str], backends: Sequence[str]) -> list[Candidate]:
    """The candidates called ``wanted`` (all, if none are), ours first, those missing marked.

    Raises:
        InputError: an unknown name.
    """
    for name in wanted:
        if name not in names():
            raise unknown("candidate", name, names())
    ours = [own(backend) for backend in backends or default_backends()]
    every = [*ours, *(checked(peer) for peer in PEERS)]
    return [candidate for candidate in every if not wanted or candidate.name in wanted]


def default_backends() -> list[str]:
    """The preferred one; where that is missing NumPy's too, so that something of ours is there."""
    return [PREFERRED] if _reason(PREFERRED) is None else [PREFERRED, "numpy"]


def own(backend: str) -> Candidate:
    """nnkernels on a backend.

    Raises:
        InputError: the name cannot be read.
    """
    return Candidate(
        OURS,
        f"nnkernels {backend}",
        f"{_HERE}.ours:Ours",
        kind="ours",
        options={"backend": backend},
        missing=_reason(backend),
    )


@functools.cache
def _reason(backend: str) -> str | None:
    try:
        nnkernels.get_backend(backend)
    except NnkernelsError as error:
        if isinstance(error, InputError) and backend != PREFERRED:
            raise
        return str(error)
    return None


def checked(peer: Candidate) -> Candidate:
    """``peer``, marked as missing where a module it needs is not installed."""
    absent = [module for module in peer.needs if importlib.util.find_spec(module) is None]
    if not absent:
        return peer
    return replace(peer, missing=f"{', '.join(absent)} is not installed: {REMEDY}")


@contextlib.contextmanager
def shimmed(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """``candidates`` with the library preloaded that the hack needs, built for as long as they run.

    Where it does not apply or cannot be built, the hack is marked as missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield [_shim(c, Path(folder)) if c.kind == "hack" else c for c in candidates]


def _shim(candidate: Candidate, folder: Path) -> Candidate:
    cpu, compiler = machine.identity().cpu, _compiler()
    if candidate.missing is not None:
        return candidate
    if "AMD" not in cpu:
        return replace(candidate, missing=f"this CPU ({cpu}) is not AMD's: MKL needs no telling")
    if compiler is None:
        return replace(candidate, missing="no C compiler builds its shim: install cc")
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if built.returncode:
        return replace(candidate, missing=f"its shim cannot be built: {built.stderr.strip()}")
    return replace(candidate, environment={"LD_PRELOAD": str(library)})


def _compiler() -> str | None:
    """Path of the system's C compiler."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
