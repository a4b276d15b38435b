"""Inputs for any operator, drawn from nothing but its declaration.

Floating values are signed with magnitudes log-uniform from 1e-6 to 1e2 (normal samples miss
clipped tails), or lie in the argument's interval where the signature gives one. The inputs of a
derivative come from its forward operator, so that saved values are ones that can occur.
"""

from __future__ import annotations

import inspect
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.errors import ShapeError
from nnkernels.spec import OPERATORS, REQUIRED, Array, Op
from nnkernels.testing.precision import oracle_backend

MAGNITUDES = (-6.0, 2.0)
"""Decimal exponents between which the magnitudes of floating samples lie."""

ROWS = (33, 1, 7, 32, 7)
COLUMNS = (10, 31, 1, 33, 128)
WHOLE = ((1,), (2, 3, 5), (129, 511), (33, 31), (7, 10))
BLOCKS = ((), (2, 3), (33,), (32,), (7,))
"""Free dimensions (``...``) by shape plan: as a whole shape, or in front of other dimensions."""


@dataclass(frozen=True)
class Sample:
    """Inputs of one call, as NumPy arrays, with what they were drawn for.

    ``inputs`` are in the operator's order; floating ones have dtype ``floating``.
    """

    op: Op[Any, Any]
    signature: sig.Signature
    params: Mapping[str, Any]
    inputs: tuple[Array, ...]
    floating: np.dtype[Any]

    def __str__(self) -> str:
        shapes = ", ".join(str(a.shape) for a in self.inputs)
        given = [f"{k}={v!r}" for k, v in self.params.items() if v != self.op.params[k]]
        return " ".join([shapes, *given])

    @property
    def updated(self) -> tuple[int, ...]:
        """Positions of the inputs that the operator updates in place."""
        return tuple(self.op.inputs.index(name) for name in self.op.updates)

    def result_specs(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of every output."""
        dims = self.signature.solve([a.shape for a in self.inputs], self.params)
        return [(sig.shape_of(a, dims), a.dtype(self.floating)) for a in self.signature.outputs]


def generator(*key: object) -> np.random.Generator:
    """A generator seeded by ``key``: the same samples in every run."""
    return np.random.default_rng([zlib.crc32(str(k).encode()) for k in key])


# --- parameters --------------------------------------------------------------------------------


def parameter_sets(op: Op[Any, Any], dtype: np.dtype[Any]) -> list[dict[str, Any]]:
    """Defaults; every combination of flags and choices; another value for each number."""
    base = {name: _base_value(op, name, default, dtype) for name, default in op.params.items()}
    choices = {name: found for name in base if (found := _choices(op, name, base[name]))}
    sets = [dict(zip(choices, c, strict=True)) for c in itertools.product(*choices.values())]
    numbers = [name for name in base if _is_number(op, name)]
    sets += [{name: _inside(op, name, 0.35)} for name in numbers]
    unique: list[dict[str, Any]] = []
    for params in ({**base, **s} for s in sets):
        if params not in unique:
            unique.append(params)
    return unique


def _base_value(op: Op[Any, Any], name: str, default: Any, dtype: np.dtype[Any]) -> Any:
    if name == "dtype":
        return dtype.name
    if default is not REQUIRED:
        return default
    limit = op.limits.get(name)
    return limit[0] if isinstance(limit, tuple) else _inside(op, name, 0.7)


def _choices(op: Op[Any, Any], name: str, base: Any) -> list[Any]:
    limit = op.limits.get(name)
    if isinstance(limit, tuple):
        return [base, *(c for c in limit if c != base)]
    if isinstance(base, bool):
        return [base, not base]
    if f"${name}" in op.covers:
        return [base, *(n for n in activations() if n != base)]
    return []


def activations(*, by_rows: bool = False) -> list[str]:
    """Differentiable operators of one array, by elements; with ``by_rows`` those by rows too.

    None with a required parameter, and none that updates.
    """
    return [
        op.name
        for op in OPERATORS.values()
        if (op.derivative is not None and len(op.inputs) == 1 and not op.updates)
        and REQUIRED not in op.params.values()
        and _maps(op.signatures(op.params)[0], by_rows=by_rows)
    ]


def _maps(signature: sig.Signature, *, by_rows: bool) -> bool:
    local = signature.rowwise if by_rows else signature.elementwise
    return local and len(signature.outputs) == 1


def _is_number(op: Op[Any, Any], name: str) -> bool:
    return isinstance(op.limits.get(name), str)


def _inside(op: Op[Any, Any], name: str, fraction: float) -> float | int:
    """A value inside the parameter's interval (without one: above 0); whole for integers."""
    limit = op.limits.get(name, "[0,inf)")
    assert isinstance(limit, str)
    low, high = sig.parse_interval(limit).bounds({})
    low = max(low, 0.0) if high > 0 else low
    parameter = inspect.signature(op.reference).parameters[name]
    if parameter.annotation in ("int", int):
        return int(low) + round(10 * fraction)
    return low + fraction * (min(high, low + 1) - low)


# --- sizes -------------------------------------------------------------------------------------


def labels(signature: sig.Signature) -> list[str]:
    """Names of the free dimensions of the inputs, in order, without ``...``."""
    found = [d.rstrip("+") for a in signature.inputs for d in a.dims if d != "..."]
    return [d for d in dict.fromkeys(found) if not d.isdigit()]


def size_plans(signature: sig.Signature, params: Mapping[str, Any]) -> list[sig.Dims]:
    """Five choices of sizes with ragged tails; labels that are parameters keep their value."""
    fixed = {k: v for k, v in params.items() if type(v) is int}
    plans = []
    for plan in range(len(ROWS)):
        dims: sig.Dims = {"...": (BLOCKS if labels(signature) else WHOLE)[plan]}
        for position, label in enumerate(labels(signature)):
            column = COLUMNS[(plan + position) % len(COLUMNS)]
            dims[label] = ROWS[plan] if position == 0 and not _variadic(signature) else column
        plans.append({**dims, **fixed})
    return plans


def _variadic(signature: sig.Signature) -> bool:
    return any(a.variadic for a in signature.inputs)


def single_plan(signature: sig.Signature, params: Mapping[str, Any], rank: int) -> sig.Dims:
    """One element in ``rank`` free dimensions."""
    fixed = {k: v for k, v in params.items() if type(v) is int}
    return {"...": (1,) * rank, **dict.fromkeys(labels(signature), 1), **fixed}


def empty_plans(signature: sig.Signature, params: Mapping[str, Any]) -> list[sig.Dims]:
    """No element along one dimension, or along all, wherever the signature allows it."""
    fixed = {k: v for k, v in params.items() if type(v) is int}
    required = {d[:-1] for a in signature.inputs for d in a.dims if d.endswith("+")}
    free = [d for d in labels(signature) if d not in required and d not in fixed]
    sets = [[d] for d in free] + ([free] if len(free) > 1 else [])
    plans = [{"...": (3,), **_five(signature), **dict.fromkeys(s, 0), **fixed} for s in sets]
    if _variadic(signature):
        plans.append({"...": (0, 5), **_five(signature), **fixed})
    return plans


def _five(signature: sig.Signature) -> dict[str, int]:
    return dict.fromkeys(labels(signature), 5)


# --- values ------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, argument: sig.Argument, dims: sig.Dims) -> Array:
    """Values of one argument, floating ones in float64."""
    shape = sig.shape_of(argument, dims)
    interval = argument.interval
    if argument.kind == "mask":
        return rng.random(shape) < 0.5
    bounds = interval.bounds(dims) if interval else None
    if argument.kind in ("int", "counter"):
        low, high = bounds or (0, 100)
        low = low if np.isfinite(low) else -100
        return rng.integers(int(low), int(min(high, low + 100)), shape, dtype=np.int64)
    if argument.kind == "scalar" and bounds:
        bounds = max(bounds[0], 1e-3), min(bounds[1], 1.0)
    values = _floats(rng, shape, bounds)
    return values / values.sum(-1, keepdims=True) if is_distribution(argument) else values


def is_distribution(argument: sig.Argument) -> bool:
    """Whether the rows are probabilities: two dimensions of floats in [0,1]."""
    return (
        argument.kind == "float" and len(argument.dims) == 2 and str(argument.interval) == "[0,1]"
    )


def _floats(
    rng: np.random.Generator, shape: tuple[int, ...], bounds: tuple[float, float] | None
) -> Array:
    magnitudes = 10 ** rng.uniform(*MAGNITUDES, shape)
    if bounds is None or bounds == (-np.inf, np.inf):
        return np.asarray(magnitudes * rng.choice([-1.0, 1.0], shape))
    low, high = bounds
    if np.isfinite(low) and np.isfinite(high):
        # Strictly inside: rounding to float32 must not leave an open interval.
        return np.asarray(low + (high - low) * rng.uniform(1e-4, 1 - 1e-4, shape))
    return np.asarray(low + magnitudes if np.isfinite(low) else high - magnitudes)


def rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    """A floating ``array`` in ``dtype``; another kind unchanged."""
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _round_inputs(
    signature: sig.Signature, inputs: Sequence[Array], dtype: np.dtype[Any]
) -> tuple[Array, ...]:
    """What the operator is given: its floating dtype, scalars in float64."""
    pairs = zip(signature.inputs, inputs, strict=True)
    return tuple(np.asarray(a).astype(argument.dtype(dtype)) for argument, a in pairs)


def widened(inputs: Sequence[Array]) -> tuple[Array, ...]:
    """Floating inputs in float64: what the oracle is given."""
    return tuple(rounded(a, np.dtype("float64")) for a in inputs)


# --- samples -----------------------------------------------------------------------------------


def make(
    op: Op[Any, Any],
    signature: sig.Signature,
    params: Mapping[str, Any],
    dims: sig.Dims,
    dtype: np.dtype[Any],
) -> Sample | None:
    """One sample for given sizes; None where labels below 0 would be needed."""
    rng = generator(op.name, dtype, sorted(dims.items()), sorted(params.items(), key=str))
    if any(_impossible(a, dims) for a in signature.inputs):
        return None
    inputs = [draw(rng, a, dims) for a in signature.inputs]
    return Sample(op, signature, params, _round_inputs(signature, inputs, dtype), dtype)


def _impossible(argument: sig.Argument, dims: sig.Dims) -> bool:
    if argument.interval is None or argument.kind != "int":
        return False
    low, high = argument.interval.bounds(dims)
    return low >= high and sig.size(sig.shape_of(argument, dims)) > 0


def forward_of(op: Op[Any, Any]) -> Op[Any, Any] | None:
    """The operator whose derivative ``op`` is."""
    return next((f for f in OPERATORS.values() if f.derivative is op), None)


def derive(op: Op[Any, Any], params: Mapping[str, Any], forward: Sample) -> Sample:
    """A sample of the derivative ``op`` from one of its forward operator."""
    named = saved_values(forward)
    shape = forward.result_specs()[0][0]
    rng = generator(op.name, forward)
    inputs = [_floats(rng, shape, None), *(named[name] for name in op.inputs[1:])]
    dtypes = [forward.floating if a.dtype.kind == "f" else a.dtype for a in inputs]
    arrays = tuple(a.astype(d) for a, d in zip(inputs, dtypes, strict=True))
    signature = fitting(op, arrays, params)
    return Sample(op, signature, params, arrays, forward.floating)


def flushed(sample: Sample) -> Sample:
    """The sample with 0 in the place of subnormal numbers, for backends that read them as 0."""
    return replace(sample, inputs=tuple(_normal(a) for a in sample.inputs))


def _normal(array: Array) -> Array:
    if array.dtype != np.float32:
        return array
    return np.where(np.abs(array) < np.finfo(np.float32).tiny, np.float32(0), array)


def saved_values(sample: Sample) -> dict[str, Array]:
    """Inputs and outputs of an operator by name, evaluated in float64."""
    op = sample.op
    results = oracle(sample)
    names = op.result_names(sample.signature)
    return {
        **dict(zip(op.inputs, sample.inputs, strict=True)),
        **dict(zip(names, results, strict=True)),
    }


def fitting(op: Op[Any, Any], arrays: Sequence[Array], params: Mapping[str, Any]) -> sig.Signature:
    """The signature alternative that takes ``arrays``."""
    for signature in op.signatures(params):
        kinds = [a.kind in ("float", "scalar") for a in signature.inputs]
        if kinds != [a.dtype.kind == "f" for a in arrays]:
            continue
        try:
            signature.solve([a.shape for a in arrays], params)
        except sig.Mismatch:
            continue
        return signature
    shapes = [(a.shape, str(a.dtype)) for a in arrays]
    raise ShapeError(f"{op.name}: no alternative of its signature takes {shapes}")


def oracle(sample: Sample, precision: str = "fp32") -> tuple[Array, ...]:
    """The reference's results in float64 on the sample's inputs, products in ``precision``."""
    op, params, backend = sample.op, oracle_params(sample.params), oracle_backend(precision)
    with np.errstate(all="ignore"):
        if backend.resolve(op.name, params).why == "own":
            return op.evaluate(*widened(sample.inputs), **params)
        results = op.on(backend, *widened(sample.inputs), **params)
    return results if isinstance(results, tuple) else (results,)


def oracle_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` for the oracle: a ``dtype`` among them becomes float64."""
    return {k: "float64" if k == "dtype" else v for k, v in params.items()}


def samples(
    op: Op[Any, Any],
    dtype: np.dtype[Any],
    *,
    plans: str = "all",
    params: Sequence[Mapping[str, Any]] | None = None,
) -> Iterator[Sample]:
    """Samples of ``op``: for all parameters and signature alternatives, sizes by ``plans``.

    ``plans`` is ``"all"``, ``"two"``, ``"small"``, ``"single"`` (one element) or ``"empty"``.
    """
    forward = forward_of(op)
    for chosen in parameter_sets(op, dtype):
        if forward is None:
            yield from _direct(op, dtype, chosen, plans)
        else:
            known = parameter_sets(forward, dtype)[0]
            shared = {**known, **{k: v for k, v in chosen.items() if k in known}}
            for sample in _direct(forward, dtype, shared, plans):
                yield derive(op, chosen, sample)


def _direct(
    op: Op[Any, Any], dtype: np.dtype[Any], params: Mapping[str, Any], plans: str
) -> Iterator[Sample]:
    for signature in op.signatures(params):
        for dims in _plans(signature, params, plans):
            sample = make(op, signature, params, dims, dtype)
            if sample is not None:
                yield sample


def _plans(signature: sig.Signature, params: Mapping[str, Any], plans: str) -> list[sig.Dims]:
    if plans == "empty":
        return empty_plans(signature, params)
    if plans == "single":
        return [
            single_plan(signature, params, rank)
            for rank in ((0, 2) if _variadic(signature) else (0,))
        ]
    every = size_plans(signature, params)
    return {"all": every, "two": every[-2:], "small": every[-1:]}[plans]
