"""NPBench's mlp and softmax (https://github.com/spcl/npbench) from a checkout of the user's.

None of its code is here: its files are loaded by path, its inputs drawn by its own functions, its
results compared with float64 like everybody's.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.peers.catalogue import Candidate, checked
from benchmarks.peers.record import Subject
from benchmarks.peers.rounds import Task
from nnkernels.bench.harness import Cost
from nnkernels.errors import InputError

NAME = "npbench"
TABLE = "npbench"
WORKLOADS = ("mlp-S", "mlp-M", "softmax-S", "softmax-M", "softmax-S-spread")
"""Benchmark and size; in ``spread``, rows of very different magnitude."""

BLOCK = 512
"""Columns of a weight that are float64 at a time: the largest has a gigabyte in float32."""

_HERE = f"{__package__}.candidates.npbench"
_FOLDER = Path("npbench", "benchmarks", "deep_learning")


def check_checkout(folder: Path) -> None:
    """Refuse a folder that is no checkout.

    Raises:
        InputError: naming the option.
    """
    for benchmark in ("mlp", "softmax"):
        for path in (_details(folder, benchmark), _initialiser(folder, benchmark)):
            if not path.is_file():
                raise InputError(
                    f"--npbench {str(folder)!r} is no checkout of NPBench: it has no "
                    f"{path.relative_to(folder)}; clone https://github.com/spcl/npbench"
                )


def _details(folder: Path, benchmark: str) -> Path:
    return folder / "bench_info" / f"{benchmark}.json"


def _initialiser(folder: Path, benchmark: str) -> Path:
    return folder / _FOLDER / benchmark / f"{benchmark}.py"


def candidates(folder: Path, workload: str) -> list[Candidate]:
    """Its NumPy form and its Numba forms of a workload."""
    benchmark = workload.partition("-")[0]
    home = folder / _FOLDER / benchmark
    files = [home / f"{benchmark}_numpy.py", *sorted(home.glob(f"{benchmark}_numba*.py"))]
    return [checked(_candidate(path, benchmark)) for path in files]


def _candidate(path: Path, benchmark: str) -> Candidate:
    form = path.stem.removeprefix(f"{benchmark}_")
    return Candidate(
        f"{NAME}-{form}",
        f"NPBench {form}",
        f"{_HERE}:Function",
        options={"file": str(path), "function": benchmark},
        needs=("numba",) if form.startswith("numba") else (),
        missing=None if path.is_file() else f"the checkout has no {path.name}",
    )


def operators(ours: Candidate, workload: str) -> Candidate:
    """A candidate of ours at this workload."""
    benchmark = workload.partition("-")[0]
    options = {**ours.options, "benchmark": benchmark}
    return Candidate(
        ours.name, ours.title, f"{_HERE}:Operators", "ours", options, missing=ours.missing
    )


def task(folder: Path, workload: str) -> Task:
    """A workload, timed even where it is wrong: it is to be beaten all the same."""
    arguments = {"folder": str(folder), "workload": workload}
    inputs = draw(**arguments)
    expected = reference(workload, inputs)

    def error(place: int, found: Sequence[Any]) -> float:
        return _distance(found[0], expected)

    problem = (f"{draw.__module__}:draw", arguments)
    made = subject(folder, workload)
    return Task(workload, TABLE, problem, (1,), error, made, times_wrong=True)


def subject(folder: Path, workload: str) -> Subject:
    """The workload's sizes; flops of the products, and arrays read or written once."""
    benchmark, size, *_ = workload.split("-")
    sizes = _read_details(folder, benchmark)["parameters"][size]
    numbers = _numbers(benchmark, sizes)
    if benchmark == "mlp":
        rows = sizes["N"]
        cost = Cost(2.0 * rows * numbers, 4.0 * (numbers + rows * sizes["C_in"]), rows)
    else:
        rows = sizes["N"] * sizes["H"] * sizes["SM"]
        cost = Cost(0.0, 8.0 * rows * sizes["SM"], rows)
    return Subject("x".join(map(str, sizes.values())), sizes, cost)


def draw(folder: str, workload: str) -> list[Any]:
    """The inputs at the workload's size, as the checkout draws them."""
    benchmark, size, *spread = workload.split("-")
    details = _read_details(Path(folder), benchmark)
    names = details["init"]["input_args"]
    sizes = [details["parameters"][size][name] for name in names]
    np.random.seed(0)  # one of its functions draws from the global generator
    made = load(_initialiser(Path(folder), benchmark), "initialize")(*sizes)
    inputs = list(made) if isinstance(made, tuple) else [made]
    return [_spread(inputs[0])] if spread else inputs


def _read_details(folder: Path, benchmark: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_details(folder, benchmark).read_text())["benchmark"]
    return found


def _spread(x: Any) -> Any:
    """Rows around zero, the first ones small, the last ones in the hundreds."""
    rows = x.reshape(-1, x.shape[-1])
    scale = np.geomspace(1e-2, 1e3, len(rows), dtype=x.dtype)[:, None]
    return ((rows - np.float32(0.5)) * scale).reshape(x.shape)


def load(path: Path, function: str) -> Any:
    """A function of the file at ``path``."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where Numba's object mode looks globals up
    spec.loader.exec_module(module)
    return getattr(module, function)


def reference(workload: str, inputs: Sequence[Any]) -> Any:
    """The result in float64."""
    x, *layers = inputs
    x = x.astype(np.float64)
    for place in range(0, len(layers), 2):
        x = _product(x, layers[place]) + layers[place + 1]
        if place + 2 < len(layers):
            x = np.maximum(x, 0)
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _product(x: Any, weight: Any) -> Any:
    columns = range(0, weight.shape[1], BLOCK)
    return np.hstack([x @ weight[:, c : c + BLOCK].astype(np.float64) for c in columns])


def _distance(found: Any, expected: Any) -> float:
    """Norm of the difference, relative to the norm; infinite where a value is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return np.inf
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def too_large(folder: Path, workload: str, count: int) -> str | None:
    """Why ``count`` processes cannot hold a workload's inputs and results; None if they can."""
    benchmark, size, *_ = workload.split("-")
    sizes = _read_details(folder, benchmark)["parameters"][size]
    numbers = _numbers(benchmark, sizes)
    needed, free = 4 * numbers * count, psutil.virtual_memory().available
    if needed <= free:
        return None
    return f"{count} processes need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def _numbers(benchmark: str, sizes: dict[str, int]) -> int:
    if benchmark == "mlp":
        widths = [sizes[name] for name in ("C_in", "S0", "S1", "S2")]
        return sum(a * b for a, b in itertools.pairwise(widths))
    return 3 * sizes["N"] * sizes["H"] * sizes["SM"] ** 2
