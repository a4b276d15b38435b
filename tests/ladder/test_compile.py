"""Rung 1: every module compiles, for every storage type and architecture, within its budget."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ladder import budgets
from ladder.compiling import ARCHITECTURES, compile_module
from ladder.needs import require_host_compiler, require_nvrtc

from nnkernels.backends.cupy import sources

MODULES = sources.module_names()
QUICK_ARCHITECTURES = (75, 90)
"""Of the storage types other than float32 in the quick run."""

_DECLARED = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
)


def combinations() -> list:
    found = []
    for storage in sources.STORAGES:
        for architecture in ARCHITECTURES:
            slow = storage != "float32" and architecture not in QUICK_ARCHITECTURES
            marks = [pytest.mark.slow] if slow else []
            found.append(pytest.param(storage, architecture, marks=marks))
    return found


@pytest.fixture(autouse=True)
def nvrtc():
    require_nvrtc()


@pytest.mark.parametrize(("storage", "architecture"), combinations())
@pytest.mark.parametrize("module", MODULES)
def test_a_module_compiles_within_its_budget(module, storage, architecture):
    compiled = compile_module(module, storage, architecture)
    signatures = sources.signatures(module)
    assert set(compiled.resources) == set(signatures)
    faults = [
        *budgets.resource_faults(compiled),
        *budgets.fence_faults(compiled.entries),
        *budgets.parameter_faults(compiled.entries, signatures, storage),
    ]
    if storage != "float64":
        faults += budgets.double_faults(compiled.entries, signatures)
    assert not faults


def test_every_exception_for_float64_arithmetic_is_needed():
    entries = {}
    for module in MODULES:
        entries.update(compile_module(module, "float32", 90).entries)
    unneeded = [n for n in budgets.DOUBLE_ARITHMETIC if not budgets.double_arithmetic(entries[n])]
    assert not unneeded


def test_every_exception_for_registers_is_needed():
    for kernel in budgets.MORE_REGISTERS:
        (module,) = (m for m in MODULES if kernel in sources.signatures(m))
        most = max(
            compile_module(module, storage, architecture).resources[kernel].registers
            for storage in sources.STORAGES
            for architecture in ARCHITECTURES
        )
        assert most > budgets.REGISTERS, kernel


@pytest.mark.parametrize("module", MODULES)
def test_the_declarations_are_those_that_a_preprocessor_sees(module, tmp_path):
    require_host_compiler()
    path = tmp_path / f"{module}.cpp"
    path.write_text(sources.amalgamated(module))
    done = subprocess.run(
        ["g++", "-std=c++17", "-E", "-P", "-DNNK_STORAGE=1", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = {name: _types(parameters) for name, parameters in _DECLARED.findall(done.stdout)}
    read = {
        signature.name: [
            f"{'const ' if p.const else ''}{p.type}{'*' if p.pointer else ''} {p.name}"
            for p in signature.parameters
        ]
        for signature in sources.signatures(module).values()
    }
    assert seen == read


def _types(parameters: str) -> list[str]:
    text = parameters.replace("__restrict__", " ").replace("*", " * ")
    return [" ".join(part.split()).replace(" *", "*") for part in text.split(",")]


@pytest.mark.parametrize(
    "storage",
    [s if s == "float32" else pytest.param(s, marks=pytest.mark.slow) for s in sources.STORAGES],
)
@pytest.mark.parametrize("module", MODULES)
def test_nvcc_has_no_warning_either(module, storage, tmp_path: Path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: it is in no wheel; install the CUDA toolkit")
    source = tmp_path / f"{module}.cu"
    source.write_text(sources.amalgamated(module))
    command = [
        nvcc,
        "-cubin",
        "-arch=sm_90",
        "--Werror=all-warnings",
        "--ptxas-options=--warn-on-spills,--warn-on-local-memory-usage",
        *sources.options(storage),
        str(source),
    ]
    done = subprocess.run(
        [*command, "-o", str(source.with_suffix(".cubin"))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
