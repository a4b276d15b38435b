"""One workload for every operator of the catalogue, forward and backward, from its declaration.

Inputs are normal, or uniform in the interval that the signature gives: never zeros, which some
kernels and all power meters like too much, and never denormal. The inputs of a derivative come
from its forward operator, so that saved values are ones that can occur.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import nnkernels

from .poison import legible, poison
from .queued import Queued, Timed, TravellingCall, time_calls
from .workload import GATE, MAIN, Agreement, Case, Cost, Preset, Runner, rate_of

Sizes = Mapping[str, Any]

_DEFAULT = {"b": 128, "m": 256, "k": 256, "n": 256, "c": 100, "d": 784, "s": 64, "...": (512, 512)}
_LARGE = {
    "b": 512,
    "m": 1024,
    "k": 1024,
    "n": 1024,
    "c": 1000,
    "d": 784,
    "s": 64,
    "...": (2048, 2048),
}
SIZES: Mapping[Preset, tuple[Sizes, ...]] = {
    "quick": ({"b": 32, "m": 32, "k": 64, "n": 48, "c": 10, "d": 20, "s": 8, "...": (32, 64)},),
    "default": (_DEFAULT,),
    "thorough": (_DEFAULT, _LARGE),
}
"""Sizes of the signatures' dimensions by label; ``...`` is a shape where it stands alone."""

REQUIRED: Mapping[str, Any] = {"classes": 10, "rows": 128}
"""Values of parameters that have no default."""

MAIN_OPERATORS = ("matmul", "linear_backward", "relu", "sigmoid", "softmax_cross_entropy", "adam")

GATE_OPERATORS = (
    "matmul",
    "linear_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_cross_entropy",
    "batch_norm",
    "dropout",
    "adam",
)
"""At the default sizes a call takes some 50 to 1000 us on one CPU: enough to be told apart, short
enough to be called often."""

VECTOR_MATRIX: Mapping[Preset, Sizes] = {
    "quick": {"m": 1, "k": 640, "n": 500},
    "default": {"m": 1, "k": 6400, "n": 5000},
    "thorough": {"m": 1, "k": 6400, "n": 5000},
}
"""The product with which a textbook compares NumPy, a CPU and a GPU: Ayyadevara and Reddy, Modern
Computer Vision with PyTorch, 2nd ed., ch. 2; in float32 for tensors, float64 for NumPy."""


def cases(preset: Preset) -> list[Case]:
    """Every operator of ``nnkernels.ops`` at the sizes of ``preset``; a textbook's product."""
    found = {case.id: case for op in catalogue() for case in _cases_of(op, preset)}
    return [*found.values(), *_vector_matrix(preset)]


def catalogue() -> list[Any]:
    """The operators of the catalogue, each followed by its derivative."""
    operators = [value for _, value in sorted(vars(nnkernels.ops).items()) if _is_operator(value)]
    return list(dict.fromkeys(operators))


def _is_operator(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("reference", "signatures", "derivative"))


@functools.cache
def _forward(op: Any) -> Any:
    """The operator whose derivative ``op`` is; None when it is none."""
    return next((f for f in catalogue() if f.derivative is op), None)


def _cases_of(op: Any, preset: Preset) -> Iterator[Case]:
    yield from (case_of(op, sizes) for sizes in SIZES[preset])


def case_of(op: Any, sizes: Sizes) -> Case:
    """An operator with dimensions of these sizes."""
    params = {name: REQUIRED.get(name, default) for name, default in op.params.items()}
    return _case(op, op.name, params, _dims(op, params, sizes), "float32", _tags(op))


def _vector_matrix(preset: Preset) -> list[Case]:
    op = nnkernels.ops.matmul
    dims, tags = VECTOR_MATRIX[preset], ("operator", "linear", "forward", "textbook")
    return [
        _case(op, "vector_matrix", dict(op.params), dims, dtype, tags)
        for dtype in ("float32", "float64")
    ]


def _case(
    op: Any,
    workload: str,
    params: Mapping[str, Any],
    dims: Sizes,
    dtype: str,
    tags: tuple[str, ...],
) -> Case:
    kind = np.dtype(dtype)
    cost = _cost(op, params, dims, kind)
    return Case(
        workload=workload,
        size="x".join(str(n) for n in _flat(dims)) or "1",
        params={f"dim{i}" if k == "..." else k: n for i, (k, n) in enumerate(_pairs(dims))},
        dtype=dtype,
        tags=tags,
        cost=cost,
        rate=rate_of(cost),
        make=functools.partial(OperatorProblem, op, params, dims, kind),
    )


def labels(op: Any) -> frozenset[str]:
    """The dimensions of an operator that have a size to choose; ``...`` is any shape."""
    params = {name: REQUIRED.get(name, default) for name, default in op.params.items()}
    return frozenset(_dims(op, params, SIZES["default"][0]))


