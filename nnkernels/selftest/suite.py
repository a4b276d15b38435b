"""The sections of the selftest, in the order in which a failure is understood best."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import nnkernels
from nnkernels.backend import Backend
from nnkernels.backends.cupy import on, sources
from nnkernels.backends.cupy.device import gpu_of
from nnkernels.backends.cupy.layers import LAYERS, PLAIN
from nnkernels.backends.cupy.selfcheck import disagreement, product_trial
from nnkernels.errors import NnkernelsError, unknown
from nnkernels.selftest import measures, training
from nnkernels.selftest.guards import GuardedDevice
from nnkernels.selftest.predictions import DATA_SHEETS, NETWORKS, predict
from nnkernels.selftest.report import SCHEMA, Item, Outcome, Report, Section
from nnkernels.testing import verify

EPOCHS = 20
"""Of :data:`~nnkernels.selftest.training.STEPS_AN_EPOCH` steps: 200 steps."""

CURVE_BOUND = 1e-4
"""Largest relative difference of the losses of 200 float32 steps from NumPy's float64."""

SANITIZER_S = 600


@dataclass(frozen=True)
class Options:
    """How much is done.

    Attributes:
        quick: fewer shapes and networks, shorter training.
        operators: names of operators to verify; None: all.
        copy_bytes, product_size: sizes of the measurements.
        networks: layer widths and batch of the steps that are timed.
    """

    quick: bool = False
    operators: tuple[str, ...] | None = None
    copy_bytes: int = 256 << 20
    product_size: int = 4096
    networks: tuple[tuple[tuple[int, ...], int], ...] = NETWORKS


Progress = Callable[[str, int, int], None]


