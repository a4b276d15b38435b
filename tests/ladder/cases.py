"""The cases that the host shim, the PTX interpreter and the mutants share.

They are drawn from the catalogue: every operator that has a recipe, on sizes that fill no warp,
block, tile or vector evenly, with all its parameters and special values. What launches kernels
without being an operator has its cases in :mod:`ladder.layer_cases` and :mod:`ladder.step_cases`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ladder.trials import FEW_BLOCKS, PLAIN, Trial, Variation, operator_trial

from nnkernels import signature as sig
from nnkernels.backends.cupy import recipes
from nnkernels.backends.cupy.launching import BLOCK, MAX_BLOCKS
from nnkernels.catalog import philox
from nnkernels.spec import Op, get_op
from nnkernels.testing.samples import (
    Sample,
    derive,
    empty_plans,
    forward_of,
    labels,
    make,
    parameter_sets,
)

WHOLE = ((67,), (1,), (1061,), (4120,))
"""Shapes for elementwise operators: a ragged tail, loops over the grid, and one for vectors."""

COLUMN = (600, 1)

MATRICES = (
    (7, 33),
    (19, 10),
    (3, 31),
    (33, 32),
    (5, 128),
    (6, 1),
    (3, 129),
    (258, 3),
    COLUMN,
    (260, 64),
    (3, 1024),
    (9, 1000),
)
"""Rows and columns: below, at and above a warp; what a warp keeps, and more; several sweeps."""

EXTRA: Mapping[str, tuple[dict[str, Any], ...]] = {
    "one_hot": ({"classes": 1}, {"classes": 33}, {"classes": 300}),
}
"""Further parameters, for sizes that come from one."""


PRODUCTS = ("linear", "linear_activation")
"""Operators that keep a product in an output before they go on."""

LONG = (300, 1000)

MANY_SHARES: Mapping[str, tuple[int, int]] = {
    "mse": LONG,
    "l2_penalty": LONG,
    "clip_by_global_norm": LONG,
    "count_correct": (2100, 1),
}
"""Operators whose second launch adds up more shares than it has threads, and a shape for that."""

LONG_SUMS = ("mse", "l2_penalty")
"""Operators that a thread's long sums are tried on: they are the same for all."""


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        name: says what it is.
        operator: which operator, or what else launches the kernels.
        build: makes its trial for a storage type.
    """

    name: str
    operator: str
    build: Callable[[str], Trial]

    def __str__(self) -> str:
        return f"{self.operator}: {self.name}"


def floating_dtype(storage: str) -> np.dtype[Any]:
    """The dtype in which samples are drawn for a storage type."""
    return np.dtype("float32" if storage == "bfloat16" else storage)


# --- samples ------------------------------------------------------------------------------------


def dims_of(signature: sig.Signature, params: Mapping[str, Any]) -> list[sig.Dims]:
    """Choices of sizes, the first one small."""
    names = labels(signature)
    if not names:
        return [{"...": shape} for shape in WHOLE]
    if any(a.variadic for a in signature.inputs):
        return [{"...": (rows,), **dict.fromkeys(names, columns)} for rows, columns in MATRICES]
    fixed = {k: v for k, v in params.items() if type(v) is int}
    plans = ((rows, columns, 2 * rows + 1) for rows, columns in MATRICES)
    return [{"...": (), **dict(zip(names, plan, strict=False)), **fixed} for plan in plans]


Plan = Callable[[sig.Signature, Mapping[str, Any]], sig.Dims | None]
"""Chooses sizes; None where there are none to choose."""


def sized(which: int) -> Plan:
    """Number ``which`` of the sizes, counted from the end if it is negative."""

    def plan(signature: sig.Signature, params: Mapping[str, Any]) -> sig.Dims:
        return dims_of(signature, params)[which]

    return plan


def emptied(which: int) -> Plan:
    """Number ``which`` of the sizes without elements."""

    def plan(signature: sig.Signature, params: Mapping[str, Any]) -> sig.Dims | None:
        plans = empty_plans(signature, params)
        return plans[which] if which < len(plans) else None

    return plan


def shaped(shape: tuple[int, int]) -> Plan:
    """Rows and columns; the free dimensions are all of them, or rows before named columns."""

    def plan(signature: sig.Signature, params: Mapping[str, Any]) -> sig.Dims:
        names = labels(signature)
        if names and any(a.variadic for a in signature.inputs):
            return {"...": shape[:1], **dict.fromkeys(names, shape[1])}
        fixed = {k: v for k, v in params.items() if type(v) is int}
        plan = (*shape, 2 * shape[0] + 1)
        return {"...": shape, **dict(zip(names, plan, strict=False)), **fixed}

    return plan


Change = Callable[[Sample], Sample]


def draw(
    name: str, storage: str, params: Mapping[str, Any], plan: Plan, change: Change
) -> list[Sample]:
    """Samples of an operator, one for every alternative of its signature.

    ``plan`` chooses the sizes; ``change`` alters the sample, or its forward operator's.
    """
    op = get_op(name)
    forward = forward_of(op)
    source = forward or op
    known = {**parameter_sets(source, floating_dtype(storage))[0]}
    shared = {**known, **{k: v for k, v in params.items() if k in known}}
    found = []
    for signature in source.signatures(shared):
        dims = plan(signature, shared)
        sample = dims and make(source, signature, shared, dims, floating_dtype(storage))
        if sample:
            sample = change(sample)
            with np.errstate(over="ignore"):  # a saved value beyond float16 is infinite
                found.append(derive(op, params, sample) if forward else sample)
    return found


def shifted(sample: Sample) -> Sample:
    """Rows of a matrix moved far from 0 and stretched: what a missing maximum would not survive."""
    first = sample.signature.inputs[0]
    if first.kind != "float" or first.interval is not None or sample.inputs[0].ndim < 2:
        return sample
    x = sample.inputs[0].copy()
    for row, (factor, shift) in zip(x, ((1, 0), (1, -300), (1, 300), (20, 0)), strict=False):
        row[...] = row * factor + shift
    return replace(sample, inputs=(x, *sample.inputs[1:]))


def small(sample: Sample) -> Sample:
    """Floating inputs so small that float16 holds their products."""
    shrunk = (a * a.dtype.type(2.0**-5) if a.dtype.kind == "f" else a for a in sample.inputs)
    return replace(sample, inputs=tuple(shrunk))


def with_special_values(sample: Sample) -> Sample:
    """NaN and infinities in the first input, and in those of its shape that may be any number.

    Weights of infinite size are left out: formulas that are equal otherwise differ there.
    """
    inputs = [a.copy() for a in sample.inputs]
    for at, (argument, array) in enumerate(zip(sample.signature.inputs, inputs, strict=True)):
        alike = argument._replace(name="") == sample.signature.inputs[0]._replace(name="")
        if argument.kind == "float" and argument.interval is None and alike and array.size > 1:
            places = (np.array([0, 41, 66]) + 3 * at) % array.size
            array.flat[places] = [np.nan, np.inf, -np.inf]
    return replace(sample, inputs=tuple(inputs))


def with_ties(sample: Sample) -> Sample:
    """Zeros, kinks, and elements of the first input that the others of its shape have too."""
    inputs = [a.copy() for a in sample.inputs]
    first, kind = inputs[0], sample.signature.inputs[0]
    if kind.kind == "float" and kind.interval is None and first.size > 1:
        values = np.resize([0.0, 0.5, *sample.op.kinks], (first.size + 4) // 5)
        first.flat[::5] = values
    for argument, array in zip(sample.signature.inputs[1:], inputs[1:], strict=True):
        if argument._replace(name="") == kind._replace(name=""):
            array.flat[::3] = first.flat[::3]
    return replace(sample, inputs=tuple(inputs))


def with_long_sums(sample: Sample) -> Sample:
    """Large terms, then many for a thread whose squares are lost if they are added one by one."""
    x = np.full_like(sample.inputs[0], 2.0**-13)
    x.flat[: 8 * FEW_BLOCKS * BLOCK] = 1
    rest = [np.zeros_like(a) if a.shape == x.shape else a for a in sample.inputs[1:]]
    return replace(sample, inputs=(x, *rest))


def at_threshold(sample: Sample) -> Sample:
    """Dropout of such a share that one word of the stream is the threshold itself."""
    x, seed, step = sample.inputs
    words = philox.words(0, x.size, sample.params["layer"], int(step), int(seed))
    middle = int(np.sort(words)[x.size // 2])
    return replace(sample, params={**sample.params, "p": math.ldexp(middle, -32)})


# --- cases --------------------------------------------------------------------------------------


def _cases(
    name: str,
    label: str,
    params: Mapping[str, Any],
    plan: Plan,
    change: Change = shifted,
    variation: Variation = PLAIN,
) -> Iterator[Case]:
    """A case for every alternative of the operator's signature."""

    def build(number: int, storage: str) -> Trial:
        dtype = {"dtype": floating_dtype(storage).name} if "dtype" in params else {}
        samples = draw(name, storage, {**params, **dtype}, plan, change)
        return operator_trial(samples[number], storage, variation)

    for number in range(len(draw(name, "float32", params, plan, change))):
        yield Case(f"{label} #{number}", name, functools.partial(build, number))


