"""Fixtures of several test modules."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from nnkernels import plugins
from nnkernels.dispatch import choice

# What pytest-xdist tells its workers about themselves is nothing that tests start.
for name in ("COLUMNS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
    os.environ.pop(name, None)
# A shell that starts pytest in the background, or nohup, has it ignore what some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

PACKAGES = Path(__file__).parent / "plugins" / "packages"

Install = Callable[..., Path]


def write_distribution(folder: Path, name: str, entries: Mapping[str, str]) -> None:
    """What pip leaves of a distribution with these backends, and their modules."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{backend} = {target}" for backend, target in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{plugins.GROUP}]", *lines, ""]))
    for target in entries.values():
        module = target.partition(":")[0]
        (folder / f"{module}.py").write_text((PACKAGES / f"{module}.py").read_text())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("dist-name", backend="module:function")``: a plug-in for this test alone."""
    before = set(sys.modules)
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    monkeypatch.setattr(plugins, "_failed", {})
    choice.named.cache_clear()

    def add(name: str, **entries: str) -> Path:
        write_distribution(folder, name, entries)
        return folder

    yield add
    choice.named.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("nnk_"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def planting() -> ModuleType:
    """``planting.py``: source trees and repositories with planted faults."""
    path = Path(__file__).with_name("planting.py")
    spec = importlib.util.spec_from_file_location("planting", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nvrtc_works() -> bool:
    try:
        from cupy.cuda import nvrtc

        return bool(nvrtc.getVersion())
    except (ImportError, RuntimeError, OSError):
        return False


@pytest.fixture(scope="session")
def needs_nvrtc() -> None:
    """The simulated GPU compiles by the real NVRTC; where the ladder is asked for it is there."""
    if not nvrtc_works():
        assert os.environ.get("NNKERNELS_LADDER") != "1", "NNKERNELS_LADDER=1, but no NVRTC"
        pytest.skip("no NVRTC: install nnkernels[ladder]")


@pytest.fixture(scope="session")
def mnist_folder() -> str:
    """The folder of MNIST's IDX files; of the session, for tests may clear the variable."""
    default = Path(__file__).parents[2] / "shared" / "datasets" / "mnist"
    folder = Path(os.environ.get("NNKERNELS_MNIST") or default)
    if not folder.is_dir():
        pytest.skip("no MNIST files: set NNKERNELS_MNIST to a folder of them")
    return str(folder)
