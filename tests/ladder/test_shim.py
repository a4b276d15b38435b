"""Rung 3: the kernels' source on the host, under AddressSanitizer and UBSan, in several orders."""

from __future__ import annotations

import itertools

import pytest
from ladder import cases, shim
from ladder.needs import require_host_compiler

from nnkernels.backends.cupy import sources

QUICK_MODULE = "rows"
"""Whose reductions and accesses of every storage type the others share."""

QUICK_SEEDS = (1,)
SLOW_SEEDS = (0, 2, 3, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    require_host_compiler()
    return tmp_path_factory.mktemp("shim")


def runs() -> list:
    """All of float32 in one order is quick, and of the other storage types a module."""
    found = []
    for module, storage in itertools.product(sources.module_names(), sources.STORAGES):
        quick = storage == "float32" or module == QUICK_MODULE
        marks = [] if quick else [pytest.mark.slow]
        found.append(pytest.param(module, storage, QUICK_SEEDS, marks=marks))
        found.append(pytest.param(module, storage, SLOW_SEEDS, marks=pytest.mark.slow))
    return found


@pytest.mark.parametrize(("module", "storage", "seeds"), runs())
def test_every_kernel_is_right_in_every_order(module, storage, seeds, folder):
    chosen = cases.of_module(module, storage, far=True)
    libraries = {
        name: shim.build(sources.amalgamated(name), name, storage, folder)
        for name in cases.modules_of(chosen, storage)
    }
    assert not shim.run_cases(libraries, storage, chosen, seeds)
