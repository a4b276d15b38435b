"""Cases beyond the reach of 32-bit indices: arrays of more than 2^32 elements, which are not there.

Their memory is reserved and never touched but at its end, and only the last block of a launch runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from ladder import trials
from ladder.arrays import DeviceArray, decode, device, encode, sparse
from ladder.cases import Case, draw, floating_dtype
from ladder.step_cases import exactly
from ladder.trials import DTYPES, Key, Result, Trial, Variation

from nnkernels import signature as sig
from nnkernels.backends.cupy.kernels import step
from nnkernels.backends.cupy.launching import BLOCK, Recording
from nnkernels.spec import Array, get_op
from nnkernels.testing.samples import Sample, generator, oracle

FAR = 2**32


class Far(NamedTuple):
    """An operator on an array that is long along one dimension.

    Attributes:
        operator: its name.
        label: the dimension.
        length: its size.
        tail: how much of it the last block takes.
        others: the sizes of the other dimensions.
        params: parameters that are not the defaults.
        missing: an output that nobody wants.
        alternatives: how many alternatives of the signature are tried.
    """

    operator: str
    label: str
    length: int
    tail: int
    others: Mapping[str, int] = {}
    params: Mapping[str, Any] = {}
    missing: int | None = None
    alternatives: int = 2

    def __str__(self) -> str:
        sizes = {self.label: self.length, **self.others}
        return " ".join(f"{label}={size}" for label, size in sizes.items())


WIDE, NARROW = 1000, 100
"""Columns for a block and for a warp to a row."""

BLOCK_ROWS = FAR // WIDE + 40
WARP_ROWS = (FAR // NARROW // 8 + 2) * 8
SUM = {"reduction": "sum"}

FAR_OPERATORS = (
    Far("l1_penalty_backward", "...", FAR + BLOCK - 1, BLOCK - 1),
    Far("l1_penalty_backward", "...", FAR + 2 * BLOCK, 2 * BLOCK),
    Far("mse", "b", FAR + BLOCK - 1, BLOCK - 1, {"c": 1}, SUM),
    Far("l2_penalty", "...", FAR + BLOCK - 1, BLOCK - 1),
    Far("sgd", "...", FAR + BLOCK - 1, BLOCK - 1),
    Far("nll_loss", "b", BLOCK_ROWS, BLOCK_ROWS % BLOCK, {"c": WIDE}, SUM, None, 1),
    Far("mse_backward", "b", FAR + BLOCK - 1, BLOCK - 1, {"c": 1}, SUM),
    Far("softmax", "...", BLOCK_ROWS, 1, {"c": WIDE}),
    Far("softmax", "...", WARP_ROWS, 8, {"c": NARROW}),
    Far("layer_norm", "...", BLOCK_ROWS, 1, {"c": WIDE}),
    Far("layer_norm_backward", "c", FAR // 2 + 4, 4, {"...": 3}, missing=0),
    Far("layer_norm_backward", "c", FAR // BLOCK + 4, 4, {"...": BLOCK + 2}, missing=0),
    Far("bias_grad", "n", FAR // 2 + 5, 5, {"b": 3}),
    Far("batch_norm", "n", FAR // 2 + 4, 4, {"b": 3}),
    Far("batch_norm_inference", "b", BLOCK_ROWS, 1, {"n": WIDE + 1}),
    Far("one_hot", "b", BLOCK_ROWS, 1, {}, {"classes": WIDE}),
    Far("argmax", "b", BLOCK_ROWS, 1, {"c": WIDE}),
    Far("gather_rows", "b", BLOCK_ROWS, 1, {"n": 5, "d": WIDE + 1}),
    Far("softmax_cross_entropy_backward", "b", BLOCK_ROWS, 1, {"c": WIDE}, SUM),
    Far("categorical_cross_entropy_backward", "b", BLOCK_ROWS, 1, {"c": WIDE}, SUM, None, 1),
    Far("dropout", "...", FAR + BLOCK - 1, BLOCK - 1),
    Far("dropout", "...", 4 * (FAR + BLOCK), 4 * BLOCK),
    Far("dropout_backward", "...", FAR + BLOCK - 1, BLOCK - 1),
)


def far_cases() -> Iterator[Case]:
    """One for every alternative of each of :data:`FAR_OPERATORS`' signatures, and a batch."""
    for far in FAR_OPERATORS:
        for number in range(min(len(samples_of(far, "float32")), far.alternatives)):
            build = functools.partial(far_trial, far, number)
            yield Case(f"far {far} #{number}", far.operator, build)
    yield Case(f"far {BLOCK_ROWS}x{WIDE + 1}", "gather_step", gather_trial)


