"""One operator on given arrays as launches, with what must come out.

The launches are those of the backend's own recipes, taken by a recording queue, so that no test
says a second time how a kernel is launched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from ladder.arrays import DeviceArray, decode, device, encode, poisoned

from nnkernels import signature as sig
from nnkernels.backends.cupy import launching, recipes, sources
from nnkernels.backends.cupy.kernels import geometry, normalisation
from nnkernels.backends.cupy.launching import Launch, Product, Recording
from nnkernels.spec import Array
from nnkernels.testing.samples import Sample, oracle, oracle_params, widened

FEW_BLOCKS = 2
"""Blocks of a grid where the device has more: so loops over a grid go round on small arrays."""

BFLOAT16_EPS = 2.0**16
"""Unit roundoff of bfloat16, in those of float32."""

DTYPES: Mapping[str, str] = {
    "float32": "float32",
    "float64": "float64",
    "float16": "float16",
    "bfloat16": "uint16",
}
"""dtype of an array of every storage type."""


class Result(NamedTuple):
    """An array that the launches write, and what it must hold.

    Attributes:
        updated: whether it holds values before.
    """

    name: str
    array: DeviceArray
    expected: Array
    bound: Array
    updated: bool = False


@dataclass
class Trial:
    """Launches, and what must be true afterwards.

    Attributes:
        launches: in order; products between them are the runner's affair.
        results: what is written.
        inputs: what must not change.
        scratch: what may.
        tail: whether only the last block of every launch is to run; what the others would write
            is nobody's affair.
    """

    launches: Sequence[Launch | Product]
    results: Sequence[Result]
    inputs: Sequence[DeviceArray] = ()
    scratch: Sequence[DeviceArray] = ()
    tail: bool = False
    before: Sequence[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.before = [a.tobytes() for a in self.inputs]

    @property
    def arrays(self) -> Iterator[tuple[DeviceArray, bool]]:
        """All arrays, and whether they hold values before the launches."""
        for result in self.results:
            yield result.array, result.updated
        for array in self.inputs:
            yield array, True
        for array in self.scratch:
            yield array, False

    def kernels(self) -> set[tuple[str, str]]:
        """Modules and names of the kernels that are launched."""
        return {(i.module, i.kernel) for i in self.launches if isinstance(i, Launch)}

    def faults(self) -> list[str]:
        """What is wrong after the launches."""
        found = [text for r in self.results if (text := disagreement(r))]
        for array, before in zip(self.inputs, self.before, strict=True):
            if array.tobytes() != before:
                found.append(f"an input of shape {array.shape} has changed")
        return found


def disagreement(result: Result) -> str:
    """Where a result is farthest from what it must be; empty where it is within its bound."""
    got = decode(result.array).astype(np.float64)
    with np.errstate(all="ignore"):
        # What is beyond the dtype's range must come out as the infinity that it rounds to.
        limit = decode(encode(result.expected, result.array.dtype)).astype(np.float64)
        error = np.abs(got - result.expected)
        right = (got == limit) | (np.isnan(got) & np.isnan(result.expected))
        right |= np.isfinite(got) & np.isfinite(result.expected) & (error <= result.bound)
    if np.all(right):
        return ""
    at = np.unravel_index(int(np.argmin(right)), right.shape)
    wrong = int(right.size - right.sum())
    return (
        f"{result.name}{[int(i) for i in at]} is {got[at]!r}, expected {result.expected[at]!r} "
        f"within {result.bound[at]:.3g}; {wrong} of {right.size} are wrong"
    )


# --- an operator's launches ---------------------------------------------------------------------


class Variation(NamedTuple):
    """How a call differs from the plain one.

    Attributes:
        over: the input that the first output is written over.
        missing: an output that nobody wants.
        offset: elements by which floating arrays lie behind a 16-byte boundary.
        skip: the value of the counter that keeps updates from being made.
        blocks: of a grid where the device has more.
        slices: of the rows, likewise.
    """

    over: int | None = None
    missing: int | None = None
    offset: int = 0
    skip: int | None = None
    blocks: int = FEW_BLOCKS
    slices: int = FEW_BLOCKS


PLAIN = Variation()

Key = tuple[str, int]
"""An argument of a recipe: ``input``, ``output``, ``work`` or ``skip``, and its position."""


class Taking:
    """A queue that keeps what it is given, unchecked."""

    def __init__(self) -> None:
        self.taken: list[Launch | Product] = []

    def launch(self, launch: Launch) -> None:
        self.taken.append(launch)

    def product(self, product: Product) -> None:
        self.taken.append(product)


@contextlib.contextmanager
def few_blocks(most: int = FEW_BLOCKS, slices: int = FEW_BLOCKS) -> Iterator[None]:
    """Recipes launch no more than ``most`` blocks along a loop, and few slices of rows."""
    limits = (
        (launching, "MAX_BLOCKS", most),
        (geometry, "MAX_BLOCKS", most),
        (normalisation, "SLICES", slices),
    )
    with contextlib.ExitStack() as stack:
        for limit in limits:
            stack.enter_context(mock.patch.object(*limit))
        yield


def operator_trial(sample: Sample, storage: str, variation: Variation = PLAIN) -> Trial:
    """A sample of an operator, whose floating arrays have the dtype of ``storage``."""
    sample = rounded_to(sample, storage)
    arithmetic = arithmetic_arguments(sample) if storage in ("float16", "bfloat16") else set()
    arrays = place(sample, storage, arithmetic, variation)
    queue = Recording()
    record(sample, arrays, variation, queue)
    launches = [in_storage(item, storage) for item in queue.taken]
    return trial_of(sample, arrays, variation, launches)


def rounded_to(sample: Sample, storage: str) -> Sample:
    """The sample with floating inputs that the storage type can hold, and kernels do not flush."""
    inputs = zip(sample.signature.inputs, sample.inputs, strict=True)
    held = (_held(a, storage) if g.kind == "float" else a for g, a in inputs)
    return replace(sample, inputs=tuple(held))


def _held(values: Array, storage: str) -> Array:
    values = decode(encode(values, np.uint16)) if storage == "bfloat16" else values
    if values.dtype != np.float32:
        return values
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def arguments_of(sample: Sample) -> dict[Key, sig.Argument]:
    """The declarations of all arrays that the recipe takes."""
    workspace = sig.parse_arguments(recipes()[sample.op.name].workspace)
    groups = {"input": sample.signature.inputs, "output": sample.signature.outputs}
    return {
        (group, at): argument
        for group, found in {**groups, "work": workspace}.items()
        for at, argument in enumerate(found)
    }


def arithmetic_arguments(sample: Sample) -> set[Key]:
    """Arrays that the kernels take in the arithmetic type, whatever the storage type."""
    arrays = place(sample, "float32", set(), PLAIN)
    queue = Taking()
    record(sample, arrays, PLAIN, queue)
    addresses = {
        argument.data.ptr
        for launch in queue.taken
        if isinstance(launch, Launch)
        for parameter, argument in parameters_of(launch)
        if parameter.pointer and parameter.type == "A" and argument is not None
    }
    return {key for key, array in arrays.items() if array.data.ptr in addresses}


def parameters_of(launch: Launch) -> Iterator[tuple[sources.Parameter, Any]]:
    """The kernel's parameters, and what they are given."""
    parameters = sources.signatures(launch.module)[launch.kernel].parameters
    return zip(parameters, launch.arguments, strict=True)