def _tags(op: Any) -> tuple[str, ...]:
    family = op.__module__.rpartition(".")[2]
    direction = "backward" if _forward(op) is not None else "forward"
    main = (MAIN,) if op.name in MAIN_OPERATORS else ()
    gate = (GATE,) if op.name in GATE_OPERATORS else ()
    return ("operator", family, direction, *main, *gate)


# --- sizes and costs ---------------------------------------------------------------------------


def _dims(op: Any, params: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Sizes of the labels in the inputs, those of the forward operator first.

    A label that is a parameter takes its value.
    """
    forward = _forward(op) or op
    signatures = forward.signatures(_shared(forward, params))[0], op.signatures(params)[0]
    wanted = [label.rstrip("+") for s in signatures for a in s.inputs for label in a.dims]
    labels = [label for label in dict.fromkeys(wanted) if not label.isdigit()]
    dims = {label: params.get(label, sizes.get(label, sizes["n"])) for label in labels}
    if "..." in dims and len(dims) > 1:
        dims["..."] = (sizes["b"],)
    return dims


def _pairs(dims: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for label, size in dims.items():
        yield from ((label, n) for n in (size if isinstance(size, tuple) else (size,)))


def _flat(dims: Mapping[str, Any]) -> list[int]:
    return [size for _, size in _pairs(dims)]


def _cost(op: Any, params: Mapping[str, Any], dims: Sizes, dtype: np.dtype[Any]) -> Cost:
    signature = op.signatures(params)[0]
    known = {**params, **dims}
    traffic = [(signature.shape(a, known), a) for a in (*signature.inputs, *signature.outputs)]
    updated = [signature.inputs[op.inputs.index(name)] for name in op.updates]
    traffic += [(signature.shape(a, known), a) for a in updated]
    nbytes = sum(math.prod(s) * a.dtype(dtype).itemsize for s, a in traffic)
    result = [*signature.outputs, *updated][0]
    items = math.prod(signature.shape(result, known))
    return Cost(float(op.flops(known, items)), float(nbytes), items)


# --- inputs ------------------------------------------------------------------------------------


def draw_inputs(
    op: Any, params: Mapping[str, Any], dims: Sizes, dtype: np.dtype[Any]
) -> tuple[Any, ...]:
    """Arrays for one call of ``op``: the same ones every time."""
    rng = np.random.default_rng(zlib.crc32(f"{op.name} {sorted(_pairs(dims))}".encode()))
    signature = op.signatures(params)[0]
    forward = _forward(op)
    if forward is None:
        drawn = [_draw(rng, signature, a, {**params, **dims}) for a in signature.inputs]
    else:
        drawn = _draw_saved(rng, op, forward, params, dims)
    pairs = zip(drawn, signature.inputs, strict=True)
    return tuple(np.ascontiguousarray(x, a.dtype(dtype)).reshape(x.shape) for x, a in pairs)


def _draw_saved(
    rng: np.random.Generator, op: Any, forward: Any, params: Mapping[str, Any], dims: Sizes
) -> list[Any]:
    """``grad`` and what the forward operator saves for ``op``."""
    shared = _shared(forward, params)
    signature = forward.signatures(shared)[0]
    inputs = [_draw(rng, signature, a, {**shared, **dims}) for a in signature.inputs]
    results = forward.evaluate(*inputs, **_wide(shared))
    named = dict(zip(forward.inputs, inputs, strict=True))
    named |= zip(forward.result_names(signature), results, strict=True)
    return [rng.standard_normal(results[0].shape), *(named[name] for name in op.inputs[1:])]


def _shared(forward: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """The forward operator's parameters, those that its derivative has too taken from there."""
    return {name: params.get(name, REQUIRED.get(name, d)) for name, d in forward.params.items()}


def _draw(rng: np.random.Generator, signature: Any, argument: Any, dims: Sizes) -> Any:
    shape = signature.shape(argument, dims)
    low, high = argument.interval.bounds(dims) if argument.interval else (-math.inf, math.inf)
    if argument.kind == "mask":
        return rng.random(shape) < 0.5
    if argument.kind in ("int", "counter"):
        first = int(max(low, 0))
        return np.asarray(rng.integers(first, int(min(high, first + 100)), shape))
    if argument.kind == "scalar":
        return np.asarray(max(low, 0) + rng.uniform(0.001, 0.002, shape))
    if math.isfinite(low) and math.isfinite(high):
        return np.asarray(low + (high - low) * rng.uniform(0.01, 0.99, shape))
    normal = rng.standard_normal(shape)
    return np.asarray(low + np.abs(normal) if math.isfinite(low) else normal)


def _wide(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for the float64 reference."""
    return {k: "float64" if k == "dtype" else v for k, v in params.items()}


# --- problem and runner ------------------------------------------------------------------------


class OperatorProblem:
    """Inputs of one operator, what must come out, and how far off it may be."""

    def __init__(
        self, op: Any, params: Mapping[str, Any], dims: Sizes, dtype: np.dtype[Any]
    ) -> None:
        self.op, self.params, self.dtype = op, params, dtype
        self.inputs = draw_inputs(op, params, dims, dtype)
        signature, known = op.signatures(params)[0], {**params, **dims}
        self.outputs = [(signature.shape(a, known), a.dtype(dtype)) for a in signature.outputs]

    @functools.cached_property
    def reference(self) -> tuple[Any, Any]:
        """The float64 results, and how far off each element may be."""
        op, params = self.op, self.params
        wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in self.inputs]
        with np.errstate(all="ignore"):
            expected = op.evaluate(*wide, **_wide(params))
            return expected, op.error.bound(expected, tuple(wide), params, self.dtype)

    def runner(self, backend: Any) -> Runner:
        """The operator, bound on ``backend``."""
        return OperatorRunner(self, backend)

    def baseline(self, name: str) -> Runner:
        """Operators have no baselines."""
        raise KeyError(name)

    def agreement(self, found: Sequence[Any]) -> Agreement:
        """Compare every output within the operator's own error bound."""
        return compare(self, found)


class OperatorRunner:
    """A bound call on arrays of the backend's device."""

    checked = 1

    def __init__(self, problem: OperatorProblem, backend: Any) -> None:
        self._problem, self._backend = problem, backend
        op = problem.op
        self._arrays = [backend.asarray(x.copy()) for x in problem.inputs]
        self._updated = [op.inputs.index(name) for name in op.updates]
        self._outs = [backend.device.empty(*spec) for spec in problem.outputs]
        out = {"out": self._outs[0] if len(self._outs) == 1 else tuple(self._outs)}
        if not self._outs:
            out = {}
        self._call = nnkernels.bind(op, *self._arrays, backend=backend, **out, **problem.params)
        self.note = _fallback_note(backend, op, problem.params)
        self._queue = getattr(backend.device, "queue", None)
        self.queued = Queued(self._time, self._travelling) if self._queue else None

    def reset(self) -> None:
        """Put back what is updated in place; fill the outputs with what must not remain."""
        for at in self._updated:
            self._arrays[at][...] = self._backend.asarray(self._problem.inputs[at])
        for out in self._outs:
            out[...] = self._backend.asarray(poison(out.shape, np.dtype(out.dtype)))

    def run(self, loops: int) -> None:
        """Call the kernel ``loops`` times, and wait for the end of each."""
        call, wait = self._call, self._backend.device.synchronize
        with np.errstate(all="ignore"):
            if self._queue is None:
                for _ in itertools.repeat(None, loops):
                    call()
            else:
                for _ in itertools.repeat(None, loops):
                    call()
                    wait()

    def _time(self, loops: int, cold: bool) -> Timed:
        return time_calls(self._queue, self._call, loops, cold)

    def _travelling(self) -> Runner:
        inputs = list(zip(self._problem.inputs, self._arrays, strict=True))
        return TravellingCall(self._backend, self._call, inputs, self._results)

    def outputs(self) -> list[Any]:
        """Outputs, then what was updated in place."""
        return [legible(self._backend.to_numpy(r)) for r in self._results]

    @property
    def _results(self) -> list[Any]:
        return [*self._outs, *(self._arrays[at] for at in self._updated)]


def _fallback_note(backend: Any, op: Any, params: Mapping[str, Any]) -> str | None:
    resolution = backend.resolve(op.name, params)
    owner = resolution.kernel.owner if resolution.kernel else ""
    return f"served by {owner}" if resolution.why == "fallback" else None


def compare(problem: OperatorProblem, found: Sequence[Any]) -> Agreement:
    """Largest error as a multiple of the bound's scale; the limit is the bound itself."""
    limit = problem.op.error.c * float(np.finfo(problem.dtype).eps)
    worst = 0.0
    for got, expected, bound in zip(found, *problem.reference, strict=True):
        excess = _excess(got, expected, np.broadcast_to(bound, expected.shape))
        worst = max(worst, float(excess.max(initial=0.0)))
    if math.isinf(worst):
        return Agreement(False, None, limit, _describe(problem, found))
    error = worst * limit if limit else worst
    ok = worst <= (1.0 if limit else 0.0)
    return Agreement(ok, error, limit, None if ok else _describe(problem, found))


def _excess(got: Any, expected: Any, bound: Any) -> Any:
    """Error over bound, elementwise; over a bound of 0 the error itself; NaN is infinite."""
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - expected.astype(np.float64))
        ratio = error / np.where(bound > 0, bound, 1.0)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))


def _describe(problem: OperatorProblem, found: Sequence[Any]) -> str:
    """Where the results first leave the bound."""
    rows = zip(found, *problem.reference, strict=True)
    for number, (got, expected, bound) in enumerate(rows):
        allowed = 1.0 if problem.op.error.c else 0.0
        excess = _excess(got, expected, np.broadcast_to(bound, expected.shape))
        bad = np.argwhere(~(excess <= allowed))
        if len(bad):
            at = tuple(int(i) for i in bad[0])
            return (
                f"{problem.op.name}: result {number}{list(at)} is {got[at]}, the reference gives "
                f"{expected[at]:.9g}; {len(bad)} of {got.size} elements are off"
            )
    return f"{problem.op.name}: results differ from the reference"
