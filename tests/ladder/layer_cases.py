"""Cases of what layers are fused to: a bias and an activation, a derivative and sums."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ladder.arrays import decode, device, encode, poisoned
from ladder.cases import Case, draw
from ladder.trials import DTYPES, Result, Trial, bound_of, few_blocks, rounded_to

from nnkernels.backends.cupy.kernels import linear
from nnkernels.backends.cupy.launching import Recording
from nnkernels.spec import Array, get_op
from nnkernels.testing.samples import Sample, generator, oracle

SHAPES = ((19, 33), (260, 64))
"""One for the scalar variant, in one slice of the rows, and one for vectors and several slices."""


def layer_cases() -> Iterator[Case]:
    """All activations on both shapes."""
    for shape in SHAPES:
        rows, columns = shape
        for activation, params in _activations(linear.WITH_BIAS):
            build = functools.partial(bias_trial, activation, params, shape)
            yield Case(f"{activation} {params} {rows}x{columns}", "bias_activation", build)
        for activation, params in _activations(linear.WITH_SUMS):
            build = functools.partial(derivative_trial, activation, params, shape)
            yield Case(f"{activation} {params} {rows}x{columns}", "derivative and sums", build)


def _activations(names: frozenset[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in sorted(names):
        yield name, {}
        if name == "gelu":
            yield name, {"approximate": "tanh"}


def wide(storage: str) -> str:
    """The arithmetic type."""
    return "float64" if storage == "float64" else "float32"


def bias_trial(
    activation: str, params: Mapping[str, Any], shape: tuple[int, int], storage: str
) -> Trial:
    """``y = f(x + b)`` and ``z = x + b``."""
    draws, dtype = generator("bias_activation", activation, shape), DTYPES[storage]
    x = device(encode(draws.standard_normal(shape) * 3, dtype))
    bias = device(encode(draws.standard_normal(shape[1]), dtype))
    y, z = poisoned(shape, dtype), poisoned(shape, dtype)
    queue = Recording()
    with few_blocks():
        linear.bias_activation(queue, activation, x, bias, y, z, **params)
    total = decode(x).astype(wide(storage)) + decode(bias).astype(wide(storage))
    op = get_op(activation)
    signature, full = op.signatures(op.params)[0], op.full_params(params)
    sample = Sample(op, signature, full, (total,), total.dtype)
    (expected,) = oracle(sample)
    exact = total.astype(np.float64)
    rounding = np.abs(exact) * float(np.finfo(np.float16).eps) * 8 * (dtype in HALVES)
    results = [
        Result("y", y, expected, bound_of(sample, [expected], 0, y.dtype)),
        Result("z", z, exact, rounding),
    ]
    return Trial(queue.taken, results, [x, bias])


HALVES = ("float16", "uint16")


def derivative_trial(
    activation: str, params: Mapping[str, Any], shape: tuple[int, int], storage: str
) -> Trial:
    """The derivative over its own gradient, and its column sums."""
    name, dtype = f"{activation}_backward", DTYPES[storage]
    op = get_op(name)
    full = op.full_params(params)
    (sample,) = draw(name, storage, full, lambda *_: {"...": shape}, lambda sample: sample)
    sample = rounded_to(sample, storage)
    grad, saved = (device(encode(a, dtype)) for a in sample.inputs)
    sums = poisoned((shape[1],), dtype)
    partial = poisoned((linear.SLICES, shape[1]), wide(storage))
    queue = Recording()
    with few_blocks():
        linear.activation_backward_bias_grad(
            queue, activation, grad, saved, grad, sums, partial, **params
        )
    (expected,) = oracle(sample)
    bound = bound_of(sample, [expected], 0, grad.dtype)
    results = [
        Result("out", grad, expected, bound, updated=True),
        Result("sums", sums, expected.sum(0), sum_bound(expected, bound)),
    ]
    return Trial(queue.taken, results, [saved], [partial])


def sum_bound(terms: Array, bound: Array) -> Array:
    """The largest error of column sums whose terms have errors too."""
    return bound.sum(0) + len(terms) * 2.0**-23 * np.abs(terms).sum(0)
