"""Simulated devices, and kernels that are compiled once for all tests."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pytest

from nnkernels.testing import simulated

SCALE = """
extern "C" __global__ void __launch_bounds__(64) scale(float* x, float factor, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= factor;
}
extern "C" __global__ void copy(const float* x, float* y, double unused, long long n) {
  const long long i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i];
}
"""


@pytest.fixture(scope="session")
def ptx_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ptx")


@pytest.fixture
def make(ptx_folder):
    """Makes namespaces."""
    return functools.partial(simulated.cupy, folder=ptx_folder)


@pytest.fixture
def cp(make):
    return make()


@pytest.fixture(scope="session")
def nvrtc():
    """Skips where the real NVRTC is not installed."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("no NVRTC: install nnkernels[ladder]")


@pytest.fixture(scope="session")
def source():
    """The source of the kernels ``scale`` and ``copy``."""
    return SCALE


@pytest.fixture
def scale(cp, nvrtc):
    """The kernel ``scale`` on ``cp``."""
    return cp.RawModule(code=SCALE).get_function("scale")


@pytest.fixture
def compile_to(nvrtc):
    """Compiles the kernels into a file, as the backend does it."""

    def compile_to(compiler, path, *options):
        program = compiler.createProgram(SCALE, "scale.cu", (), ())
        compiler.compileProgram(program, options)
        cubin = path.suffix == ".cubin"
        path.write_bytes(compiler.getCUBIN(program) + b"\0" if cubin else compiler.getPTX(program))
        compiler.destroyProgram(program)
        return path

    return compile_to


@pytest.fixture
def cubin(cp, compile_to, tmp_path):
    """A file of machine code of both kernels, for compute capability 9.0."""
    return compile_to(cp.cuda.nvrtc, tmp_path / "scale.cubin", "-arch=sm_90")


@pytest.fixture
def doubled():
    """``doubled(cp, path)``: what ``scale`` from a file makes of 0 to 99."""

    def doubled(cp, path):
        x = cp.asarray(np.arange(100, dtype=np.float32))
        scale = cp.RawModule(path=str(path)).get_function("scale")
        scale((2,), (64,), (x, np.float32(2), np.uint32(100)))
        return x.get()

    return doubled
