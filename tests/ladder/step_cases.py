"""Cases of the kernels that are no operator's: a batch, the head of a step, the guard."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from ladder.arrays import DeviceArray, decode, device, encode, poisoned
from ladder.cases import MATRICES, Case
from ladder.trials import (
    BFLOAT16_EPS,
    DTYPES,
    Result,
    Trial,
    few_blocks,
    in_storage,
)

from nnkernels.backends.cupy.kernels import bookkeeping, step
from nnkernels.backends.cupy.launching import Recording
from nnkernels.spec import Array, get_op
from nnkernels.testing.samples import generator

SCHEDULE = np.array([0.5, 0.25, 0.125])


def step_cases() -> Iterator[Case]:
    """All of them."""
    yield from _gather_cases()
    yield from _head_cases()
    for value in (1.0, np.nan, np.inf, -np.inf):
        yield Case(f"loss {value}", "guard", functools.partial(guard_trial, value))


def wide(storage: str) -> np.dtype[Any]:
    """The arithmetic type."""
    return np.dtype("float64" if storage == "float64" else "float32")


def launched(storage: str, queue: Recording) -> list[Any]:
    """What a queue was given, in the module of the storage type."""
    return [in_storage(item, storage) for item in queue.taken]


def exactly(name: str, array: DeviceArray, expected: Any) -> Result:
    """A result that must be right in every bit."""
    values = np.asarray(expected, np.float64)
    return Result(name, array, values, np.zeros(values.shape), updated=True)


# --- guard --------------------------------------------------------------------------------------


def guard_trial(value: float, storage: str) -> Trial:
    """The counter is set by a loss that is not finite, and left alone by others."""
    loss, diverged = device(np.array(value, wide(storage))), device(np.zeros((), np.int64))
    queue = Recording()
    bookkeeping.guard(queue, loss, diverged)
    result = exactly("diverged", diverged, float(not np.isfinite(value)))
    return Trial(launched(storage, queue), [result], [loss])


# --- gather -------------------------------------------------------------------------------------


def _gather_cases() -> Iterator[Case]:
    for (rows, columns), rows_of, ordered in itertools.product(
        MATRICES, (False, True), (False, True)
    ):
        build = functools.partial(gather_trial, (rows, columns), rows_of, ordered)
        kind = "rows" if rows_of else "labels"
        name = f"{rows}x{columns} {kind}{' in order' if ordered else ''}"
        yield Case(name, "gather_step", build)


def gather_trial(shape: tuple[int, int], rows_of: bool, ordered: bool, storage: str) -> Trial:
    """A batch from the middle of the data."""
    rows, columns = shape
    draw = generator("gather_step", storage, shape)
    data = 2 * rows + 3
    dtype = DTYPES[storage]
    x = device(encode(draw.standard_normal((data, columns)), dtype))
    width = columns if columns < 8 else 8
    if rows_of:
        targets = device(encode(draw.standard_normal((data, width)), dtype))
    else:
        targets = device(draw.integers(0, 10, data))
    order = device(draw.permutation(data)) if ordered else None
    first = device(np.array(2, np.int64))
    x_out = poisoned(shape, dtype)
    targets_out = poisoned((rows, *targets.shape[1:]), targets.dtype)
    queue = Recording()
    with few_blocks():
        step.gather_step(queue, x, targets, order, first, x_out, targets_out)
    taken = (np.arange(data) if order is None else np.asarray(order))[2 : 2 + rows]
    results = [
        exactly(name, out, decode(source)[taken])._replace(updated=False)
        for name, out, source in (("x", x_out, x), ("targets", targets_out, targets))
    ]
    inputs = [a for a in (x, targets, order, first) if a is not None]
    return Trial(queue.taken, results, inputs)


# --- head ---------------------------------------------------------------------------------------

HEADS = {
    "all": {"bias", "biased", "probs", "d_logits", "bias_grad", "ledger", "mean"},
    "in place": {"bias", "d_logits", "over", "ledger", "mean"},
    "loss alone": {"mean"},
    "sum": {"d_logits", "probs"},
    "diverged": {"d_logits", "ledger", "nan"},
    "diverged before": {"d_logits", "ledger", "diverged"},
    "without a guard": {"ledger", "nan", "no guard"},
    "end of the schedule": {"ledger", "late"},
}
"""What a head is asked for."""


def _head_cases() -> Iterator[Case]:
    for number, (rows, columns) in enumerate(MATRICES):
        every = number in (0, len(MATRICES) - 1)
        for (name, asked), rows_of in itertools.product(HEADS.items(), (False, True)):
            if every or name == "all":
                build = functools.partial(head_trial, (rows, columns), rows_of, frozenset(asked))
                kind = "rows" if rows_of else "labels"
                yield Case(f"{rows}x{columns} {kind} {name}", "head", build)


def head_trial(shape: tuple[int, int], rows_of: bool, asked: frozenset[str], storage: str) -> Trial:
    """The end of the forward pass."""
    rows, columns = shape
    dtype, draw = DTYPES[storage], generator("head", storage, shape, rows_of)
    z = draw.standard_normal(shape) * 5
    z[1:2] -= 300
    z[2:3] += 300
    if "nan" in asked:
        z[rows - 1, columns // 2] = np.nan
    logits = device(encode(z, dtype))
    bias = device(encode(draw.standard_normal(columns), dtype)) if "bias" in asked else None
    if rows_of:
        weights = draw.uniform(0.1, 1, shape)
        targets = device(encode(weights / weights.sum(1, keepdims=True), dtype))
    else:
        targets = device(draw.integers(0, columns, rows))
    biased = poisoned(shape, dtype) if "biased" in asked else None
    probs = poisoned(shape, dtype) if "probs" in asked else None
    d_logits = poisoned(shape, dtype) if "d_logits" in asked else None
    if "over" in asked:
        d_logits = logits
    bias_grad = poisoned((columns,), dtype) if "bias_grad" in asked else None
    loss = poisoned((), wide(storage))
    scratch = scratch_of(storage)
    ledger = ledger_of(asked)
    z = decode(logits).astype(wide(storage))
    if bias is not None:
        z = z + decode(bias).astype(wide(storage))
    expected = reference(z, decode(targets), "mean" if "mean" in asked else "sum")
    queue = Recording()
    with few_blocks():
        step.head_softmax_cross_entropy(
            queue,
            logits,
            targets,
            loss=loss,
            scratch=scratch,
            ledger=ledger,
            reduction="mean" if "mean" in asked else "sum",
            bias=bias,
            biased=biased,
            probs=probs,
            d_logits=d_logits,
            bias_grad=bias_grad,
        )
    arrays = {"probs": probs, "d_logits": d_logits, "bias_grad": bias_grad, "loss": loss}
    results = [
        Result(name, array, expected[name], bound_in(array.dtype, expected[f"{name} bound"]))
        for name, array in arrays.items()
        if array is not None
    ]
    results = [r._replace(updated=r.array is logits) for r in results]
    if biased is not None:
        results.append(exactly("biased", biased, z)._replace(updated=False))
    results += ledger_results(ledger, expected, asked)
    results.append(exactly("arrived", scratch.arrived, [0]))
    inputs = [a for a in (logits, bias, targets, ledger.schedule) if a is not None]
    inputs = [a for a in inputs if a is not d_logits]
    return Trial(queue.taken, results, inputs, [scratch.losses, scratch.hits])


def scratch_of(storage: str) -> step.Scratch:
    """Scratch for a head; ``arrived`` begins at 0, the rest with anything."""
    (losses, _), (hits, _), _ = step.Scratch.shapes("float32")
    return step.Scratch(
        poisoned((losses,), wide(storage)),
        poisoned((hits,), np.uint32),
        device(np.zeros(1, np.uint32)),
    )


def ledger_of(asked: frozenset[str]) -> step.Ledger:
    """A State's numbers before the step."""
    if "ledger" not in asked:
        return step.Ledger()
    epoch_step = 7 if "late" in asked else 1
    diverged = None if "no guard" in asked else int("diverged" in asked)
    return step.Ledger(
        loss_sum=device(np.array(2.0)),
        metric=device(np.array(3.0)),
        step=device(np.array(10, np.int64)),
        epoch_step=device(np.array(epoch_step, np.int64)),
        learning_rate=device(np.array(1.0)),
        schedule=device(SCHEDULE),
        row=device(np.array(64, np.int64)),
        diverged=None if diverged is None else device(np.array(diverged, np.int64)),
        weight=32.0,
        advance=32,
    )


