"""Calls every kernel of the native backend on arrays beside pages that nobody may touch.

    python tests/backends/native/fuzz.py --seconds 600

Shapes, parameters, values, wanted outputs and the division of the items are random. Every array
ends where a forbidden page begins, or begins where one ends; what a kernel may only read lies in
read-only pages. A kernel that steps beyond an array, or writes to an input, ends the process by
SIGSEGV: then ``--trace FILE`` names the call. The results must have the bits of one whole call on
ordinary arrays, but for the sign of a NaN, which depends on the order of a sum's two operands.
"""

from __future__ import annotations

import argparse
import array
import ctypes
import faulthandler
import itertools
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from nnkernels import plugins
from nnkernels import signature as sig
from nnkernels.backends._compiled.declare import CompiledKernel
from nnkernels.backends.native import choice
from nnkernels.spec import get_op
from nnkernels.testing.samples import Sample, derive, forward_of, labels, make, parameter_sets

PAGE = mmap.PAGESIZE
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE
EXAMPLES = 200
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, -3e38])

C = ctypes.CDLL(None, use_errno=True)
C.mmap.restype = ctypes.c_void_p
C.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
C.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
C.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guarded:
    """An array between two forbidden pages, touching one of them."""

    def __init__(self, values: np.ndarray, at_end: bool, writable: bool) -> None:
        room = -(-max(values.nbytes, 1) // PAGE) * PAGE
        self._length = room + 2 * PAGE
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._base = C.mmap(None, self._length, 0, private, -1, 0)
        assert self._base != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
        self._protect(self._base + PAGE, room, READ | WRITE)
        self.address = self._base + PAGE + (room - values.nbytes if at_end else 0)
        self._bytes = (ctypes.c_char * values.nbytes).from_address(self.address)
        ctypes.memmove(self.address, values.tobytes(), values.nbytes)
        if not writable:
            self._protect(self._base + PAGE, room, READ)

    @staticmethod
    def _protect(address: int, length: int, how: int) -> None:
        assert C.mprotect(address, length, how) == 0, os.strerror(ctypes.get_errno())

    def tobytes(self) -> bytes:
        return bytes(self._bytes)

    def free(self) -> None:
        assert C.munmap(self._base, self._length) == 0


class Case(NamedTuple):
    """One call.

    Attributes:
        name: of the operator.
        sample: its inputs.
        wanted: of its outputs.
        code: of products.
        cuts: where items are divided, as shares of them.
        at_end: whether arrays touch the page behind them, or the one before.
    """

    name: str
    sample: Sample
    wanted: list[bool]
    code: str
    cuts: list[float]
    at_end: bool

    def __str__(self) -> str:
        return (
            f"{self.name} {self.sample} {self.sample.floating} wanted={self.wanted} "
            f"code={self.code} cuts={self.cuts} at_end={self.at_end}"
        )


def kernels() -> dict[str, CompiledKernel]:
    found = {name: entry.function for name, entry in plugins.load("native").kernels.items()}
    return {n: k for n, k in found.items() if isinstance(k, CompiledKernel)}


KERNELS = kernels()
SIZES = st.one_of(
    st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 129, 255, 256, 257, 513])
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(KERNELS)))
    op, dtype = get_op(name), np.dtype(draw(st.sampled_from(["float32", "float64"])))
    params = draw(st.sampled_from(parameter_sets(op, dtype)))
    forward = forward_of(op)
    source, known = op, params
    if forward is not None:
        base = parameter_sets(forward, dtype)[0]
        source, known = forward, {**base, **{k: v for k, v in params.items() if k in base}}
    signature = draw(st.sampled_from(source.signatures(known)))
    fixed = {k: v for k, v in known.items() if type(v) is int}
    dims: dict[str, Any] = {label: draw(SIZES) for label in labels(signature)}
    free = draw(st.lists(SIZES, max_size=2 if dims else 3))
    while np.prod([*free, *dims.values()]) > 1 << 20:
        free = free[1:]
        dims = {label: size // 2 or 1 for label, size in dims.items()}
    sample = make(source, signature, known, {"...": tuple(free), **dims, **fixed}, dtype)
    if sample is None:  # labels of no class
        sample = make(
            source, signature, known, {"...": (), **dict.fromkeys(dims, 2), **fixed}, dtype
        )
    assert sample is not None
    if source is not op:
        sample = derive(op, params, sample)
    if draw(st.integers(0, 3)) == 0:
        spoil(sample, draw(st.integers(0, 99)))
    outputs = len(sample.result_specs())
    wanted = draw(st.lists(st.booleans(), min_size=outputs, max_size=outputs))
    return Case(
        name,
        sample,
        wanted if any(wanted) else [True] * outputs,
        draw(st.sampled_from(["own", "packed", "blas"])),
        sorted(draw(st.lists(st.floats(0, 1), max_size=5))),
        draw(st.booleans()),
    )


def spoil(sample: Sample, number: int) -> None:
    """Put numbers that are not finite, or extreme, into the float inputs."""
    rng = np.random.default_rng(number)
    for values, argument in zip(sample.inputs, sample.signature.inputs, strict=True):
        if argument.kind == "float" and values.size:
            with np.errstate(over="ignore"):
                special = rng.choice(SPECIAL, values.shape).astype(values.dtype)
            np.copyto(values, special, where=rng.random(values.shape) < 0.1)


def divided(items: int, cuts: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Pieces of the items, in no order of size, the last ones first."""
    edges = sorted({0, items, *(round(cut * items) for cut in cuts)})
    return reversed(list(itertools.pairwise(edges)))


def bits_of(raw: bytes, dtype: np.dtype[Any]) -> bytes:
    """The same, all NaN alike."""
    values = np.frombuffer(raw, dtype)
    if dtype.kind != "f":
        return raw
    return np.where(np.isnan(values), dtype.type(np.nan), values).tobytes()


def results(case: Case, guarded: bool) -> list[bytes]:
    """Bits of what the kernel writes: whole on ordinary arrays, or in pieces on guarded ones."""
    kernel, sample = KERNELS[case.name], case.sample
    specs = sample.result_specs()
    dims = sample.signature.solve([a.shape for a in sample.inputs], sample.params)
    scratch = sig.parse_arguments(kernel.workspace)
    plain = [
        *(np.array(a) for a in sample.inputs),
        *(np.full(shape, 77, dtype) for shape, dtype in specs),
        *(np.full(sig.shape_of(a, dims), 55, a.dtype(sample.floating)) for a in scratch),
    ]
    inputs = len(sample.inputs)
    writable = [n >= inputs or n in sample.updated for n in range(len(plain))]
    arrays: list[Any] = list(plain)
    if guarded:
        arrays = [Guarded(a, case.at_end, w) for a, w in zip(plain, writable, strict=True)]
    places = [a.address if guarded else a.ctypes.data for a in arrays]
    for number, want in enumerate(case.wanted):
        if not want:
            places[inputs + number] = 0
    names = kernel.names(sample.params, plain[:inputs])
    addresses = dict(zip(names, places, strict=True))
    shapes, dtypes = zip(*((a.shape, a.dtype.name) for a in plain[:inputs]), strict=True)
    for step in kernel.steps(shapes, dtypes, sample.params, case.wanted):
        cells = step.fill(addresses)
        record: Any = array.array("q", cells)
        kept = Guarded(np.array(cells, np.int64), True, False) if guarded else None
        at = kept.address if kept else record.buffer_info()[0]
        for first, last in divided(step.items, case.cuts if guarded else ()):
            step.entry.call(at, first, last)
        if kept:
            kept.free()
    bits = [
        bits_of(a.tobytes(), plain[n].dtype)
        for n, a in enumerate(arrays)
        if n in sample.updated or (inputs <= n < inputs + len(specs) and places[n])
    ]
    if guarded:
        for each in arrays:
            each.free()
    return bits


def check(case: Case, trace: Path) -> None:
    trace.write_text(str(case))
    original = choice.choose
    choice.choose = lambda *_: case.code  # type: ignore[assignment]
    try:
        if case.code == "blas":  # which promises no bits
            results(case, guarded=True)
        else:
            assert results(case, guarded=True) == results(case, guarded=False)
    finally:
        choice.choose = original


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", type=Path, default=Path(os.devnull))
    options = parser.parse_args()
    faulthandler.enable()
    end, calls = time.monotonic() + options.seconds, 0
    for number in itertools.count(options.seed):

        @seed(number)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases())
        def batch(case: Case) -> None:
            nonlocal calls
            if time.monotonic() < end:
                calls += 1
                check(case, options.trace)

        batch()
        if time.monotonic() >= end:
            break
    print(f"{calls} calls of {len(KERNELS)} operators: nothing found")


if __name__ == "__main__":
    main()
