"""Every state that the probe knows, on namespaces and environments made up for it.

``tests/ladder/test_probe_states.py`` reaches some of them with the real CuPy.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import get_args

import pytest

from nnkernels.backends.cupy import probe as module
from nnkernels.backends.cupy.probe import Kind, probe


class CUDARuntimeError(RuntimeError):
    def __init__(self, status):
        self.status = status
        super().__init__(f"cudaError{status}: what it says")


def raising(error):
    def function(*arguments):
        raise error

    return function


class Cuda(SimpleNamespace):
    """``cupy.cuda``, whose ``cublas`` is imported when it is asked for."""

    @property
    def cublas(self):
        if self.cublas_error:
            raise self.cublas_error
        return object()


def namespace(
    version="14.2.0",
    driver=13000,
    runtime=13020,
    count=1,
    capability="90",
    name=b"NVIDIA H100",
    nvrtc=None,
    archs=(75, 80, 90),
    headers=None,
    cublas=None,
):
    """A namespace of CuPy on a machine where all is well, but for what is given.

    Exceptions are raised where the value would be given.
    """

    def given(value):
        return raising(value) if isinstance(value, Exception) else lambda *arguments: value

    return SimpleNamespace(
        __version__=version,
        _core=SimpleNamespace(
            core=SimpleNamespace(assemble_cupy_compiler_options=given(headers or ()))
        ),
        cuda=Cuda(
            Device=lambda index: SimpleNamespace(compute_capability=capability),
            nvrtc=SimpleNamespace(
                getVersion=given(nvrtc or (13, 0)), getSupportedArchs=given(archs)
            ),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                driverGetVersion=given(driver),
                runtimeGetVersion=given(runtime),
                getDeviceCount=given(count),
                getDeviceProperties=given({"name": name}),
            ),
            cublas_error=cublas,
        ),
    )


NO_LIBRARY = RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: not found\nsecond line")
NO_HEADERS = RuntimeError("Failed to find CUDA headers.")
NO_CUBLAS = ImportError("libcublas.so.13: cannot open shared object file")

STATES = [
    ("old-cupy", {"version": "13.6.0"}, "13.6.0 is older than 14.*cuda12"),
    ("no-driver", {"driver": 0}, "libcuda.so.1.*--gpus all"),
    ("old-driver", {"driver": 12080}, "CUDA 12.8.*needs 13.*580.*nnkernels.cuda12"),
    ("old-driver", {"driver": 11040, "runtime": 12090}, "CUDA 11.4.*needs 12.*525 or newer$"),
    ("driver-mismatch", {"count": CUDARuntimeError(803)}, "reboot"),
    ("driver-error", {"count": CUDARuntimeError(999)}, "cudaError999.*nvidia-smi"),
    ("no-device", {"count": CUDARuntimeError(100)}, "no GPU; see whether nvidia-smi"),
    ("no-device", {"count": 0}, "no GPU"),
    ("no-nvrtc", {"nvrtc": NO_LIBRARY}, r"NVRTC.*nnkernels\[cuda13\].*not found\)$"),
    ("no-headers", {"headers": NO_HEADERS}, "headers of CUDA.*cuda13.*Failed to find"),
    ("no-cublas", {"cublas": NO_CUBLAS, "runtime": 12090}, "cuBLAS.*cuda12.*libcublas"),
    ("gpu-too-old", {"capability": "70"}, "sm_70.*sm_75 and newer.*uninstall.*cuda12"),
    ("gpu-too-old", {"capability": "61"}, "sm_61.*another GPU"),
    (
        "gpu-too-old",
        {"capability": "60", "runtime": 12090, "archs": (50, 60, 70, 90)},
        "sm_60.*sm_70 and newer.*another GPU",
    ),
    ("broken", {"archs": KeyError("archs")}, "does not work: KeyError.*reinstall"),
    ("ok", {}, r"NVIDIA H100 \(sm_90\), driver for CUDA 13.0, NVRTC 13.0"),
    ("ok", {"capability": "70", "runtime": 12090, "archs": (50, 70)}, "sm_70"),
    ("ok", {"capability": "121", "name": "a newer GPU"}, "a newer GPU"),
]
"""Kind, what is different from a machine where all is well, and what the sentence says."""

ELSEWHERE = {"not-installed", "conflict", "tf32", "no-such-device"}
"""Kinds that have tests of their own below."""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "CUPY_TF32", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("kind", "different", "says"), STATES)
def test_a_state_is_named_with_its_remedy(kind, different, says):
    state = probe(namespace(**different))
    assert state.kind == kind
    assert re.search(says, state.sentence), state.sentence
    assert "\n" not in state.sentence


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_has_a_test(kind):
    assert kind in {kind for kind, _, _ in STATES} | ELSEWHERE


def test_the_first_thing_that_is_wrong_is_named():
    everything = {"count": 0, "nvrtc": NO_LIBRARY, "headers": NO_HEADERS, "cublas": NO_CUBLAS}
    order = []
    while True:
        state = probe(namespace(**everything))
        order.append(state.kind)
        if state.kind == "ok":
            break
        everything.pop(next(iter(everything)))
    assert order == ["no-device", "no-nvrtc", "no-headers", "no-cublas", "ok"]


def test_a_hidden_device_is_said_to_be_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    state = probe(namespace(count=0))
    assert state.kind == "no-device" and "CUDA_VISIBLE_DEVICES=''" in state.sentence


def test_a_device_number_out_of_range_is_named(monkeypatch):
    assert probe(namespace(count=2), index=1).kind == "ok"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    state = probe(namespace(count=2), index=2)
    assert state.kind == "no-such-device"
    assert "no device 2" in state.sentence and "CUDA_VISIBLE_DEVICES='0,1'" in state.sentence
    assert probe(namespace(), index=-1).kind == "no-such-device"


@pytest.mark.parametrize("name", ["CUPY_TF32", "NVIDIA_TF32_OVERRIDE"])
def test_an_environment_that_makes_float32_inexact_is_refused(name, monkeypatch):
    for value in ("1", "", "yes"):  # CuPy fails on what is no number
        monkeypatch.setenv(name, value)
        state = probe(namespace())
        assert state.kind == "tf32" and f"{name}={value!r}" in state.sentence
        assert "unset it" in state.sentence
    monkeypatch.setenv(name, "0")
    assert probe(namespace()).kind == "ok"


def test_headers_are_taken_for_present_where_cupy_does_not_tell():
    cp = namespace()
    del cp._core
    assert probe(cp).kind == "ok"


# --- what is installed -------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch) -> Callable[..., None]:
    """``installed("cupy-cuda12x", cupy=...)``: distributions, and what importing cupy gives."""

    def install(*names, cupy=None):
        monkeypatch.setattr(module, "is_installed", lambda name: name in names)
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: cupy)
        give = raising(cupy) if isinstance(cupy, Exception) else lambda name: cupy
        monkeypatch.setattr(module.importlib, "import_module", give)

    return install


def test_no_cupy_at_all(installed):
    installed()
    state = probe()
    assert state.kind == "not-installed"
    assert "pip install 'nnkernels[cuda13]' (driver 580 or newer)" in state.sentence
    assert "pip install 'nnkernels[cuda12]' (driver 525 or newer)" in state.sentence


def test_two_packages_that_overwrite_each_other(installed):
    installed("cupy-cuda12x", "cupy-cuda13x", cupy=namespace())
    state = probe()
    assert state.kind == "conflict"
    assert "pip uninstall cupy-cuda12x cupy-cuda13x, then pip install" in state.sentence


def test_a_cupy_that_cannot_be_imported(installed):
    installed("cupy-cuda12x", cupy=ImportError("libfoo.so: no such file\nand more"))
    state = probe()
    assert state.kind == "broken"
    assert "cupy-cuda12x cannot be imported: ImportError: libfoo.so: no such file" in state.sentence


def test_a_cupy_without_metadata_is_used(installed):
    installed(cupy=namespace())
    assert probe().kind == "ok"


def test_a_warning_of_cupys_import_is_not_shown(installed, monkeypatch):
    installed("cupy-cuda13x", cupy=namespace())

    def noisy(name):
        import warnings

        warnings.warn("two packages", UserWarning, stacklevel=1)
        return namespace()

    monkeypatch.setattr(module.importlib, "import_module", noisy)
    assert probe().kind == "ok"


def test_an_installed_distribution_is_found_by_its_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not module.is_installed("cupy-cuda11x")
    info = tmp_path / "cupy_cuda11x-14.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cupy-cuda11x\nVersion: 14.0\n")
    assert module.is_installed("cupy-cuda11x")