def operator_cases(name: str) -> Iterator[Case]:
    """All cases of an operator."""
    op = get_op(name)
    default, *others = parameter_sets(op, np.dtype("float32"))
    change = small if name in PRODUCTS else shifted
    for which in range(len(MATRICES)):
        if which < _sizes(op, default):
            yield from _cases(name, f"size {which}", default, sized(which), change)
    for which in range(3):
        yield from _cases(name, f"empty {which}", default, emptied(which))
    for params in (*others, *({**default, **extra} for extra in EXTRA.get(name, ()))):
        given = " ".join(f"{k}={v}" for k, v in params.items() if v != default[k])
        yield from _cases(name, given, params, sized(0), change)
        if any(isinstance(params[k], str) and params[k] != default[k] for k in params):
            yield from _cases(name, f"{given} large", params, sized(-1), change)  # another kernel?
    yield from _variations(op, default)
    if name == "dropout":
        for which in (0, -1):  # by elements, and by vectors
            yield from _cases(name, f"threshold {which}", default, sized(which), at_threshold)
    if name in LONG_SUMS:
        yield from _cases(name, "long sums", default, shaped(LONG), with_long_sums)
    if name in MANY_SHARES:
        many = Variation(blocks=MAX_BLOCKS)
        plan = shaped(MANY_SHARES[name])
        yield from _cases(name, "many shares", default, plan, variation=many)


