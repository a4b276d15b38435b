"""The self-checks of the layers: small operators on the device, compared with their references.

Each runs on a stream of its own, under a deadline: a device that does not answer in time fails.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nnkernels.backends.cupy import products
from nnkernels.backends.cupy.launching import Epilogue, Launch, Product, Recording
from nnkernels.backends.cupy.layers import Outcome
from nnkernels.errors import BackendError
from nnkernels.spec import Array, get_op

SEED = 2024
ROWS, INNER, COLUMNS = 40, 96, 33
"""Sizes that fill no warp, tile or vector evenly."""


class Trial(NamedTuple):
    """Work on the device, and what must come out.

    Attributes:
        name: for the message.
        items: launches and products, in order.
        results: device arrays that they write.
        expected, bounds: by result, in float64.
    """

    name: str
    items: list[Launch | Product]
    results: list[Any]
    expected: list[Array]
    bounds: list[Array]


def operator_trial(gpu: Any, name: str, inputs: list[Array], **params: Any) -> Trial:
    """An operator of the catalogue on small arrays, with its reference and its error bound."""
    from nnkernels.backends.cupy import recipes

    op = get_op(name)
    full = op.full_params(params)
    wide = tuple(a.astype(np.float64) if a.dtype.kind == "f" else a for a in inputs)
    references = tuple(np.asarray(r) for r in op.evaluate(*wide, **full))
    bounds = op.error.bound(references, wide, full, np.dtype(np.float32))
    arrays = [gpu.cp.asarray(a) for a in inputs]
    updated = [arrays[op.inputs.index(n)] for n in op.updates]
    kinds = [np.float32 if r.dtype.kind == "f" else r.dtype for r in references]
    count = len(references) - len(updated)
    outs = [
        gpu.cp.empty(r.shape, k) for r, k in zip(references[:count], kinds[:count], strict=True)
    ]
    keywords: dict[str, Any] = dict(full)
    if outs:
        keywords["out"] = outs[0] if count == 1 else tuple(outs)
    recipe = recipes()[name]
    if recipe.workspace:
        keywords["work"] = scratch(gpu, op, recipe.workspace, arrays, full)
    queue = Recording()
    recipe.function(queue, *arrays, **keywords)
    return Trial(name, queue.taken, [*outs, *updated], list(references), list(bounds))


def scratch(
    gpu: Any, op: Any, workspace: str, arrays: list[Any], params: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The scratch arrays that a recipe declares."""
    from nnkernels import signature as sig
    from nnkernels.program.builder import result_specs

    shapes, dtypes = [a.shape for a in arrays], [a.dtype.name for a in arrays]
    _, dims = result_specs(op, shapes, dtypes, params)
    return tuple(
        gpu.cp.empty(sig.shape_of(a, dims), a.dtype(np.dtype(np.float32)))
        for a in sig.parse_arguments(workspace)
    )


def product_trial(gpu: Any, transpose_a: bool, transpose_b: bool) -> Trial:
    """A float32 product, held against the contract that a TF32 product must fail."""
    draw = np.random.default_rng(SEED)
    a = draw.standard_normal((INNER, ROWS) if transpose_a else (ROWS, INNER)).astype(np.float32)
    b = draw.standard_normal((COLUMNS, INNER) if transpose_b else (INNER, COLUMNS))
    params = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    return operator_trial(gpu, "matmul", [a, b.astype(np.float32)], **params)


def operator_trials(gpu: Any) -> Iterator[Trial]:
    """One operator of every kind of kernel: elementwise, by rows, by columns, sums, updates."""
    draw = np.random.default_rng(SEED)
    x, grad = draw.standard_normal((2, ROWS, COLUMNS)).astype(np.float32)
    labels = draw.integers(0, COLUMNS, ROWS)
    yield operator_trial(gpu, "gelu", [x])
    yield operator_trial(gpu, "tanh_backward", [grad, np.tanh(x)])
    yield operator_trial(gpu, "bias_grad", [grad])
    yield operator_trial(gpu, "softmax_cross_entropy", [x * 10, labels])
    moments = [np.zeros_like(x), np.zeros_like(x)]
    rate, step = np.array(1e-2), np.array(1)
    yield operator_trial(gpu, "adam", [x, grad, *moments, rate, step])


