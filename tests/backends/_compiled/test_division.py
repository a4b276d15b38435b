"""Every kernel gives the same bits however its items are divided among threads."""

import array
import itertools

import numpy as np
import pytest

from nnkernels import plugins
from nnkernels import signature as sig
from nnkernels.backends._compiled.declare import CompiledKernel
from nnkernels.spec import get_op
from nnkernels.testing.samples import derive, forward_of, make, parameter_sets, samples

OPERATORS = sorted(
    name
    for name, entry in plugins.load("numba").kernels.items()
    if isinstance(entry.function, CompiledKernel)
)
VARIANTS = ["avx512", "avx2", "baseline"]


@pytest.fixture(scope="session", params=["numba", *(f"native-{name}" for name in VARIANTS)])
def kernels(request):
    """Compiled kernels by operator, of a backend and an instruction set."""
    name, _, variant = request.param.partition("-")
    if variant:
        backend = request.getfixturevalue("native_on")(variant)
    else:
        backend = request.getfixturevalue(name)
    found = {op: entry.function for op, entry in backend.kernels.items()}
    return {op: kernel for op, kernel in found.items() if isinstance(kernel, CompiledKernel)}


def test_every_operator_is_compiled(kernels):
    assert sorted(kernels) == OPERATORS


def whole(items):
    return [(0, items)]


def uneven(items):
    """Pieces of 1, 2, 5, 17, 40 and 97 items in turn: whole registers, parts of them, both."""
    edges = np.cumsum([0, *np.resize([1, 5, 97, 2, 40, 17], items)])
    edges = [*edges[edges < items].tolist(), items]
    return list(itertools.pairwise(edges))[::-1]


def results(kernel, sample, divide):
    """Bits of everything that the kernel writes, where its items are divided so."""
    inputs = [np.array(a) for a in sample.inputs]
    outs = [np.full(shape, 77, dtype) for shape, dtype in sample.result_specs()]
    dims = sample.signature.solve([a.shape for a in inputs], sample.params)
    scratch = [
        np.full(sig.shape_of(a, dims), 55, a.dtype(sample.floating))
        for a in sig.parse_arguments(kernel.workspace)
    ]
    names = kernel.names(sample.params, inputs)
    arrays = dict(zip(names, [*inputs, *outs, *scratch], strict=True))
    addresses = {name: a.ctypes.data for name, a in arrays.items()}
    dtypes = [a.dtype.name for a in inputs]
    for step in kernel.steps([a.shape for a in inputs], dtypes, sample.params, [True] * len(outs)):
        record = array.array("q", step.fill(addresses))
        for first, last in divide(step.items) if step.items else ():
            step.entry.call(record.buffer_info()[0], first, last)
    updated = [inputs[at] for at in sample.updated]
    return [a.tobytes() for a in (*outs, *updated)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPERATORS)
def test_division_of_the_items_changes_no_bit(name, dtype, kernels):
    for sample in samples(get_op(name), np.dtype(dtype)):
        expected = results(kernels[name], sample, whole)
        assert results(kernels[name], sample, uneven) == expected, str(sample)


LARGE = {
    "batch_norm": {"b": 70, "n": 700},
    "batch_norm_backward": {"b": 70, "n": 700},
    "layer_norm_backward": {"...": (70,), "c": 700},
    "dropout": {"...": (9, 1000)},
    "clip_by_global_norm": {"...": (300_001,)},
    "l1_penalty": {"...": (300_001,)},
    "l2_penalty": {"...": (300_001,)},
}
"""Sizes beyond the panels, chunks and blocks that these kernels work in."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LARGE)
def test_division_changes_no_bit_of_large_arrays(name, dtype, kernels):
    op, kind = get_op(name), np.dtype(dtype)
    params = parameter_sets(op, kind)[0]
    source = forward_of(op) or op
    sample = make(source, source.signatures(params)[0], params, LARGE[name], kind)
    if source is not op:
        sample = derive(op, params, sample)
    expected = results(kernels[name], sample, whole)
    assert results(kernels[name], sample, uneven) == expected
