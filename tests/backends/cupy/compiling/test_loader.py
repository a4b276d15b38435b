from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.compiling.code_cache import CodeCache
from nnkernels.backends.cupy.compiling.loader import CubinLoader, PlainLoader
from nnkernels.errors import BackendError

pytestmark = pytest.mark.usefixtures("device_folder")


class Device:
    """One that can be the current one."""

    def __init__(self, cp, index, capability):
        self.cp, self.index, self.compute_capability = cp, index, capability

    def __enter__(self):
        self.before, self.cp.current = self.cp.current, self.index

    def __exit__(self, *exc):
        self.cp.current = self.before


class Namespace:
    """As much of CuPy as loading takes; keeps the modules that were made."""

    def __init__(self, nvrtc, capability="90"):
        self.current = 0
        self.cuda = SimpleNamespace(
            nvrtc=nvrtc, Device=lambda index: Device(self, index, capability)
        )
        self.made = []

    def RawModule(self, *, code=None, path=None, options=()):
        def get_function(name):
            return SimpleNamespace(name=name, module=module, device=self.current)

        module = SimpleNamespace(code=code, path=path, options=options, get_function=get_function)
        self.made.append(module)
        return module


@pytest.fixture
def cp(nvrtc):
    return Namespace(nvrtc)


def test_plain_hands_source_and_options_to_cupy_once_a_module(cp, nvrtc):
    loader = PlainLoader(cp)
    function = loader.function("scale", "float64", "scale")
    assert function is loader.function("scale", "float64", "scale")
    assert (len(cp.made), nvrtc.compiled) == (1, [])
    assert "scale(T* x" in function.module.code
    assert function.module.options == ("--std=c++17", "-ftz=true", "-DNNK_STORAGE=2")
    loader.function("scale", "float32", "scale")
    assert len(cp.made) == 2


def test_cubin_loads_the_file_that_was_compiled(cp, nvrtc, tmp_path):
    cache = CodeCache(tmp_path / "cache")
    loader = CubinLoader(cp, cache=cache)
    function = loader.function("scale", "float32", "scale")
    (compiled,) = nvrtc.compiled
    assert compiled[1] == ("--std=c++17", "-ftz=true", "-DNNK_STORAGE=1", "-arch=sm_90")
    assert function.module.path.endswith(".cubin")
    assert loader.digest("scale", "float32") in function.module.path
    again = CubinLoader(cp, cache=CodeCache(tmp_path / "cache"))
    assert again.function("scale", "float32", "scale").module.path == function.module.path
    assert len(nvrtc.compiled) == 1


@pytest.mark.parametrize("change", ["source", "version", "architecture", "flags"])
def test_what_changes_the_code_changes_the_file(
    cp, nvrtc, tmp_path, device_folder, monkeypatch, change
):
    cache = CodeCache(tmp_path / "cache")
    before = CubinLoader(cp, cache=cache).digest("scale", "float32")
    if change == "source":
        file = device_folder / "scale.cu"
        file.write_text(file.read_text().replace("i < n", "i + 0 < n"))
        sources.amalgamated.cache_clear()
    elif change == "flags":
        monkeypatch.setattr(sources, "FLAGS", ("--std=c++20", "-ftz=true"))
    elif change == "version":
        nvrtc.version = (13, 1)
    else:
        cp = Namespace(nvrtc, "80")
    CubinLoader(cp, cache=cache).digest("scale", "float32")
    assert len(nvrtc.compiled) == 2
    assert before in " ".join(path.name for path in cache.folder.iterdir())


def test_a_gpu_newer_than_the_compiler_gets_ptx_and_it_is_said(nvrtc, tmp_path):
    loader = CubinLoader(Namespace(nvrtc, "130"), cache=CodeCache(tmp_path / "cache"))
    assert loader.function("scale", "float32", "scale").module.path.endswith(".ptx")
    assert loader.describe() == ("compute_90 by NVRTC 13.0, compiled to machine code by the driver")
    known = CubinLoader(Namespace(nvrtc, "90"), cache=CodeCache(tmp_path / "cache"))
    assert known.describe() == "sm_90 by NVRTC 13.0"


def test_a_module_that_does_not_compile_raises_every_time(cp, tmp_path):
    loader = CubinLoader(cp, cache=CodeCache(tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(BackendError, match="'wrong' does not compile"):
            loader.function("wrong", "float32", "wrong")


def test_threads_compile_a_module_once(cp, nvrtc, tmp_path):
    loader = CubinLoader(cp, cache=CodeCache(tmp_path / "cache"))
    barrier, found = threading.Barrier(8), []

    def work():
        barrier.wait()
        found.append(loader.function("scale", "float32", "scale"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(nvrtc.compiled) == 1 and len(cp.made) == 1
    assert len({id(each) for each in found}) == 1


@pytest.mark.parametrize("loader", [PlainLoader, CubinLoader])
def test_modules_are_loaded_on_their_device(cp, loader, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert loader(cp, 1).function("scale", "float32", "scale").device == 1
    assert cp.current == 0