def run(
    backend: Backend,
    options: Options = Options(),
    *,
    only: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Look at everything, or at the sections named by ``only``.

    Args:
        backend: the CuPy backend on a device, real or simulated.
        options: how much.
        only: names of :data:`SECTIONS`.
        progress: called with a section's name, its number, and the number of sections.

    Raises:
        UnknownNameError: there is no such section.
    """
    names = list(SECTIONS) if only is None else list(only)
    for name in names:
        if name not in SECTIONS:
            raise unknown("section of the selftest", name, SECTIONS)
    sections, complete = [], True
    for number, name in enumerate(names):
        if progress is not None:
            progress(name, number, len(names))
        try:
            sections.append(_section(name, backend, options))
        except KeyboardInterrupt:
            complete = False
            break
    identity = gpu_of(backend).identity()
    return Report(SCHEMA, nnkernels.__version__, identity, sections, complete)


def _section(name: str, backend: Backend, options: Options) -> Section:
    title, look = SECTIONS[name]
    began = time.perf_counter()
    items: list[Item] = []
    try:
        items.extend(look(backend, options))
    except Exception as error:  # a broken driver is what this is for: reported, then on
        items.append(Item(name, "failed", f"{type(error).__name__}: {error}"))
    return Section(title, items, time.perf_counter() - began)


# --- what is installed, and which layers work ----------------------------------------------------


def look_at_layers(backend: Backend, options: Options) -> Iterator[Item]:
    """Every layer's self-check."""
    layers = gpu_of(backend).layers
    for name in LAYERS:
        working = layers.on(name)
        verdict = layers.verdicts()[name]
        yield Item(f"layer {name}", _outcome(working), verdict.reason)


def look_at_compilation(backend: Backend, options: Options) -> Iterator[Item]:
    """Every module compiles for this device, by both compilers of ours."""
    gpu = gpu_of(backend)
    for module in sources.module_names():
        for storage in sources.STORAGES:
            name = f"{module} {storage}"
            try:
                yield Item(name, "ok", f"sha256 {gpu.cubin_digest(module, storage)[:16]}")
            except NnkernelsError as error:
                yield Item(name, "failed", str(error))


# --- are the numbers right ----------------------------------------------------------------------


def look_at_operators(backend: Backend, options: Options) -> Iterator[Item]:
    """The conformance suite on poisoned, guarded arrays."""
    guarded = GuardedDevice(gpu_of(backend))
    report = verify(
        replace(backend, device=guarded), operators=options.operators, quick=options.quick
    )
    guarded.check()
    for failure in report.failures:
        yield Item(failure.operator, "failed", str(failure))
    worst = max(report.worst.values(), default=0.0)
    yield Item(
        "conformance",
        _outcome(report.ok),
        f"{report.cases} cases, {len(report.passed)} operators and networks without a failure",
        {"largest error in units of its bound": worst},
    )


def look_at_products(backend: Backend, options: Options) -> Iterator[Item]:
    """Every orientation of a product by every layer against the float64 reference."""
    for layers in (PLAIN, f"{PLAIN},lt"):
        gpu = gpu_of(_pinned(backend, layers))
        for transposed in ((False, False), (True, False), (False, True), (True, True)):
            trial = product_trial(gpu, *transposed)
            for item in trial.items:
                gpu.prepare(item)()
            reason = disagreement(trial)
            yield Item(f"product {transposed} by {layers}", _outcome(not reason), reason)


def look_at_training(backend: Backend, options: Options) -> Iterator[Item]:
    """Eager and graph alike bit for bit, runs alike bit for bit, losses like NumPy's in float64."""
    epochs = 3 if options.quick else EPOCHS
    steps = epochs * training.STEPS_AN_EPOCH
    eager = training.train(_pinned(backend, "plain,cubin,lt"), epochs)
    graph = training.train(_pinned(backend, "plain,cubin,lt,graph"), epochs)
    plain = training.train(_pinned(backend, PLAIN), epochs)
    reference = training.train(nnkernels.get_backend("numpy"), epochs, "float64")
    yield _equal(f"{steps} steps eager and as a graph", eager, graph)
    again = [training.train(_pinned(backend, "plain,cubin,lt,graph"), epochs) for _ in range(2)]
    for number, curve in enumerate(again, 2):
        yield _equal(f"{steps} steps, run {number}", curve, graph)
    for name, curve in (("all layers", graph), ("the plain layer", plain)):
        off = training.distance(curve, reference)
        values = {"largest relative difference": off}
        yield Item(f"loss curve of {name}", _outcome(off <= CURVE_BOUND), "", values)


def _equal(name: str, curve: training.Curve, other: training.Curve) -> Item:
    same = curve.weights == other.weights
    return Item(name, _outcome(same), "bit for bit" if same else "weights differ")


def _outcome(good: bool) -> Outcome:
    return "ok" if good else "failed"


# --- how fast is it -----------------------------------------------------------------------------


def look_at_speed(backend: Backend, options: Options) -> Iterator[Item]:
    """Rates, and step times beside what the model predicts for the devices it knows."""
    rate = measures.copy_bandwidth(backend, options.copy_bytes) / 1e9
    yield Item("copying", "measured", "", {"GB/s": rate})
    for precision in backend.precisions if gpu_of(backend).layers.on("lt") else ("fp32",):
        rate = measures.product_rate(backend, options.product_size, precision) / 1e12
        yield Item(
            f"product {options.product_size}, {precision}", "measured", "", {"Tflop/s": rate}
        )
    for layers, batch in options.networks:
        taken = measures.step_seconds(backend, layers, batch, 20) * 1e6
        predicted = {
            f"predicted for {sheet.name} us": predict(sheet, layers, batch, "fp32").graph * 1e6
            for sheet in DATA_SHEETS
        }
        name = f"step of {'-'.join(map(str, layers))}, batch {batch}"
        yield Item(name, "measured", "", {"us": taken, **predicted})


def look_with_sanitizer(backend: Backend, options: Options) -> Iterator[Item]:
    """One operator of every kind under NVIDIA's compute-sanitizer, if it is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or not _is_real(backend):
        yield Item("compute-sanitizer", "skipped", "not installed, or not a real device")
        return
    chosen = ("gelu", "bias_grad", "softmax_cross_entropy", "adam", "gather_rows")
    verified = [sys.executable, "-m", "nnkernels", "verify", backend.name, "--quick"]
    command = [tool, "--error-exitcode", "9", *verified, *(f"-k{name}" for name in chosen)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SANITIZER_S, check=False)
    outcome = _outcome(done.returncode == 0)
    yield Item("compute-sanitizer", outcome, (done.stdout.strip().splitlines() or [""])[-1])


def _is_real(backend: Backend) -> bool:
    return getattr(gpu_of(backend).cp, "__name__", "") == "cupy"


def _pinned(backend: Backend, layers: str) -> Backend:
    """The backend on the same device, with these layers and no others."""
    gpu = gpu_of(backend)
    return on(gpu.cp, gpu.index, layers=layers)


Look = Callable[[Backend, Options], Iterator[Item]]

SECTIONS: Mapping[str, tuple[str, Look]] = {
    "layers": ("Layers", look_at_layers),
    "compilation": ("Compilation", look_at_compilation),
    "operators": ("Operators", look_at_operators),
    "products": ("Products", look_at_products),
    "training": ("Training", look_at_training),
    "sanitizer": ("Memory checker", look_with_sanitizer),
    "speed": ("Speed", look_at_speed),
}
"""Title and function by name."""
