"""Modules and kernels: compiled by the real NVRTC, run by the interpreter."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from nnkernels.testing import simulated
from nnkernels.testing.ptx import Fault
from nnkernels.testing.simulated.errors import CUDADriverError, CUDARuntimeError

X = np.arange(100, dtype=np.float32)
ARGUMENTS = (np.float32(2), np.uint32(100))


def test_a_kernel_runs_when_it_is_waited_for(cp, scale):
    x = cp.asarray(X)
    cp.log.reset()
    scale((2,), (64,), (x, *ARGUMENTS))
    assert cp.log.names("launch") == ["scale"] and cp.log.launches == 1
    np.testing.assert_array_equal(x.get(), 2 * X)
    scale((2, 1), (64, 1, 1), (x, *ARGUMENTS), shared_mem=0, stream=cp.cuda.Stream.null)
    np.testing.assert_array_equal(x.get(), 4 * X)


def test_a_kernel_is_captured_into_a_graph(cp, scale):
    x, stream = cp.asarray(X), cp.cuda.Stream()
    stream.synchronize()
    with stream:
        stream.begin_capture()
        scale((2,), (64,), (x, *ARGUMENTS))
        graph = stream.end_capture()
        for _ in range(3):
            graph.launch()
    np.testing.assert_array_equal(x.get(), 8 * X)
    assert cp.log.launches == 0 and cp.log.names("launch", captured=True) == ["scale"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((2.0, np.uint32(100)), "number 1 .float. has 8 bytes, the kernel reads 4"),
        ((np.float64(2), np.uint32(100)), "number 1 .float64. has 8 bytes"),
        ((np.float32(2), 100), "number 2 .int. has 8 bytes"),
        ((np.float32(2), True), "number 2 .bool. has 1 bytes"),
        ((np.float32(2),), "got 2, the kernel takes 3"),
    ],
)
def test_what_the_driver_would_misread_is_a_fault(cp, scale, arguments, says):
    with pytest.raises(Fault, match=says):
        scale((2,), (64,), (cp.asarray(X), *arguments))


def test_arguments_are_handed_over_like_cupy_does(cp, nvrtc, source):
    """A pointer from an array, numbers by their own bytes, None as a null pointer."""
    copy = cp.RawModule(code=source).get_function("copy")
    x, y = cp.asarray(X), cp.zeros((100,), np.float32)
    copy((1,), (128,), (x[50:], y, 1.0, 50))
    np.testing.assert_array_equal(y.get()[:50], X[50:])
    copy((1,), (128,), (None, y, np.array(1.0), np.int64(0)))
    copy((1,), (128,), (None, y, 1.0, 1))
    with pytest.raises(Fault, match="out of bounds"):
        y.get()
    with pytest.raises(TypeError, match="ndarray of shape"):
        copy((1,), (128,), (X, y, 1.0, 1))
    with pytest.raises(TypeError, match="Unsupported type"):
        copy((1,), (128,), ("x", y, 1.0, 1))


def test_a_launch_that_cannot_be(cp, scale):
    x = cp.asarray(X)
    for grid, block in (((1,), (65,)), ((1, 65536), (64,)), ((2**31,), (64,)), ((1,), (1, 1, 65))):
        with pytest.raises(CUDADriverError, match="INVALID_VALUE"):
            scale(grid, block, (x, *ARGUMENTS))
    with pytest.raises(TypeError, match="tuples"):
        scale([1], (64,), (x, *ARGUMENTS))
    scale((0,), (64,), (x, *ARGUMENTS))  # CuPy makes one block of none
    np.testing.assert_array_equal(x.get()[:64], 2 * X[:64])


def test_a_launch_on_another_device(make, nvrtc, source):
    cp = make(devices=2)
    scale = cp.RawModule(code=source).get_function("scale")
    x, stream = cp.asarray(X), cp.cuda.Stream()
    with cp.cuda.Device(1):
        with pytest.raises(Fault, match="lies on device 0"):
            scale((2,), (64,), (x, *ARGUMENTS))
        with pytest.raises(CUDARuntimeError, match="InvalidResourceHandle"):
            scale((2,), (64,), (cp.asarray(X), *ARGUMENTS), stream=stream)


def test_a_kernels_fault_is_the_interpreters(cp, scale):
    x = cp.zeros((99,), np.float32)
    scale((2,), (64,), (x, *ARGUMENTS))
    with pytest.raises(Fault, match=r"scale.*out of bounds"):
        x.get()


def test_statistics_are_kept_where_they_are_asked_for(make, nvrtc, source):
    for counted in (True, False):
        cp = make(counted=counted)
        x = cp.asarray(X)
        scale = cp.RawModule(code=source).get_function("scale")
        for _ in range(2):
            scale((2,), (64,), (x, *ARGUMENTS))
        cp.cuda.Device().synchronize()
        assert (cp.statistics["scale"].launches, cp.statistics["scale"].loads.requests) == (
            (2, 8) if counted else (0, 0)
        )


def test_approximate_instructions_err_where_that_is_asked_for(make, nvrtc):
    code = 'extern "C" __global__ void f(float* x) { x[threadIdx.x] = __expf(x[threadIdx.x]); }'
    results = []
    for options in ({}, {"noise": 1}, {"noise": 1, "order": 5}):
        cp = make(**options)
        x = cp.asarray(np.linspace(0, 1, 64, dtype=np.float32))
        cp.RawModule(code=code).get_function("f")((1,), (64,), (x,))
        results.append(x.get())
    plain, noisy, again = results
    assert (plain != noisy).any() and np.allclose(plain, noisy, rtol=1e-6)
    np.testing.assert_array_equal(noisy, again)


def test_a_module_that_cannot_be_made(cp, nvrtc, source):
    import cupy

    with pytest.raises(TypeError, match="Exactly one"):
        cp.RawModule()
    with pytest.raises(TypeError, match="Exactly one"):
        cp.RawModule(code="", path="x")
    with pytest.raises(TypeError, match="tuple of options"):
        cp.RawModule(code="", options=["-DX"])
    with pytest.raises(cupy.cuda.compiler.CompileException, match="undefined"):
        cp.RawModule(code="__global__ void f() { missing(); }").get_function("f")
    with pytest.raises(CUDADriverError, match="NOT_FOUND"):
        cp.RawModule(code=source).get_function("other")


def test_options_and_cupys_own_reach_the_compiler(cp, nvrtc, source):
    module = cp.RawModule(code=source.replace("factor;", "FACTOR;"), options=("-DFACTOR=3.0f",))
    x = cp.asarray(X)
    module.get_function("scale")((2,), (64,), (x, *ARGUMENTS))
    np.testing.assert_array_equal(x.get(), 3 * X)
    tiny = cp.asarray(np.full(100, 1e-40, np.float32))
    module.get_function("scale")((2,), (64,), (tiny, *ARGUMENTS))
    assert not tiny.get().any()  # -ftz=true


# --- machine code ------------------------------------------------------------------------------


def test_machine_code_is_run_by_the_ptx_of_the_same_source(cp, cubin, doubled):
    assert cubin.read_bytes()[:4] == b"\x7fELF"
    np.testing.assert_array_equal(doubled(cp, cubin), 2 * X)


def test_ptx_is_run_as_it_is(cp, tmp_path, doubled, compile_to):
    path = compile_to(cp.cuda.nvrtc, tmp_path / "scale.ptx", "-arch=compute_90")
    assert ".target sm_90" in path.read_text()
    np.testing.assert_array_equal(doubled(cp, path), 2 * X)


def test_a_damaged_file_is_refused(cp, cubin, tmp_path, doubled):
    data = bytearray(cubin.read_bytes())
    data[len(data) // 2] ^= 1
    cubin.write_bytes(data)
    with pytest.raises(CUDADriverError, match="INVALID_IMAGE"):
        doubled(cp, cubin)
    with pytest.raises(CUDADriverError, match="FILE_NOT_FOUND"):
        doubled(cp, tmp_path / "other.cubin")


def test_machine_code_runs_on_newer_devices_of_its_series_only(make, cubin, doubled):
    for sm, fits in ((90, True), (91, True), (89, False), (100, False)):
        if fits:
            np.testing.assert_array_equal(doubled(make(sm=sm), cubin), 2 * X)
        else:
            with pytest.raises(CUDADriverError, match="NO_BINARY_FOR_GPU"):
                doubled(make(sm=sm), cubin)


def test_another_process_runs_the_same_file(cubin, ptx_folder):
    code = f"""
        import numpy as np
        from pathlib import Path
        from nnkernels.testing import simulated
        cp = simulated.cupy(folder=Path({str(ptx_folder)!r}))
        x = cp.asarray(np.ones(100, np.float32))
        module = cp.RawModule(path={str(cubin)!r})
        module.get_function("scale")((2,), (64,), (x, np.float32(2), np.uint32(100)))
        print(x.get().sum())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "200.0\n"


def test_the_users_cache_keeps_the_ptx_by_default(tmp_path, monkeypatch, doubled, compile_to):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cp = simulated.cupy()
    path = compile_to(cp.cuda.nvrtc, tmp_path / "scale.cubin", "-arch=sm_80")
    assert list((tmp_path / "nnkernels" / "simulated").glob("*.sm_80.ptx"))
    with pytest.raises(CUDADriverError, match="NO_BINARY"):
        doubled(cp, path)


def test_nvrtc_is_the_real_one(cp, nvrtc):
    import cupy

    ours, real = cp.cuda.nvrtc, cupy.cuda.nvrtc
    assert ours.getVersion() == real.getVersion()
    assert ours.getSupportedArchs() == real.getSupportedArchs()
    program = ours.createProgram("wrong", "wrong.cu", (), ())
    with pytest.raises(ours.NVRTCError):
        ours.compileProgram(program, ("-arch=sm_90",))
    assert "wrong.cu(1): error" in ours.getProgramLog(program)
    ours.destroyProgram(program)
