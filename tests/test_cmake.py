"""The build for C++ and CUDA compilers, and that installing the package needs neither."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "nnkernels" / "csrc"
FITS = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.f; }\n'
WARNS = 'extern "C" __global__ void unused(float* x) { int never; x[threadIdx.x] *= 2.f; }\n'
SPILLS = """
extern "C" __global__ void __launch_bounds__(1024, 2) spills(float* x, int n) {
  float a[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) a[i] = x[i * n + threadIdx.x];
  for (int r = 0; r < n; ++r) {
#pragma unroll
    for (int i = 0; i < 64; ++i) a[i] = a[i] * a[(i + 7) % 64] + x[r];
  }
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i * n + threadIdx.x] = a[i];
}
"""

needs_cmake = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None, reason="no CMake or no compiler"
)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


def run(*command: object) -> subprocess.CompletedProcess[str]:
    arguments = [str(each) for each in command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=1200, check=False)


def configure(build: Path, **variables: object) -> str:
    """Configure into ``build``; what CMake said."""
    settings = [f"-D{name}={value}" for name, value in variables.items()]
    done = run("cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@needs_cmake
@pytest.mark.parametrize("sanitize", ["OFF", "ON"])
def test_the_shared_arithmetic_passes_its_test_on_the_cpu(tmp_path, sanitize):
    configure(tmp_path, NNK_SANITIZE=sanitize, CMAKE_CUDA_COMPILER="NOTFOUND")
    built = run("cmake", "--build", tmp_path, "--target", "arithmetic_test")
    assert built.returncode == 0, built.stdout + built.stderr
    tested = run("ctest", "--test-dir", tmp_path, "-R", "^arithmetic$", "--output-on-failure")
    assert tested.returncode == 0, tested.stdout
    assert "100% tests passed, 0 tests failed out of 1" in tested.stdout


@needs_cmake
def test_without_nvcc_the_fatbins_are_left_out(tmp_path):
    said = configure(tmp_path, CMAKE_CUDA_COMPILER="NOTFOUND")
    assert "No nvcc: the target fatbin is left out" in said
    assert "fatbin" not in run("cmake", "--build", tmp_path, "--target", "help").stdout


def planted(folder: Path, source: str) -> Path:
    """Sources with one module."""
    (folder / "device").mkdir(parents=True)
    (folder / "arithmetic").mkdir()
    (folder / "device" / "planted.cu").write_text(source)
    return folder


@needs_cmake
@needs_nvcc
@pytest.mark.parametrize(
    ("source", "complaint"), [(FITS, ""), (SPILLS, "are spilled"), (WARNS, "never referenced")]
)
def test_a_fatbin_is_made_of_clean_modules_only(tmp_path, source, complaint):
    csrc = planted(tmp_path / "csrc", source)
    configure(tmp_path / "build", NNK_CSRC=csrc, NNK_ARCHITECTURES="80;90")
    built = run("cmake", "--build", tmp_path / "build", "--target", "fatbin")
    assert (built.returncode != 0) == bool(complaint), built.stderr
    assert complaint in built.stdout + built.stderr
    made = sorted(path.name for path in (tmp_path / "build").glob("*.fatbin"))
    if not complaint:
        storages = ("bfloat16", "float16", "float32", "float64")
        assert made == [f"planted-{storage}.fatbin" for storage in storages]


@needs_cmake
@needs_nvcc
@pytest.mark.slow
def test_nvcc_compiles_every_module_without_a_warning(tmp_path):
    configure(tmp_path, NNK_ARCHITECTURES="90")
    built = run("cmake", "--build", tmp_path, "--parallel", "2", "--target", "fatbin")
    assert built.returncode == 0, built.stdout + built.stderr
    assert len(list(tmp_path.glob("*.fatbin"))) == 4 * len(list(CSRC.glob("device/*.cu")))


@needs_cmake
@pytest.mark.parametrize("preset", ["release", "asan-ubsan"])
def test_presets_are_there_for_configuring_building_and_testing(preset):
    done = run("cmake", "-S", ROOT, "--list-presets=all")
    assert done.stdout.count(f'"{preset}"') == 3, done.stdout + done.stderr


def test_the_wheel_holds_the_sources_and_needs_no_compiler(tmp_path):
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    pytest.importorskip("hatchling")
    done = run(*pip, "--quiet", "--wheel-dir", tmp_path, ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    sources = {path for path in CSRC.rglob("*") if path.is_file()}
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= packed
    assert not any(name.startswith("tests/") or name.endswith("CMakeLists.txt") for name in packed)