def samples_of(far: Far, storage: str) -> list[Sample]:
    """Samples of the part that the last block takes."""
    sizes = {**far.others, far.label: far.tail}
    dims = {**sizes, **far.params, "...": (sizes.get("...", 1),)}
    op = get_op(far.operator)
    base = {**op.params, **far.params}
    if "dtype" in base:
        base["dtype"] = floating_dtype(storage).name
    return draw(far.operator, storage, base, lambda signature, params: dims, lambda sample: sample)


def far_trial(far: Far, number: int, storage: str) -> Trial:
    """The last block of the operator's launches."""
    sample = trials.rounded_to(samples_of(far, storage)[number], storage)
    arithmetic = (
        trials.arithmetic_arguments(sample) if storage in ("float16", "bfloat16") else set()
    )
    arrays, parts = place(far, sample, storage, arithmetic)
    queue = Recording()
    whole = Variation(missing=far.missing, blocks=2**31 - 1, slices=1)
    trials.record(sample, arrays, whole, queue)
    sample = as_the_end(sample, far)
    names = sample.op.result_names(sample.signature)
    keys = [k for k in parts if k[0] == "output"] + [("input", at) for at in sample.updated]
    expected = [np.asarray(r, np.float64) for r in oracle(sample)]
    results = [
        Result(name, parts[key], e, trials.bound_of(sample, expected, at, parts[key].dtype))
        for at, (name, key, e) in enumerate(zip(names, keys, expected, strict=True))
        if at != far.missing
    ]
    return Trial(queue.taken, results, tail=True)


def as_the_end(sample: Sample, far: Far) -> Sample:
    """The sample, where an operator's results depend on the place as the rows that it is."""
    if "first_row" not in sample.params:
        return sample
    return replace(sample, params={**sample.params, "first_row": far.length - far.tail})


def place(
    far: Far, sample: Sample, storage: str, arithmetic: set[Key]
) -> tuple[dict[Key, DeviceArray], dict[Key, DeviceArray]]:
    """Arrays of the full length, and the parts of them at the end."""
    dims = sample.signature.solve([a.shape for a in sample.inputs], sample.params)
    length = {far.label: (far.length,) if far.label == "..." else far.length}
    wide = "float64" if storage == "float64" else "float32"
    arrays, parts = {}, {}
    for key, argument in trials.arguments_of(sample).items():
        dtype = argument.dtype(np.dtype(wide if key in arithmetic else DTYPES[storage]))
        shape = sig.shape_of(argument, {**dims, **length})
        # A share of every block, of which a recipe alone has fewer.
        shape = (FAR // BLOCK * 2,) if key[0] == "work" and len(shape) == 1 else shape
        array = arrays[key] = sparse(shape, dtype)
        parts[key] = part = _end(array, argument, far)
        if key[0] == "input":
            part[...] = encode(sample.inputs[key[1]], dtype)
        elif key[0] == "output" and dtype.kind == "f":
            part[...] = np.nan
    return arrays, parts


def _end(array: Array, argument: sig.Argument, far: Far) -> Any:
    labels = [label.rstrip("+") for label in argument.dims]
    if far.label not in labels:
        return array
    before = (slice(None),) * labels.index(far.label)
    return array[(*before, slice(-far.tail, None))]


def gather_trial(storage: str) -> Trial:
    """The last row of a batch that is all of the data."""
    draw, shape = generator("far gather_step", storage), (BLOCK_ROWS, WIDE + 1)
    x, targets, x_out, targets_out = (sparse(shape, DTYPES[storage]) for _ in range(4))
    for array in (x, targets):
        array[-1] = encode(draw.standard_normal(WIDE + 1), array.dtype)
    queue = Recording()
    with trials.few_blocks(2**31 - 1):
        row = device(np.zeros((), np.int64))
        step.gather_step(queue, x, targets, None, row, x_out, targets_out)
    copies = (("x", x_out, x), ("targets", targets_out, targets))
    results = [exactly(name, out[-1], decode(source[-1])) for name, out, source in copies]
    return Trial(queue.taken, results, tail=True)