def _sizes(op: Op[Any, Any], params: Mapping[str, Any]) -> int:
    source = forward_of(op) or op
    return max(len(dims_of(s, params)) for s in source.signatures({**source.params, **params}))


def _variations(op: Op[Any, Any], params: Mapping[str, Any]) -> Iterator[Case]:
    plain = functools.partial(_cases, op.name, params=params)
    yield from plain("special values", plan=sized(0), change=with_special_values)
    yield from plain("ties", plan=sized(0), change=with_ties)
    yield from plain("ties in a column", plan=shaped(COLUMN), change=with_ties)
    yield from plain("misaligned", plan=sized(-1), variation=Variation(offset=1))
    first = op.signatures(params)[0]
    for at in _replaceable(op, first):
        yield from plain(f"over {op.inputs[at]}", plan=sized(-1), variation=Variation(over=at))
    several = len(first.outputs) > 1 or op.updates
    for missing in range(len(first.outputs)) if several else ():
        variation = Variation(missing=missing)
        yield from plain(f"without {missing}", plan=sized(0), variation=variation)
        yield from plain(f"without {missing} large", plan=sized(-1), variation=variation)
    if "skip" in inspect.signature(recipes()[op.name].function).parameters:
        for skip in (0, 1):
            yield from plain(f"skip={skip}", plan=sized(-1), variation=Variation(skip=skip))


def _replaceable(op: Op[Any, Any], signature: sig.Signature) -> Iterator[int]:
    """Inputs that the first output may be written over."""
    if signature.rowwise and signature.outputs:
        first = signature.outputs[0]
        for at, argument in enumerate(signature.inputs):
            same = (argument.dims, argument.kind) == (first.dims, first.kind)
            if same and op.inputs[at] not in op.updates:
                yield at


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case that both the host shim and the PTX interpreter can run."""
    from ladder.layer_cases import layer_cases
    from ladder.step_cases import step_cases

    operators = [case for name in recipes() for case in operator_cases(name)]
    return (*operators, *layer_cases(), *step_cases())


@functools.cache
def host_cases() -> tuple[Case, ...]:
    """Every case that the host shim can run."""
    from ladder.far_cases import far_cases

    return (*all_cases(), *far_cases())


Kernel = tuple[str, str]
"""The module and the name of a kernel."""


@functools.cache
def cases_by_kernel(storage: str, *, far: bool = False) -> Mapping[Kernel, tuple[Case, ...]]:
    """For every kernel that is launched for a storage type: its cases."""
    found: dict[Kernel, list[Case]] = {}
    for case in host_cases() if far else all_cases():
        for kernel in case.build(storage).kernels():
            found.setdefault(kernel, []).append(case)
    return {kernel: tuple(cases) for kernel, cases in found.items()}


def of_module(module: str, storage: str, *, far: bool = False) -> list[Case]:
    """The cases that launch a kernel of a module."""
    by_kernel = cases_by_kernel(storage, far=far)
    found = (cases for (name, _), cases in by_kernel.items() if name == module)
    return list(dict.fromkeys(case for cases in found for case in cases))


def few_of_module(module: str, storage: str) -> list[Case]:
    """For every kernel of a module its first and its last case."""
    found = (cases for (name, _), cases in cases_by_kernel(storage).items() if name == module)
    return list(dict.fromkeys(case for cases in found for case in (cases[0], cases[-1])))


def modules_of(chosen: Iterable[Case], storage: str) -> set[str]:
    """The modules that cases need."""
    wanted, by_kernel = set(chosen), cases_by_kernel(storage, far=True)
    return {name for (name, _), found in by_kernel.items() if wanted & set(found)}