def ledger_results(
    ledger: step.Ledger, expected: dict[str, Array], asked: frozenset[str]
) -> list[Result]:
    """The State's numbers after the step."""
    if "ledger" not in asked:
        return []
    finite = bool(np.isfinite(expected["loss"]))
    stopped = ledger.diverged is not None and (not finite or "diverged" in asked)
    now = int(ledger.epoch_step)
    rate = SCHEDULE[min(now, len(SCHEDULE) - 1)]
    after = {
        "metric": 3 if stopped else 3 + expected["hits"],
        "step": 10 if stopped else 11,
        "epoch_step": now if stopped else now + 1,
        "learning_rate": 1 if stopped else rate,
        "row": 64 if stopped else 96,
    }
    found = [exactly(name, getattr(ledger, name), value) for name, value in after.items()]
    loss_sum = np.float64(2 if stopped else 2 + 32 * expected["loss"])
    bound = bound_in(np.dtype("float32"), 32 * expected["loss bound"])
    found.append(Result("loss_sum", ledger.loss_sum, loss_sum, np.asarray(bound), updated=True))
    if ledger.diverged is not None:
        found.append(exactly("diverged", ledger.diverged, float(stopped)))
    return found


def reference(logits: Array, targets: Array, reduction: str) -> dict[str, Array]:
    """What a head computes, by the catalogue in float64, with the bounds of its errors there."""
    z = logits.astype(np.float64)
    wanted = targets.astype(np.float64) if targets.ndim == 2 else targets
    forward, backward = get_op("softmax_cross_entropy"), get_op("softmax_cross_entropy_backward")
    params, one = {"reduction": reduction}, np.array(1.0)
    with np.errstate(all="ignore"):
        loss, probs = forward.evaluate(z, wanted, **params)
        (d_logits,) = backward.evaluate(one, probs, wanted, **params)
        scales = forward.error.bound((loss, probs), (z, wanted), params, np.dtype("float64"))
        (slack,) = backward.error.bound(
            (d_logits,), (one, probs, wanted), params, np.dtype("float64")
        )
    classes = wanted.argmax(1) if wanted.ndim == 2 else wanted
    # The gradient is of the kernel's own probabilities, whose errors the reference does not have.
    slack = slack + scales[1] / (len(z) if reduction == "mean" else 1)
    return {
        "loss": loss,
        "probs": probs,
        "d_logits": d_logits,
        "bias_grad": d_logits.sum(0),
        "hits": np.sum(z.argmax(1) == classes),
        "loss bound": scales[0],
        "probs bound": scales[1],
        "d_logits bound": slack,
        "bias_grad bound": slack.sum(0) + len(z) * 2.0**-52 * np.abs(d_logits).sum(0),
    }


def bound_in(dtype: np.dtype[Any], bound: Array) -> Array:
    """A bound for float64 as one for another dtype."""
    if dtype == np.uint16:
        return bound * 2.0**29 * BFLOAT16_EPS
    info = np.finfo(dtype)
    return bound * float(info.eps) / 2.0**-52 + float(info.tiny)
