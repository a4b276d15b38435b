"""Rung 7: every attribute of CuPy that the backend uses exists, with these parameters.

In the installed wheel, in that for the other CUDA, and in the simulated namespace; and what is
simulated is nowhere more than what CuPy has.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ladder import contract
from ladder.contract import Use, read_signature, uses_in
from ladder.needs import require, require_nvrtc

import nnkernels.backends.cupy
from nnkernels.backends.cupy.probe import is_installed
from nnkernels.testing import simulated
from nnkernels.testing.simulated.arrays import Flags, MemoryPointer
from nnkernels.testing.simulated.kernels import RawKernel

BACKEND = Path(nnkernels.backends.cupy.__file__).parent
WHEELS = ("cupy-cuda12x", "cupy-cuda13x")

OURS = {
    "": {"log", "statistics", "cublaslt", "cubins", "machine", "plant", "heal"},
    "ndarray": {"machine", "layout", "over", "zeroed"},
    "RawModule": {"machine", "store"},
    "cuda.Device": {"machine", "of"},
    "cuda.Stream": {"machine"},
    "cuda.Event": {"machine", "awaited_by", "until"},
    "cuda.Graph": {"machine", "of"},
    "cuda.PinnedMemoryPointer": {"__getitem__", "__setitem__"},
}
"""What the simulated namespace and its classes have that CuPy has not."""

FOUND_ONLY = {"RawKernel", "cuda.MemoryPointer", "cuda.PinnedMemoryPointer", "_core.flags.Flags"}
"""Classes whose objects nobody but CuPy makes; how, is its own affair."""

SPECIAL = ("__getitem__", "__setitem__", "__dlpack__", "__dlpack_device__", "__call__")
"""Methods with underscores that are compared too, where a class has its own."""


@functools.cache
def uses() -> tuple[Use, ...]:
    """What the backend uses."""
    return tuple(contract.uses_below(BACKEND))


@functools.cache
def simulated_parts() -> Mapping[str, Any]:
    """Everything that is simulated, by its path."""
    cp = simulated.cupy()
    holders = {
        "": cp,
        "cuda": cp.cuda,
        "cuda.runtime": cp.cuda.runtime,
        "cuda.driver": cp.cuda.driver,
        "cuda.memory": cp.cuda.memory,
        "cuda.nvrtc": cp.cuda.nvrtc,
        "_core.core": cp._core.core,
        "ndarray": cp.ndarray,
        "RawModule": cp.RawModule,
        "RawKernel": RawKernel,
        "cuda.Device": cp.cuda.Device,
        "cuda.Stream": cp.cuda.Stream,
        "cuda.Event": cp.cuda.Event,
        "cuda.Graph": cp.cuda.Graph,
        "cuda.MemoryPointer": MemoryPointer,
        "cuda.PinnedMemoryPointer": type(cp.cuda.alloc_pinned_memory(8)),
        "_core.flags.Flags": Flags,
    }
    parts = {}
    for path, holder in holders.items():
        for name in dir(holder):
            if name in OURS.get(path, ()) or (name.startswith("_") and name not in SPECIAL):
                continue
            parts[f"{path}.{name}".lstrip(".")] = getattr(holder, name)
    made = holders.keys() - FOUND_ONLY - {""}
    return parts | {path: holders[path] for path in made}


@functools.cache
def simulated_texts() -> Mapping[str, str]:
    """Signatures of everything that is simulated, by path."""
    return {path: contract.described(part) for path, part in simulated_parts().items()}


@pytest.fixture(scope="module", params=WHEELS)
def wheel(request) -> Mapping[str, str | None]:
    """What a wheel, installed or not, has at all paths that are used or simulated."""
    require_nvrtc()
    folder = None
    if not is_installed(request.param):
        import cupy

        folder = contract.unpacked_wheel(request.param, cupy.__version__)
        require(folder, f"wheel of {request.param}, and no way to download it")
    paths = {use.path for use in uses()} | set(simulated_texts())
    known = contract.describe(paths, folder)
    assert folder is None or str(known["__file__"]).startswith(f"{folder}/")
    return known


def test_all_that_the_backend_uses_is_in_the_wheel(wheel):
    assert contract.broken_uses(uses(), wheel) == []


def test_all_that_is_simulated_is_in_the_wheel_with_the_same_parameters(wheel):
    assert contract.differences(simulated_texts(), wheel) == []


def test_all_that_the_backend_uses_is_simulated():
    require_nvrtc()
    known = {use.path: simulated_texts().get(use.path) for use in uses()}
    cp = simulated.cupy()
    for path, text in known.items():
        if text is None:
            known[path] = _of_an_instance(cp, path)
    assert contract.broken_uses(uses(), known) == []


def _of_an_instance(cp, path):
    """What only an instance has, and what the namespace holds besides its parts."""
    instances = {
        "cuda.Stream": cp.cuda.Stream.null,
        "cuda.Device": cp.cuda.Device(0),
        "cuda.MemoryPointer": cp.zeros((1,)).data,
        "ndarray": cp.zeros((1,)),
        "cuda.Event": cp.cuda.Event(),
    }
    holder, _, name = path.rpartition(".")
    found = instances.get(holder, cp)
    for each in (name,) if holder in instances else path.split("."):
        if not hasattr(found, each):
            return None
        found = getattr(found, each)
    return contract.described(found)


def test_the_reader_finds_what_is_known_to_be_used():
    found = {use.path: use for use in uses()}
    assert found["matmul"].keywords == ("out",) and found["matmul"].partial
    assert found["cuda.nvrtc.compileProgram"].positional == 2
    assert found["cuda.runtime.getDeviceProperties"].positional == 1
    assert found["RawModule"].keywords
    assert {"ndarray", "asarray", "from_dlpack", "cuda.memory.OutOfMemoryError"} <= set(found)
    assert {"cuda.Stream.ptr", "cuda.Stream.synchronize", "cuda.Device.compute_capability"} <= set(
        found
    )


# --- planted faults ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu.cp.cuda.get_curent_stream()", "1: cuda.get_curent_stream does not exist"),
        ("self._cp.cuda.nvrtc.getCubin(program)", "cuda.nvrtc.getCubin does not exist"),
        ("runtime = cp.cuda.runtime\nruntime.getDevices()", "2: cuda.runtime.getDevices does not"),
        ("def f():\n    s = cp.cuda.Stream()\n    s.finish()", "3: cuda.Stream.finish does not"),
        ("cp.zeros((3,)).gett()", "ndarray.gett does not exist"),
        ("cp.cuda.Stream(nonblocking=True)", "cuda.Stream has no parameter 'nonblocking'"),
        ("functools.partial(cp.matmul, a, b, to=c)", "matmul has no parameter 'to'"),
        ("cp.RawModule(source=code)", "RawModule has no parameter 'source'"),
        ("cp.zeros((3,)).get(None, 'C', None, True, 1)", "ndarray.get takes 4 arguments, gets 5"),
        ("cp.cuda.nvrtc.createProgram(source, name)", "createProgram misses .*headers"),
        ("nvrtc.getPTX()", "cuda.nvrtc.getPTX misses .'prog'"),
        (
            "def f(self):\n    self._s.finish()\ndef g(self):\n    self._s = cp.cuda.Stream()",
            "2: cuda.Stream.finish does not",
        ),
        ("with cp.cuda.Device(0) as d:\n    d.id + d.number", "2: cuda.Device.number does not"),
    ],
)
def test_a_wrong_use_is_reported(text, says):
    require_nvrtc()
    wrong = uses_in(text, "planted.py")
    reported = contract.broken_uses(wrong, contract.describe(use.path for use in wrong))
    assert len(reported) == 1
    assert re.search(says, reported[0]), reported


def test_what_is_simulated_and_is_not_in_cupy_is_reported():
    real = {"f": "f(a, b=1, *, c=None)", "g": None, "h": "h(*args, out=None)"}
    assert contract.differences({"f": "(a, b)"}, real) == []
    assert contract.differences({"f": "(a, *, c=None)"}, real) == []
    assert contract.differences({"h": "(x, y, /, out=None)"}, real) == []
    for wrong, says in (
        ({"g": "()"}, "g does not exist"),
        ({"f": "(b, a)"}, "takes ('a', 'b') by position"),
        ({"f": "(a, *, d=None)"}, "has no parameters ['d']"),
    ):
        (reported,) = contract.differences(wrong, real)
        assert says in reported


@pytest.mark.parametrize(
    ("text", "positional", "required", "named"),
    [
        ("(a, b=1, *, c='x, y')", "a b", "a", "a b c"),
        ("f(intptr_t dst, size_t size, int kind=(1, 2)) -> int", "dst size kind", "dst size", ""),
        ("C.get(self, stream=None, order='C')\n\nDoes it.", "stream order", "", ""),
        ("f(str code=None, *, str path=None, tuple options=())", "code", "", "code path options"),
        ("(shape: '_Shape', dtype: 'T' = <class 'float'>) -> 'A[Any]'", "shape dtype", "shape", ""),
        ("(x, y, /, out=None)", "x y out", "x y", "out"),
        ("Words first.\n\nf(self, \\*, shared_mem=0)", "", "", "shared_mem"),
    ],
)
def test_signatures_are_read(text, positional, required, named):
    signature = read_signature(text)
    assert signature.positional == tuple(positional.split())
    assert signature.required == tuple(required.split())
    assert signature.named == tuple((named or positional).split())


def test_no_signature_is_none():
    assert read_signature("Makes something.") is None
    signature = read_signature("(*args, **kwargs)")
    assert signature.any_positional and signature.any_named