def in_storage(item: Launch | Product, storage: str) -> Launch | Product:
    """A launch of a kernel without floating arrays in the module that is tested."""
    if isinstance(item, Product) or any(p.type == "T" for p, _ in parameters_of(item)):
        return item
    return item._replace(storage=storage)


def place(
    sample: Sample, storage: str, arithmetic: set[Key], variation: Variation
) -> dict[Key, DeviceArray]:
    """Arrays for a sample: inputs with their values, the others poisoned."""
    dims = sample.signature.solve([a.shape for a in sample.inputs], sample.params)
    wide = "float64" if storage == "float64" else "float32"
    arrays: dict[Key, DeviceArray] = {}
    for key, argument in arguments_of(sample).items():
        dtype = argument.dtype(np.dtype(wide if key in arithmetic else DTYPES[storage]))
        offset = variation.offset if argument.kind == "float" else 0
        if key[0] == "input":
            arrays[key] = device(encode(sample.inputs[key[1]], dtype), offset)
        else:
            arrays[key] = poisoned(sig.shape_of(argument, dims), dtype, offset)
    if variation.over is not None:
        arrays["output", 0] = arrays["input", variation.over]
    if variation.skip is not None:
        arrays["skip", 0] = device(np.array(variation.skip, np.int64))
    return arrays


