"""Rung 3: the kernels' source on the host, under AddressSanitizer and UBSan, in several orders."""

from __future__ import annotations

import pytest
from ladder import cases, shim
from ladder.needs import require_host_compiler

from nnkernels.backends.cupy import sources

pytestmark = pytest.mark.slow

QUICK_SEEDS = (1,)
SLOW_SEEDS = (0, 2, 3, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    require_host_compiler()
    return tmp_path_factory.mktemp("shim")


@pytest.mark.parametrize("seeds", [QUICK_SEEDS, pytest.param(SLOW_SEEDS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("storage", sources.STORAGES)
@pytest.mark.parametrize("module", sources.module_names())
def test_every_kernel_is_right_in_every_order(module, storage, seeds, folder):
    if storage != "float32" and seeds == QUICK_SEEDS:
        chosen = cases.few_of_module(module, storage)
    else:
        chosen = cases.of_module(module, storage, far=True)
    libraries = {
        name: shim.build(sources.amalgamated(name), name, storage, folder)
        for name in cases.modules_of(chosen, storage)
    }
    assert not shim.run_cases(libraries, storage, chosen, seeds)
