"""The build for C++ and CUDA compilers, and installing: with a compiler, and without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
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


def run(
    *command: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it in ``cwd`` with these variables."""
    arguments = [str(each) for each in command]
    return subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def configure(build: Path, **variables: object) -> str:
    """Configure into ``build``; what CMake said."""
    settings = [f"-D{name}={value}" for name, value in variables.items()]
    done = run("cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@needs_cmake
@pytest.mark.parametrize("sanitize", ["", "address;undefined", "thread"])
def test_the_shared_arithmetic_passes_its_test_on_the_cpu(tmp_path, sanitize):
    configure(tmp_path, NNK_SANITIZE=sanitize, CMAKE_CUDA_COMPILER="NOTFOUND")
    built = run("cmake", "--build", tmp_path, "--target", "arithmetic_test")
    assert built.returncode == 0, built.stdout + built.stderr
    tested = run("ctest", "--test-dir", tmp_path, "-R", "^arithmetic$", "--output-on-failure")
    assert tested.returncode == 0, tested.stdout
    assert "100% tests passed, 0 tests failed out of 1" in tested.stdout


@needs_cmake
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sanitize", ["", "address;undefined", "thread"])
def test_the_kernels_and_the_loops_pass_their_tests(tmp_path, sanitize):
    """On every instruction set that runs here; and none defines another one's functions."""
    configure(tmp_path, NNK_SANITIZE=sanitize, CMAKE_CUDA_COMPILER="NOTFOUND")
    built = run("cmake", "--build", tmp_path, "--parallel", "2")
    assert built.returncode == 0, built.stdout + built.stderr
    tested = run("ctest", "--test-dir", tmp_path, "--output-on-failure")
    assert tested.returncode == 0, tested.stdout
    assert "100% tests passed, 0 tests failed out of 5" in tested.stdout


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
@pytest.mark.parametrize("preset", ["release", "asan-ubsan", "tsan"])
def test_presets_are_there_for_configuring_building_and_testing(preset):
    done = run("cmake", "-S", ROOT, "--list-presets=all")
    assert done.stdout.count(f'"{preset}"') == 3, done.stdout + done.stderr


# --- what is installed ---------------------------------------------------------------------------

NO_COMPILER = {"CXX": "/nowhere/c++"}
"""CMake looks for this compiler and no other."""

SUMMARY = """
import json, sys
sys.path.insert(0, sys.argv[1])
from nnkernels import plugins
from nnkernels.backends.native import library
print(json.dumps([str(library.find()), plugins.availability()["native"]]))
"""


@pytest.fixture(scope="module")
def backend() -> None:
    """What ``pip`` would bring as build requirements; builds use it without isolation."""
    pytest.importorskip("scikit_build_core")
    pytest.importorskip("hatchling")


def hook(name: str, source: Path, target: Path, **environment: str) -> subprocess.CompletedProcess:
    """Call a hook of the build backend as ``pip`` does, in ``source``."""
    code = f"import build_backend as b; print(b.{name}({str(target)!r}))"
    target.mkdir(exist_ok=True)
    path = str(source / "tools")
    return run(sys.executable, "-c", code, cwd=source, PYTHONPATH=path, **environment)


def built(name: str, source: Path, target: Path, **environment: str) -> Path:
    """The file that a hook makes."""
    done = hook(name, source, target, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.split()[-1]


def names(wheel: Path) -> set[str]:
    """Paths of what is in a wheel."""
    return set(zipfile.ZipFile(wheel).namelist())


def package() -> set[str]:
    """Paths of what the package has in the sources."""
    files = (path for path in (ROOT / "nnkernels").rglob("*") if path.is_file())
    kept = (path for path in files if path.suffix not in (".pyc", ".so"))
    return {path.relative_to(ROOT).as_posix() for path in kept}


def summary(wheel: Path, folder: Path) -> tuple[str, str | None]:
    """Where the package of a wheel finds the library, and why ``native`` does not work."""
    zipfile.ZipFile(wheel).extractall(folder)
    told = run(sys.executable, "-P", "-c", SUMMARY, folder, NNKERNELS_NATIVE_LIBRARY="")
    assert told.returncode == 0, told.stderr
    found, reason = json.loads(told.stdout)
    return found, reason


@pytest.fixture(scope="module")
def sdist(backend: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("build_sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as an sdist brings them."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def test_an_sdist_holds_all_that_a_wheel_and_its_tests_need(unpacked):
    held = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
    assert package() <= held
    for name in ("PKG-INFO", "CMakePresets.json", "tests/test_cmake.py", "tools/build_backend.py"):
        assert name in held
    assert not any(name.endswith((".so", ".pyc")) or name.startswith("build/") for name in held)


@needs_cmake
def test_without_a_compiler_the_wheel_is_pure_and_says_why(unpacked, tmp_path):
    wheel = built("build_wheel", unpacked, tmp_path, NNKERNELS_REQUIRE_NATIVE="", **NO_COMPILER)
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = names(wheel)
    assert {name for name in packed if ".dist-info/" not in name} == package()
    found, reason = summary(wheel, tmp_path / "installed")
    assert found == "None"
    assert reason is not None
    assert "its C++ library was not built, for want of a C++ compiler" in reason
    assert "NNKERNELS_REQUIRE_NATIVE=1 pip install" in reason


@needs_cmake
@pytest.mark.parametrize("name", ["build_wheel", "build_editable"])
def test_without_a_compiler_an_installation_that_requires_the_library_fails(
    name, unpacked, tmp_path
):
    done = hook(name, unpacked, tmp_path, NNKERNELS_REQUIRE_NATIVE="1", **NO_COMPILER)
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "NNKERNELS_REQUIRE_NATIVE is set, but the C++ library cannot be built" in told
    assert "/nowhere/c++" in told
    assert not list(tmp_path.iterdir())


@needs_cmake
def test_without_a_compiler_an_editable_installation_is_a_path(unpacked, tmp_path):
    environment = {"NNKERNELS_REQUIRE_NATIVE": "0", **NO_COMPILER}
    wheel = built("build_editable", unpacked, tmp_path, **environment)
    assert [name for name in names(wheel) if ".dist-info/" not in name] == ["_nnkernels.pth"]
    assert zipfile.ZipFile(wheel).read("_nnkernels.pth").decode().strip() == str(unpacked)


@needs_cmake
@pytest.mark.slow
def test_a_wheel_from_the_sdist_holds_the_library_and_is_for_every_python(unpacked, tmp_path):
    wheel = built("build_wheel", unpacked, tmp_path, NNKERNELS_REQUIRE_NATIVE="1")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("any.whl")
    library = "nnkernels/backends/native/nnkernels_native.so"
    assert {name for name in names(wheel) if ".dist-info/" not in name} == {*package(), library}
    with zipfile.ZipFile(wheel) as archive:
        assert archive.getinfo(library).file_size < 2 << 20
        assert b".symtab" not in archive.read(library)  # stripped
    found, reason = summary(wheel, tmp_path / "installed")
    assert found == str(tmp_path / "installed" / library)
    assert reason is None


@needs_cmake
@pytest.mark.slow
def test_an_editable_installation_builds_the_library_where_the_preset_does(unpacked, tmp_path):
    built("build_editable", unpacked, tmp_path, NNKERNELS_REQUIRE_NATIVE="1")
    made = unpacked / "build" / "release" / "nnkernels_native.so"
    assert made.is_file()
    told = run(sys.executable, "-P", "-c", SUMMARY, unpacked, NNKERNELS_NATIVE_LIBRARY="")
    assert json.loads(told.stdout) == [str(made), None]
    again = run("cmake", "--build", "--preset", "release", "--target", "native", cwd=unpacked)
    assert again.returncode == 0, again.stderr
    assert "Building" not in again.stdout