def record(
    sample: Sample, arrays: Mapping[Key, DeviceArray], variation: Variation, queue: Any
) -> None:
    """Have the operator's recipe launch on ``arrays``."""
    groups: dict[str, list[Any]] = {"input": [], "output": [], "work": [], "skip": []}
    for (group, _), array in arrays.items():
        groups[group].append(array)
    if variation.missing is not None:
        groups["output"][variation.missing] = None
    keywords = dict(sample.params)
    if groups["output"]:
        outs = groups["output"]
        keywords["out"] = outs[0] if len(outs) == 1 else tuple(outs)
    if groups["work"]:
        keywords["work"] = tuple(groups["work"])
    if groups["skip"]:
        (keywords["skip"],) = groups["skip"]
    with few_blocks(variation.blocks, variation.slices):
        recipes()[sample.op.name].function(queue, *groups["input"], **keywords)


def trial_of(
    sample: Sample,
    arrays: Mapping[Key, DeviceArray],
    variation: Variation,
    launches: Sequence[Launch | Product],
) -> Trial:
    """The launches with the reference's results, or with none where they are to be skipped."""
    updated = [("input", at) for at in sample.updated]
    written = [key for key in arrays if key[0] == "output"] + updated
    scratch = [array for key, array in arrays.items() if key[0] == "work"]
    read = [key for key in arrays if key[0] in ("input", "skip") and key not in written]
    if variation.over is not None:
        read.remove(("input", variation.over))
    if variation.skip:
        return Trial(launches, [], [arrays[key] for key in (*read, *written)], scratch)
    names = sample.op.result_names(sample.signature)
    expected = [np.asarray(r, np.float64) for r in oracle(sample)]
    results = [
        Result(
            name, arrays[key], e, bound_of(sample, expected, at, arrays[key].dtype), key in updated
        )
        for at, (name, key, e) in enumerate(zip(names, written, expected, strict=True))
        if at != variation.missing
    ]
    if variation.over is not None:
        results[0] = results[0]._replace(updated=True)
    unwanted = [] if variation.missing is None else [arrays["output", variation.missing]]
    return Trial(launches, results, [arrays[key] for key in read] + unwanted, scratch)


def bound_of(sample: Sample, expected: Sequence[Array], at: int, dtype: np.dtype[Any]) -> Array:
    """Largest error of a result in ``dtype``, by the catalogue."""
    half = dtype == np.uint16
    floating = np.dtype("float32") if half else dtype if dtype.kind == "f" else sample.floating
    params, inputs = oracle_params(sample.params), widened(sample.inputs)
    with np.errstate(all="ignore"):
        bounds = sample.op.error.bound(tuple(expected), inputs, params, floating)
    bound = np.broadcast_to(bounds[at], expected[at].shape)
    return bound * BFLOAT16_EPS if half else bound


# --- products between launches --------------------------------------------------------------------


def multiply(product: Product) -> None:
    """What cuBLAS would do, without an epilogue."""
    assert product.epilogue is None, "a recipe on its own asks for no epilogue"
    a, b = decode(product.a), decode(product.b)
    a, b = (a.T if product.transpose_a else a), (b.T if product.transpose_b else b)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    product.out[...] = encode(exact, product.out.dtype)