def epilogue_trials(gpu: Any) -> Iterator[Trial]:
    """A product with every epilogue; the relu's mask is what the trial before it wrote."""
    draw = np.random.default_rng(SEED)
    a, b = (draw.standard_normal(s).astype(np.float32) for s in ((ROWS, INNER), (INNER, COLUMNS)))
    bias = draw.standard_normal(COLUMNS).astype(np.float32)
    wide = a.astype(np.float64) @ b
    bound = 4 * np.finfo(np.float32).eps * (np.sqrt(INNER) * (np.abs(a) @ np.abs(b)) + np.abs(bias))
    left, right, added = (gpu.cp.asarray(each) for each in (a, b, bias))
    y = gpu.cp.empty(wide.shape, np.float32)
    bits = gpu.cp.zeros((products.mask_bytes(*wide.shape),), np.uint8)
    mask = products.ReluMask(y, bits)
    forward = Product(left, right, y, epilogue=Epilogue("bias_relu", added, mask))
    yield Trial("bias and relu", [forward], [y], [np.maximum(wide + bias, 0)], [bound])
    positive = wide + bias > 0
    out, sums = gpu.cp.empty(wide.shape, np.float32), gpu.cp.empty((COLUMNS,), np.float32)
    back = Epilogue("drelu_bias_grad", mask=mask, bias_grad=sums)
    backward = Product(left, right, out, epilogue=back)
    masked = np.where(positive, wide, 0)
    wanted, bounds = [masked, masked.sum(0)], [bound, bound.sum(0) + 1e-5 * np.abs(masked).sum(0)]
    yield Trial("derivative and bias gradient", [backward], [out, sums], wanted, bounds)


def check_cubin(gpu: Any, left: float) -> Outcome:
    """Kernels that we compiled, against their references."""
    return run_trials(gpu, list(operator_trials(gpu)), gpu.cubin_call, left)


def check_lt(gpu: Any, left: float) -> Outcome:
    """cublasLt's products in every orientation and with its epilogues, against NumPy."""
    turns = ((False, False), (True, False), (False, True), (True, True))
    trials = [product_trial(gpu, *turn) for turn in turns]
    trials += epilogue_trials(gpu)
    return run_trials(gpu, trials, functools.partial(products.prepare_lt, gpu), left)


def check_graph(gpu: Any, left: float) -> Outcome:
    """A product and a kernel captured together and replayed, against NumPy."""
    trials = [product_trial(gpu, False, True), *operator_trials(gpu)]
    calls = [gpu.prepare(item) for trial in trials[:2] for item in trial.items]
    began = time.perf_counter()
    stream = stream_behind(gpu)
    with stream:
        for call in calls:
            call()
        stream.begin_capture()
        for call in calls:
            call()
        graph = stream.end_capture()
        for trial in trials[:2]:
            for result in trial.results:
                result.fill(np.nan)
        for _ in range(2):
            graph.launch(stream)
    wait(stream, began + left)
    reasons = [disagreement(trial) for trial in trials[:2]]
    return Outcome(next(filter(None, reasons), ""), time.perf_counter() - began)


CHECKS: Mapping[str, Callable[[Any, float], Outcome]] = {
    "cubin": check_cubin,
    "lt": check_lt,
    "graph": check_graph,
}
"""By layer; each takes the device and the seconds that are left."""

Prepare = Callable[[Any], Callable[[], None]]


def run_trials(gpu: Any, trials: list[Trial], prepare: Prepare, left: float) -> Outcome:
    """Run ``trials`` with ``prepare``'s calls; the clock starts when all is compiled."""
    calls = [[prepare(item) for item in trial.items] for trial in trials]
    began = time.perf_counter()
    stream = stream_behind(gpu)
    for trial, steps in zip(trials, calls, strict=True):
        with stream:
            for call in steps:
                call()
        wait(stream, began + left)
        reason = disagreement(trial)
        if reason:
            return Outcome(reason, time.perf_counter() - began)
    return Outcome("", time.perf_counter() - began)


def stream_behind(gpu: Any) -> Any:
    """A stream of its own that begins when the current one is done."""
    stream = gpu.cp.cuda.Stream(non_blocking=True)
    stream.wait_event(gpu.cp.cuda.get_current_stream().record())
    return stream


def wait(stream: Any, deadline: float) -> None:
    """Until ``stream`` is done.

    Raises:
        BackendError: the deadline passed first.
    """
    while not stream.done:
        if time.perf_counter() > deadline:
            raise BackendError("the self-check's time was over before the device answered")
        time.sleep(1e-4)


def disagreement(trial: Trial) -> str:
    """What is wrong with a trial's results; empty where nothing is."""
    for result, expected, bound in zip(trial.results, trial.expected, trial.bounds, strict=True):
        error = np.abs(result.get().astype(np.float64) - expected)
        if not np.all(error <= bound):
            worst = float(np.nanmax(error / np.maximum(bound, np.finfo(np.float64).tiny)))
            return f"{trial.name} disagrees with NumPy (error {worst:.3g} times its bound)"
    return ""
