"""Rung 2: what the machine code of every kernel has, and has not."""

from __future__ import annotations

import pytest
from ladder import budgets
from ladder.compiling import compile_module, disassemble
from ladder.needs import require_disassembler, require_nvrtc

from nnkernels.backends.cupy import sources


@pytest.fixture(autouse=True)
def tools():
    require_nvrtc()
    require_disassembler()


@pytest.mark.parametrize("architecture", [75, 90, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.parametrize("storage", sources.STORAGES)
@pytest.mark.parametrize("module", sources.module_names())
def test_memory_is_moved_16_bytes_at_once_and_nothing_is_local(module, storage, architecture):
    sass = disassemble(compile_module(module, storage, architecture).cubin)
    signatures = sources.signatures(module)
    assert set(sass) == set(signatures)
    assert not list(budgets.sass_faults(sass, signatures))
